//! Where a bundle's bytes come from.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Something with bytes at positions.
pub trait Source: Send + Sync {
    /// Hands out the bytes of the range, in order; fewer when the source ends before. Connections that break are the
    /// source's to mend: an error is final.
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>>;

    /// All bytes, where that is known.
    fn length(&self) -> Option<u64>;

    /// Whether reading a range costs only that range; known after the first read.
    fn has_ranges(&self) -> bool;
}

/// A file of this machine.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    length: u64,
}

impl FileSource {
    pub fn open(path: &Path) -> io::Result<FileSource> {
        let length = open(path)?.metadata()?.len();
        Ok(FileSource { path: path.to_owned(), length })
    }
}

/// Opens a file, and nothing that could keep its reader waiting.
fn open(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no file"))
}

impl Source for FileSource {
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        let mut file = open(&self.path)?;
        file.seek(SeekFrom::Start(range.start))?;
        Ok(Box::new(file.take(range.end.saturating_sub(range.start))))
    }

    fn length(&self) -> Option<u64> {
        Some(self.length)
    }

    fn has_ranges(&self) -> bool {
        true
    }
}
