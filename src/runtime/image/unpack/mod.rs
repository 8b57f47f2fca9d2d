//! Turns a layer archive into a directory that overlayfs can use as a lower one. Archives are hostile until shown
//! otherwise: paths cannot leave the directory, sizes and counts are limited, and a refusal names the entry.

pub(super) mod decompress;
pub(super) mod tarstream;
mod tree;

use std::ffi::{CString, OsStr};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use self::decompress::Decoder;
use self::tarstream::{Entry, Kind, TarReader, show};
use self::tree::{Metadata, Special, Tree};
use super::digest::{Digest, Hasher};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE_DIRECTORY: &[u8] = b".wh..wh..opq";
/// The kernel's limit for one component of a path.
const NAME_BYTES_MAX: usize = 255;
/// Device numbers as Linux has them: 12 bits major, 20 bits minor.
const DEVICE_MAJOR_MAX: u32 = 0xfff;
const DEVICE_MINOR_MAX: u32 = 0xf_ffff;
/// Directories whose time stamps are restored; they are remembered until the end.
const DIRECTORY_TIMES_MAX: usize = 100_000;
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("entry {entry:?}: {reason}")]
    Entry { entry: String, reason: String },
    #[error("{reason}")]
    Stream { reason: String },
    #[error("more than {limit} entries")]
    Entries { limit: u64 },
    #[error("more than {limit} bytes when unpacked")]
    Bytes { limit: u64 },
    #[error("failed to write the layer: {source}")]
    Write { source: io::Error },
}

impl UnpackError {
    /// A failed read: the archive's fault, or a limit the reader enforces.
    fn read(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(limit) => limit,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Stream { reason: "archive is truncated".to_owned() }
            }
            Err(error) => Self::Stream { reason: error.to_string() },
        }
    }
}

/// What one layer may bring.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub entries: u64,
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 32 * 1024 * 1024 * 1024 }
    }
}

/// What was read while unpacking.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Digest and length of the stream as it came.
    pub(super) blob: Digest,
    pub(super) blob_bytes: u64,
    /// Digest of the plain tar archive.
    pub(super) diff_id: Digest,
}

/// Unpacks `source` into the existing, empty directory `target` and syncs it to disk.
pub(super) fn unpack(
    source: impl Read,
    target: &Path,
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    let mut raw = Tap::new(source, u64::MAX);
    let diff_id = {
        let decoder = Decoder::new(BufReader::with_capacity(READ_BUFFER_BYTES, &mut raw))
            .map_err(UnpackError::read)?;
        let mut plain = Tap::new(decoder, limits.bytes);
        let tree = Tree::open(target).map_err(|source| UnpackError::Write { source })?;
        Layer { tree, entries: 0, directory_times: Vec::new() }.fill(&mut plain, limits)?;
        plain.drain()?;
        plain.hasher.finish()
    };
    raw.drain()?;
    Ok(Unpacked { blob_bytes: raw.count, blob: raw.hasher.finish(), diff_id })
}

/// A reader that hashes and counts what passes.
struct Tap<R> {
    source: R,
    hasher: Hasher,
    count: u64,
    limit: u64,
}

impl<R: Read> Tap<R> {
    fn new(source: R, limit: u64) -> Self {
        Self { source, hasher: Hasher::new(), count: 0, limit }
    }

    /// Reads what follows the part that was of interest.
    fn drain(&mut self) -> Result<(), UnpackError> {
        io::copy(self, &mut io::sink()).map(drop).map_err(UnpackError::read)
    }
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if self.count > self.limit {
            return Err(io::Error::other(UnpackError::Bytes { limit: self.limit }));
        }
        Ok(count)
    }
}

struct Layer {
    tree: Tree,
    entries: u64,
    directory_times: Vec<(PathBuf, (i64, u32))>,
}

impl Layer {
    fn fill(mut self, plain: &mut impl Read, limits: Limits) -> Result<(), UnpackError> {
        let mut archive = TarReader::new(plain);
        while let Some(entry) = archive.next_entry()? {
            self.entries += 1;
            if self.entries > limits.entries {
                return Err(UnpackError::Entries { limit: limits.entries });
            }
            self.place(&entry, &mut archive)?;
        }
        for (path, mtime) in std::mem::take(&mut self.directory_times) {
            let entry = show(path.as_os_str().as_bytes());
            self.tree
                .directory_time(&path, mtime)
                .map_err(|error| UnpackError::Entry { entry, reason: error.to_string() })?;
        }
        self.tree.sync().map_err(|source| UnpackError::Write { source })
    }

