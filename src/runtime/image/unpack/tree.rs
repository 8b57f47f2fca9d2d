//! One layer's directory tree. Every path is resolved by the kernel below the root (`openat2`, `RESOLVE_BENEATH`), so
//! no entry reaches a file outside, whatever symbolic links the layer brings.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{self, FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{self, Gid, LinkatFlags, Uid, UnlinkatFlags};

/// Directories made because an entry lies in them, without an entry of their own.
const IMPLIED_DIRECTORY_MODE: u32 = 0o755;
const OPAQUE: &std::ffi::CStr = c"trusted.overlay.opaque";
/// `openat2` asks to be called again when a directory moved meanwhile.
const RESOLVE_TRIES: u32 = 16;
/// Later than any sensible time stamp, and fit for every file system.
const SECONDS_MAX: i64 = 1 << 33;

/// Owner, mode and times of an entry.
pub(super) struct Metadata {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
}

/// What kind of node `special` makes.
#[derive(Clone, Copy)]
pub(super) enum Special {
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
}

pub(super) struct Tree {
    root: OwnedFd,
    /// The directory used last, because entries of one directory follow each other.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(Self { root: nix::fcntl::open(root, flags, Mode::empty())?, last: None })
    }

    /// The directory `path` (relative, without dots), with missing parts made.
    fn directory_at(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            let directory = match self.resolve(path) {
                Ok(directory) => directory,
                Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_all(path)?,
                Err(error) => return Err(explain(error)),
            };
            self.last = Some((path.to_owned(), directory));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Opens an existing directory below the root.
    fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        for _ in 0..RESOLVE_TRIES {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::EAGAIN)
    }

    fn make_all(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut known = self.resolve(Path::new("")).map_err(explain)?;
        let mut prefix = PathBuf::new();
        for part in path {
            prefix.push(part);
            known = match self.resolve(&prefix) {
                Ok(directory) => directory,
                Err(Errno::ENOENT) => self.make_implied(&known, part, &prefix)?,
                Err(Errno::ENOTDIR) if is_whiteout(lookup(&known, part)?.as_ref()) => {
                    unistd::unlinkat(&known, part, UnlinkatFlags::NoRemoveDir)?;
                    let directory = self.make_implied(&known, part, &prefix)?;
                    set_opaque(&directory)?;
                    directory
                }
                Err(error) => return Err(explain(error)),
            };
        }
        Ok(known)
    }

    fn make_implied(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<OwnedFd> {
        stat::mkdirat(parent, name, Mode::from_bits_truncate(IMPLIED_DIRECTORY_MODE))?;
        chmod(parent, name, IMPLIED_DIRECTORY_MODE)?;
        self.resolve(path).map_err(explain)
    }

    /// Makes a directory, or keeps the one a former entry made.
    pub(super) fn directory(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let parent = self.directory_at(parent)?;
        let found = lookup(parent, name)?;
        if !is_directory(found.as_ref()) {
            if found.is_some() {
                unistd::unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            }
            stat::mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
            if is_whiteout(found.as_ref()) {
                set_opaque(&open_child(parent, name)?)?;
            }
        }
        chown(parent, name, metadata)?;
        chmod(parent, name, metadata.mode)?;
        Ok(())
    }

    /// The root directory's own entry.
    pub(super) fn root(&mut self, metadata: &Metadata) -> io::Result<()> {
        let root = reopen(&self.root)?;
        unistd::fchown(
            &root,
            Some(Uid::from_raw(metadata.uid)),
            Some(Gid::from_raw(metadata.gid)),
        )?;
        stat::fchmod(&root, Mode::from_bits_truncate(metadata.mode))?;
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        xattrs: &[(CString, &[u8])],
        data: &mut impl Read,
    ) -> io::Result<u64> {
        let (parent, name) = self.vacate(path)?;
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file =
            std::fs::File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
        let written = io::copy(data, &mut file)?;
        // Changing the owner clears set-user-id bits and capabilities, so mode and attributes follow it.
        unistd::fchown(
            &file,
            Some(Uid::from_raw(metadata.uid)),
            Some(Gid::from_raw(metadata.gid)),
        )?;
        stat::fchmod(&file, Mode::from_bits_truncate(metadata.mode))?;
        set_xattrs(&file, xattrs)?;
        let time = timespec(metadata.mtime);
        stat::futimens(&file, &time, &time)?;
        Ok(written)
    }

    pub(super) fn symlink(
        &mut self,
        path: &Path,
        target: &OsStr,
        metadata: &Metadata,
    ) -> io::Result<()> {
        let (parent, name) = self.vacate(path)?;
        unistd::symlinkat(target, parent, name)?;
        chown(parent, name, metadata)?;
        set_time(parent, name, metadata.mtime)
    }

    pub(super) fn hardlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        if path == target {
            return Err(io::Error::other("it is a hard link to itself"));
        }
        let (target_parent, target_name) = split(target)?;
        let source = self.resolve(target_parent).map_err(|error| describe_target(error, target))?;
        let found =
            lookup(&source, target_name)?.ok_or_else(|| describe_target(Errno::ENOENT, target))?;
        if is_directory(Some(&found)) || is_whiteout(Some(&found)) {
            return Err(io::Error::other(format!(
                "its hard link target {} is not a file",
                target.display()
            )));
        }
        let (parent, name) = self.vacate(path)?;
        unistd::linkat(&source, target_name, parent, name, LinkatFlags::empty())?;
        Ok(())
    }

    pub(super) fn special(
        &mut self,
        path: &Path,
        special: Special,
        metadata: &Metadata,
    ) -> io::Result<()> {
        let (parent, name) = self.vacate(path)?;
        let (kind, device) = match special {
            Special::Fifo => (SFlag::S_IFIFO, 0),
            Special::Char(major, minor) => {
                (SFlag::S_IFCHR, stat::makedev(major.into(), minor.into()))
            }
            Special::Block(major, minor) => {
                (SFlag::S_IFBLK, stat::makedev(major.into(), minor.into()))
            }
        };
        stat::mknodat(parent, name, kind, Mode::from_bits_truncate(0o600), device)?;
        chown(parent, name, metadata)?;
        chmod(parent, name, metadata.mode)?;
        set_time(parent, name, metadata.mtime)
    }

    /// Hides `path` of the layers below. What this layer itself has there stays: a directory becomes opaque.
    pub(super) fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let parent = self.directory_at(parent)?;
        match lookup(parent, name)? {
            None => {
                Ok(stat::mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), stat::makedev(0, 0))?)
            }
            found if is_directory(found.as_ref()) => set_opaque(&open_child(parent, name)?),
            Some(_) => Ok(()),
        }
    }

    /// Hides everything the layers below have in the directory `path`.
    pub(super) fn opaque(&mut self, path: &Path) -> io::Result<()> {
        set_opaque(self.directory_at(path)?)
    }

    /// Extended attributes of a directory.
    pub(super) fn directory_xattrs(
        &mut self,
        path: &Path,
        xattrs: &[(CString, &[u8])],
    ) -> io::Result<()> {
        if xattrs.is_empty() {
            return Ok(());
        }
        set_xattrs(&reopen(self.directory_at(path)?)?, xattrs)
    }

    /// Times of a directory, set after everything in it is there; one replaced meanwhile is left alone.
    pub(super) fn directory_time(&mut self, path: &Path, mtime: (i64, u32)) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let Ok(parent) = self.resolve(parent) else { return Ok(()) };
        if is_directory(lookup(&parent, name)?.as_ref()) {
            set_time(&parent, name, mtime)
        } else {
            Ok(())
        }
    }

    /// Writes everything to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(unistd::syncfs(&reopen(&self.root)?)?)
    }

    /// Makes room for a new non-directory: an earlier entry of that name goes.
    fn vacate<'a>(&mut self, path: &'a Path) -> io::Result<(&OwnedFd, &'a OsStr)> {
        let (parent_path, name) = split(path)?;
        let parent = self.directory_at(parent_path)?;
        match lookup(parent, name)? {
            None => {}
            found if is_directory(found.as_ref()) => {
                let through =
                    Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
                std::fs::remove_dir_all(through)?;
                // The directory kept open may have been inside.
                self.last = None;
            }
            Some(_) => unistd::unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?,
        }
        Ok((self.directory_at(parent_path)?, name))
    }
}

fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(io::Error::other("it has no name")),
    }
}

fn lookup(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<FileStat>> {
    match stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn is_directory(found: Option<&FileStat>) -> bool {
    found.is_some_and(|found| kind(found) == SFlag::S_IFDIR)
}

fn is_whiteout(found: Option<&FileStat>) -> bool {
    found.is_some_and(|found| kind(found) == SFlag::S_IFCHR && found.st_rdev == 0)
}

fn open_child(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Attributes cannot be set through `O_PATH` descriptors.
fn reopen(directory: &OwnedFd) -> io::Result<OwnedFd> {
    open_child(directory, OsStr::from_bytes(b"."))
}

fn set_opaque(directory: &OwnedFd) -> io::Result<()> {
    sys::xattr::set(reopen(directory)?, OPAQUE, b"y")
}

fn set_xattrs(fd: &impl std::os::fd::AsFd, xattrs: &[(CString, &[u8])]) -> io::Result<()> {
    for (name, value) in xattrs {
        match sys::xattr::set(fd.as_fd(), name, value) {
            // Some file systems have no user attributes; losing one is no reason to refuse an image.
            Err(error)
                if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32)
                    && name.as_bytes().starts_with(b"user.") => {}
            Err(error) => {
                return Err(io::Error::other(format!(
                    "setting attribute {}: {error}",
                    name.to_string_lossy()
                )));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

fn chown(parent: &OwnedFd, name: &OsStr, metadata: &Metadata) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    Ok(unistd::fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// Only for names just made that are no symbolic links.
fn chmod(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    Ok(stat::fchmodat(parent, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?)
}

fn set_time(parent: &OwnedFd, name: &OsStr, mtime: (i64, u32)) -> io::Result<()> {
    let time = timespec(mtime);
    Ok(stat::utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn timespec((seconds, nanos): (i64, u32)) -> TimeSpec {
    let seconds = u64::try_from(seconds.clamp(0, SECONDS_MAX)).unwrap_or(0);
    TimeSpec::from_duration(Duration::new(seconds, nanos))
}

fn explain(error: Errno) -> io::Error {
    match error {
        Errno::EXDEV => io::Error::other("its path leaves the layer through a symbolic link"),
        Errno::ELOOP => io::Error::other("its path has too many symbolic links"),
        Errno::ENOTDIR => io::Error::other("a part of its path is not a directory"),
        Errno::ENAMETOOLONG => io::Error::other("its name is too long"),
        Errno::ENOSYS => {
            io::Error::other("the kernel has no openat2 (Linux 5.6 or newer is needed)")
        }
        other => other.into(),
    }
}

fn describe_target(error: Errno, target: &Path) -> io::Error {
    match error {
        Errno::ENOENT | Errno::ENOTDIR => io::Error::other(format!(
            "its hard link target {} does not exist in the layer",
            target.display()
        )),
        Errno::EXDEV => {
            io::Error::other(format!("its hard link target {} leaves the layer", target.display()))
        }
        other => explain(other),
    }
}
