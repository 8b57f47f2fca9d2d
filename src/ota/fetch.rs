//! Reading parts of a bundle in the order of their offsets, over as few requests as that takes.

use std::io::{self, Read};
use std::ops::Range;

use crate::source::Source;

/// Bytes skipped at a time where a source has no ranges.
const SKIP_LEN: usize = 64 * 1024;

pub(crate) struct Fetcher<'a> {
    source: &'a dyn Source,
    /// Where the bundle's parts begin, and where the bundle ends.
    payload: Range<u64>,
    open: Option<Open>,
    fetched: u64,
}

struct Open {
    reader: Box<dyn Read + Send>,
    at: u64,
    end: u64,
}

impl<'a> Fetcher<'a> {
    pub(crate) fn new(source: &'a dyn Source, payload: Range<u64>) -> Fetcher<'a> {
        Fetcher { source, payload, open: None, fetched: 0 }
    }

    /// Bytes taken from the source so far.
    pub(crate) fn fetched(&self) -> u64 {
        self.fetched
    }

    /// The bytes of a range, counted from the first part.
    pub(crate) fn read(&mut self, range: Range<u64>) -> io::Result<Section<'_, 'a>> {
        let (start, end) = (self.payload.start + range.start, self.payload.start + range.end);
        let goes_on = self.open.as_ref().is_some_and(|open| open.at <= start && open.end >= end);
        if !goes_on {
            // Without ranges every request begins at the first byte, so there should be one only.
            let until = if self.source.has_ranges() { end } else { self.payload.end };
            let reader = self.source.read(start..until)?;
            self.open = Some(Open { reader, at: start, end: until });
        }
        let mut section = Section { fetcher: self, left: 0 };
        section.skip_to(start)?;
        section.left = end - start;
        Ok(section)
    }
}

/// A range that is being read.
pub(crate) struct Section<'f, 'a> {
    fetcher: &'f mut Fetcher<'a>,
    left: u64,
}

impl Section<'_, '_> {
    fn skip_to(&mut self, start: u64) -> io::Result<()> {
        let at = self.fetcher.open.as_ref().map_or(start, |open| open.at);
        self.left = start.saturating_sub(at);
        let mut buffer = [0; SKIP_LEN];
        while self.left > 0 {
            if self.read(&mut buffer)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Read for Section<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let (Some(open), Some(buffer)) = (&mut self.fetcher.open, buffer.get_mut(..limit)) else {
            return Ok(0);
        };
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = open.reader.read(buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        open.at += read as u64;
        self.left -= read as u64;
        self.fetcher.fetched += read as u64;
        Ok(read)
    }
}