    fn place(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), UnpackError> {
        let fail = |reason: String| UnpackError::Entry { entry: entry.name(), reason };
        let path = clean(&entry.path).map_err(|reason| fail(reason.to_owned()))?;
        let metadata = metadata(entry).map_err(|reason| fail(reason.to_owned()))?;
        let Some(name) = path.file_name().map(OsStr::as_bytes) else {
            return match entry.kind {
                Kind::Directory => {
                    self.tree.root(&metadata).map_err(|error| fail(error.to_string()))
                }
                _ => Err(fail("it would replace the root directory".to_owned())),
            };
        };
        let done = match name.strip_prefix(WHITEOUT) {
            Some(hidden) => self.hide(&path, name, hidden),
            None => self.make(&path, entry, &metadata, data),
        };
        done.map_err(|error| match error.downcast::<UnpackError>() {
            Ok(limit) => limit,
            Err(error) => fail(error.to_string()),
        })
    }

    /// A whiteout marker instead of a file.
    fn hide(&mut self, path: &Path, name: &[u8], hidden: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match hidden {
            _ if name == OPAQUE_DIRECTORY => self.tree.opaque(parent),
            _ if name.starts_with(WHITEOUT_META) => Ok(()),
            b"" | b"." | b".." => Err(io::Error::other("it is a whiteout without a name")),
            _ => self.tree.whiteout(&parent.join(OsStr::from_bytes(hidden))),
        }
    }

    fn make(
        &mut self,
        path: &Path,
        entry: &Entry,
        metadata: &Metadata,
        data: &mut impl Read,
    ) -> io::Result<()> {
        let xattrs = kept_xattrs(entry)?;
        match entry.kind {
            Kind::File => {
                let written = self.tree.file(path, metadata, &xattrs, data)?;
                if written == entry.size {
                    Ok(())
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                }
            }
            Kind::Directory => {
                self.tree.directory(path, metadata)?;
                self.tree.directory_xattrs(path, &xattrs)?;
                if self.directory_times.len() < DIRECTORY_TIMES_MAX {
                    self.directory_times.push((path.to_owned(), metadata.mtime));
                }
                Ok(())
            }
            Kind::Symlink if entry.link.is_empty() => {
                Err(io::Error::other("it is a symbolic link without a target"))
            }
            Kind::Symlink => self.tree.symlink(path, OsStr::from_bytes(&entry.link), metadata),
            Kind::Hardlink => {
                let target = clean(&entry.link).map_err(|reason| {
                    io::Error::other(format!("hard link target {:?}: {reason}", show(&entry.link)))
                })?;
                self.tree.hardlink(path, &target)
            }
            Kind::Fifo => self.tree.special(path, Special::Fifo, metadata),
            Kind::CharDevice | Kind::BlockDevice => {
                self.tree.special(path, device(path, entry)?, metadata)
            }
        }
    }
}

/// A path of an archive as a relative one. Leading slashes and single dots go, two dots are refused.
fn clean(path: &[u8]) -> Result<PathBuf, &'static str> {
    let mut clean = PathBuf::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path contains \"..\""),
            part if part.len() > NAME_BYTES_MAX => {
                return Err("a part of its path is longer than 255 bytes");
            }
            part => clean.push(OsStr::from_bytes(part)),
        }
    }
    Ok(clean)
}

fn metadata(entry: &Entry) -> Result<Metadata, &'static str> {
    let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
    Ok(Metadata {
        mode: entry.mode & 0o7777,
        uid: id(entry.uid).ok_or("its user id is out of range")?,
        gid: id(entry.gid).ok_or("its group id is out of range")?,
        mtime: entry.mtime,
    })
}

/// Device nodes are made only below `dev/`, which every container covers with its own.
fn device(path: &Path, entry: &Entry) -> io::Result<Special> {
    let (major, minor) = entry.device;
    if !path.starts_with("dev") {
        return Err(io::Error::other("it is a device node outside of dev/"));
    }
    if major > DEVICE_MAJOR_MAX || minor > DEVICE_MINOR_MAX {
        return Err(io::Error::other(format!("its device number {major}:{minor} is out of range")));
    }
    match entry.kind {
        Kind::BlockDevice => Ok(Special::Block(major, minor)),
        _ if (major, minor) == (0, 0) => {
            Err(io::Error::other("device 0:0 is reserved for hidden files"))
        }
        _ => Ok(Special::Char(major, minor)),
    }
}

/// File capabilities and user attributes are kept, labels of other security systems are not; attributes that steer
/// overlayfs are refused.
fn kept_xattrs(entry: &Entry) -> io::Result<Vec<(CString, &[u8])>> {
    let mut kept = Vec::new();
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            return Err(io::Error::other(format!(
                "attribute {} would change how the layer is mounted",
                show(name)
            )));
        }
        if name.as_slice() != b"security.capability" && !name.starts_with(b"user.") {
            continue;
        }
        if value.len() > sys::xattr::VALUE_BYTES_MAX || name.len() > NAME_BYTES_MAX {
            return Err(io::Error::other(format!("attribute {} is too long", show(name))));
        }
        kept.push((CString::new(name.as_slice()).map_err(io::Error::other)?, value.as_slice()));
    }
    Ok(kept)
}
