//! A container's log in the CRI format: `<time> <stream> <F|P> <text>`, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// The longest piece of a line; a longer line is written in pieces marked P, the one with its end F.
pub(super) const LINE_MAX: usize = 16 << 10;

/// Bytes of a line besides its text: time, stream, tag, spaces and the end.
const LINE_HEAD: u64 = 41;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// Writes one container's log. A write that fails (full disk) loses those lines and is tried again with the next.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    max_bytes: u64,
    max_files: u32,
    file: Option<File>,
    size: u64,
    /// What of the current line has come, for each stream.
    unfinished: [Vec<u8>; 2],
    failing: bool,
    /// The time in the name of the last rotated file, and how many had it before.
    rotated_at: Option<Timestamp>,
    same_instant: u32,
}

impl Log {
    /// Opens (appending) the log; its directory is made if missing.
    pub(super) fn open(path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Log> {
        let mut log = Log { path: path.to_owned(), max_bytes, max_files, ..Log::nowhere() };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        log.reopen()?;
        Ok(log)
    }

    /// For containers whose output nobody wants.
    pub(super) fn nowhere() -> Log {
        Log {
            path: PathBuf::new(),
            max_bytes: 0,
            max_files: 0,
            file: None,
            size: 0,
            unfinished: [Vec::new(), Vec::new()],
            failing: false,
            rotated_at: None,
            same_instant: 0,
        }
    }

    /// Opens the path anew, after the file was moved away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes output as it comes; only whole lines, or pieces of the greatest length, are written.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let slot = stream as usize;
        let mut unfinished = self.unfinished.get_mut(slot).map(std::mem::take).unwrap_or_default();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            unfinished.extend_from_slice(text);
            while unfinished.len() > LINE_MAX {
                let rest = unfinished.split_off(LINE_MAX);
                self.add(&mut out, 'P', stream, &unfinished, now);
                unfinished = rest;
            }
            if ended {
                self.add(&mut out, 'F', stream, &unfinished, now);
                unfinished.clear();
            }
        }
        if unfinished.is_empty() {
            // A quiet container holds no buffer.
            unfinished = Vec::new();
        }
        if let Some(kept) = self.unfinished.get_mut(slot) {
            *kept = unfinished;
        }
        self.append(&out, now);
    }

    /// Writes what is left of a last line without an end, as a piece: readers must not end it either.
    pub(super) fn finish(&mut self, stream: Stream, now: Timestamp) {
        let rest = self.unfinished.get_mut(stream as usize).map(std::mem::take).unwrap_or_default();
        if !rest.is_empty() && !self.path.as_os_str().is_empty() {
            let mut out = Vec::new();
            line(&mut out, stream, 'P', &rest, now);
            self.append(&out, now);
        }
    }

    /// Adds a line to what is going to be written; writes before the file would become too large.
    fn add(&mut self, out: &mut Vec<u8>, tag: char, stream: Stream, text: &[u8], now: Timestamp) {
        let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let total = self
            .size
            .saturating_add(length(out))
            .saturating_add(length(text))
            .saturating_add(LINE_HEAD);
        if self.max_bytes > 0 && total > self.max_bytes && !out.is_empty() {
            self.append(out, now);
            out.clear();
        }
        line(out, stream, tag, text, now);
    }

    fn append(&mut self, bytes: &[u8], now: Timestamp) {
        if bytes.is_empty() {
            return;
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = self.make_room(length, now).and_then(|()| match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        });
        match written {
            Ok(()) => {
                self.size = self.size.saturating_add(length);
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(path = %self.path.display(), %error, "cannot write container log");
                }
                self.failing = true;
                // Perhaps the file or its directory was replaced.
                self.file = None;
            }
        }
    }

    fn make_room(&mut self, length: u64, now: Timestamp) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.max_bytes > 0 && self.size > 0 && self.size.saturating_add(length) > self.max_bytes
        {
            self.rotate(now)?;
        }
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let stamp = now.to_string();
        let digits: String = stamp.chars().take(19).filter(|c| *c != '-' && *c != ':').collect();
        let stamp = format!("{}-{:09}", digits.replace('T', "-"), now.subsec_nanosecond());
        // Several in one batch of output have the same time; a longer name sorts behind its beginning.
        self.same_instant = if self.rotated_at == Some(now) { self.same_instant + 1 } else { 0 };
        self.rotated_at = Some(now);
        let mut name = self.path.clone().into_os_string();
        name.push(match self.same_instant {
            0 => format!(".{stamp}"),
            number => format!(".{stamp}-{number:06}"),
        });
        fs::rename(&self.path, PathBuf::from(name))?;
        self.file = None;
        self.reopen()?;
        self.prune()
    }

    /// Removes the oldest rotated files above the number kept.
    fn prune(&self) -> io::Result<()> {
        let mut old = rotated(&self.path)?;
        let keep = usize::try_from(self.max_files.max(2) - 1).unwrap_or(1);
        let excess = old.len().saturating_sub(keep);
        for path in old.drain(..excess) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// The rotated files of a log, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy()
                .strip_prefix(&prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

fn line(out: &mut Vec<u8>, stream: Stream, tag: char, text: &[u8], now: Timestamp) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{now:.9} {} {tag} ", stream.name());
    out.extend_from_slice(text);
    out.push(b'\n');
}
