//! Reading containers' logs: the CRI format, rotated files, tails, and following a log that is still being written.

mod follow;
mod line;
mod read;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub(crate) use follow::stream;
pub(crate) use read::tail_text;

/// Which part of a log is wanted, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) stream: Wanted,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// The files of a log, oldest first, the one being written last.
pub(crate) fn files(log: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str()))
    else {
        return Vec::new();
    };
    let rotated = |entry: &fs::DirEntry| -> bool {
        let file = entry.file_name();
        let rest =
            file.to_str().and_then(|f| f.strip_prefix(name)).and_then(|f| f.strip_prefix('.'));
        rest.is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.filter(rotated).map(|e| e.path()).collect();
    found.sort();
    if log.exists() {
        found.push(log.to_owned());
    }
    found
}
