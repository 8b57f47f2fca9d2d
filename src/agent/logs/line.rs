//! One entry of a CRI log: `2026-11-22T10:00:00.123456789Z stdout F text`.

use jiff::Timestamp;

use super::{Options, Wanted};

/// A parsed entry. `partial` says that the line goes on in the next entry of the same stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) time: &'a str,
    pub(super) stream: &'a str,
    pub(super) partial: bool,
    pub(super) text: &'a [u8],
}

/// Takes one entry apart, its line feed already removed; `None` if it is damaged.
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = std::str::from_utf8(parts.next()?).ok()?;
    let text = parts.next().unwrap_or_default();
    let partial = match tags.split(':').next()? {
        "P" => true,
        "F" => false,
        _ => return None,
    };
    matches!(stream, "stdout" | "stderr").then_some(Entry { time, stream, partial, text })
}

/// Turns entries into what users read.
#[derive(Debug)]
pub(super) struct Renderer {
    timestamps: bool,
    since: Option<Timestamp>,
    stream: Wanted,
    left: Option<u64>,
    inside_line: bool,
}

impl Renderer {
    pub(super) fn new(options: &Options) -> Renderer {
        Renderer {
            timestamps: options.timestamps,
            since: options.since,
            stream: options.stream,
            left: options.limit_bytes,
            inside_line: false,
        }
    }

    /// No byte more may be given out.
    pub(super) fn full(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn render(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = parse(line) else { return };
        let wanted = match self.stream {
            Wanted::All => true,
            Wanted::Stdout => entry.stream == "stdout",
            Wanted::Stderr => entry.stream == "stderr",
        };
        let early = self
            .since
            .is_some_and(|since| entry.time.parse::<Timestamp>().is_ok_and(|at| at < since));
        if !wanted || early {
            return;
        }
        if self.timestamps && !self.inside_line {
            self.give(entry.time.as_bytes(), out);
            self.give(b" ", out);
        }
        self.give(entry.text, out);
        if !entry.partial {
            self.give(b"\n", out);
        }
        self.inside_line = entry.partial;
    }

    fn give(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(left) = &mut self.left else {
            out.extend_from_slice(bytes);
            return;
        };
        let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        out.extend_from_slice(&bytes[..taken]);
        *left -= taken as u64;
    }
}
