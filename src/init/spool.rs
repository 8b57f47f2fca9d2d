//! A service's last output in memory: two files below /run/log, each bounded, the older one replaced when full.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

const DIR: &str = "/run/log";
const FILE_MAX: usize = 256 * 1024;
/// A line longer than this is cut into several.
pub(crate) const LINE_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    file: Option<File>,
    written: usize,
}

impl Spool {
    pub(crate) fn new(name: &str) -> Spool {
        Spool::at(PathBuf::from(DIR).join(format!("{name}.log")))
    }

    fn at(path: PathBuf) -> Spool {
        Spool { path, file: None, written: 0 }
    }

    /// Appends a line. Losing log lines is better than stopping what is logged, so failures are not reported.
    pub(crate) fn append(&mut self, line: &str) {
        if self.written >= FILE_MAX {
            self.file = None;
            self.written = 0;
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        if self.file.is_none() {
            let _ = self.path.parent().map(fs::create_dir_all);
            self.file = OpenOptions::new().create(true).append(true).open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{line}");
            self.written += line.len() + 1;
        }
    }
}

/// Cuts a stream of bytes into lines; keeps at most one unfinished line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` completes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.rest.push(byte);
            }
            if byte == b'\n' || self.rest.len() >= LINE_MAX {
                lines.push(String::from_utf8_lossy(&self.rest).trim_end_matches('\r').to_owned());
                self.rest.clear();
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_kept_once() {
        let dir = std::env::temp_dir().join(format!("copepod-spool-{}", std::process::id()));
        let mut spool = Spool::at(dir.join("node.log"));
        let line = "x".repeat(1023);
        for _ in 0..600 {
            spool.append(&line);
        }
        let size =
            |name: &str| fs::metadata(dir.join(name)).map(|data| data.len()).unwrap_or_default();
        assert_eq!(size("node.log.1"), 256 * 1024);
        assert_eq!(size("node.log"), (600 - 512) * 1024);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn lines_are_cut_at_newlines_and_at_the_limit() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.push(b"o\n\n"), ["two", ""]);
        assert_eq!(lines.push(&[b'y'; LINE_MAX]).len(), 1);
        assert!(lines.push(b"z").is_empty());
    }
}
