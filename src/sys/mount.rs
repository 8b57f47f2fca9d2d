//! Mounts that `mount(2)` handles badly: overlays of many layers; and looking at what is mounted.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bytes an option string of `mount(2)` may have (one page, less the terminator).
const OPTIONS_MAX: usize = 4095;

const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;

/// Mounts an overlay at `target`: `lower` topmost first. Any number of layers the kernel takes (500) works: the layers are
/// given one by one where the kernel can (`fsconfig` with `lowerdir+`), else as one short option string if it fits.
pub fn overlay(target: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<()> {
    match overlay_by_fsconfig(target, lower, upper, work) {
        Ok(()) => Ok(()),
        Err(error) => match overlay_options(lower, upper, work) {
            Some(options) => mount(
                Some("overlay"),
                target,
                Some("overlay"),
                MsFlags::empty(),
                Some(options.as_c_str()),
            )
            .map_err(io::Error::from),
            None => Err(error),
        },
    }
}

fn overlay_by_fsconfig(
    target: &Path,
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
) -> io::Result<()> {
    let context = fsopen(c"overlay")?;
    let context = context.as_fd();
    set_string(context, c"source", b"overlay")?;
    for layer in lower {
        set_string(context, c"lowerdir+", layer.as_os_str().as_bytes())?;
    }
    set_string(context, c"upperdir", upper.as_os_str().as_bytes())?;
    set_string(context, c"workdir", work.as_os_str().as_bytes())?;
    fsconfig(context, FSCONFIG_CMD_CREATE, None, None)?;
    let mounted = fsmount(context)?;
    move_mount(mounted.as_fd(), target)
}

/// The option string, or none when it would not fit or a path needs escaping.
pub(crate) fn overlay_options(lower: &[PathBuf], upper: &Path, work: &Path) -> Option<CString> {
    let mut options = b"lowerdir=".to_vec();
    for (index, layer) in lower.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        options.extend_from_slice(layer.as_os_str().as_bytes());
    }
    for (name, path) in [("upperdir", upper), ("workdir", work)] {
        options.extend_from_slice(format!(",{name}=").as_bytes());
        options.extend_from_slice(path.as_os_str().as_bytes());
    }
    let awkward = lower
        .iter()
        .map(PathBuf::as_path)
        .chain([upper, work])
        .any(|path| path.as_os_str().as_bytes().iter().any(|byte| b":,\\".contains(byte)));
    if awkward || options.len() > OPTIONS_MAX { None } else { CString::new(options).ok() }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this new descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name is a terminated string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

fn set_string(context: BorrowedFd<'_>, key: &CStr, value: &[u8]) -> io::Result<()> {
    let value = CString::new(value).map_err(io::Error::other)?;
    fsconfig(context, FSCONFIG_SET_STRING, Some(key), Some(&value))
}

fn fsconfig(
    context: BorrowedFd<'_>,
    command: u32,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> io::Result<()> {
    let key = key.map_or(std::ptr::null(), CStr::as_ptr);
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both strings are null or terminated and outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn fsmount(context: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0u32) })
}

fn move_mount(from: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: both paths are terminated strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Detaches what is mounted at `path`; nothing there is fine.
pub fn detach(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Mount points at or below `root` in this mount namespace, deepest first: the order to unmount them in.
pub fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| point.starts_with(root))
        .collect();
    // Of several at one place the last is on top.
    points.reverse();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(points)
}

/// Undoes the octal escapes of the kernel's mount tables.
pub(crate) fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Size and free space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemSpace {
    /// Files take up multiples of this.
    pub block_bytes: u64,
    pub total_bytes: u64,
    /// Free for unprivileged users.
    pub available_bytes: u64,
    pub total_inodes: u64,
    pub free_inodes: u64,
}

/// Space of the file system that holds `path`.
// The widths of statvfs fields differ between our targets.
#[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
pub fn space(path: &Path) -> io::Result<FileSystemSpace> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let block = stat.fragment_size() as u64;
    Ok(FileSystemSpace {
        block_bytes: block,
        total_bytes: u64::from(stat.blocks()).saturating_mul(block),
        available_bytes: u64::from(stat.blocks_available()).saturating_mul(block),
        total_inodes: u64::from(stat.files()),
        free_inodes: u64::from(stat.files_available()),
    })
}
