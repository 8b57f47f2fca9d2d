//! Namespaces: making, pinning, entering.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};

/// Keeps a namespace of the calling thread alive under a path: an empty file with the namespace bound over it.
///
/// `kind` is a name of `/proc/self/ns`, for example `net`.
pub fn pin(kind: &str, path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let source = format!("/proc/thread-self/ns/{kind}");
    mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(
        |error| {
            // The pin has failed; an empty file must not look like one.
            let _ = fs::remove_file(path);
            io::Error::from(error)
        },
    )
}

/// Undoes [`pin`]. A pin that is not there is fine.
pub fn unpin(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the path is a pinned namespace (and not only the empty file a reboot leaves).
pub fn is_pinned(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Runs `work` in the network namespace at `path`, on a thread of its own that ends afterwards, so that no other code can
/// find itself in a foreign namespace.
pub fn run_in_netns<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    thread::scope(|scope| {
        let handle =
            thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
        handle.join().unwrap_or_else(|_| {
            Err(io::Error::other("the thread in the network namespace panicked"))
        })
    })
}

/// Sets the loopback interface of the calling thread's network namespace up.
pub fn loopback_up() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid: it is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives on our stack for the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
