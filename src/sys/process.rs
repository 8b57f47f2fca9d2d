//! Processes: a guarded fork, pidfds, subreaper, signals by descriptor.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid};

/// Exit code of a forked child that panicked.
pub const CHILD_PANICKED: i32 = 125;

/// Forks and runs `work` in the child, which ends with its result as exit code and keeps only the descriptors 0, 1, 2
/// and `keep`. Destructors of the parent's values never run in the child.
///
/// Refuses with `EDEADLK` when the process has more than one thread: the child of a threaded process could hang on a lock
/// that another thread held.
pub fn fork_child(keep: &[RawFd], work: impl FnOnce() -> i32) -> io::Result<Pid> {
    if thread_count()? != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: the process has one thread (checked above), so the child is an ordinary copy that may run any code.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(|| {
                prepare_child(keep).map_or(CHILD_PANICKED, |()| work())
            }))
            .unwrap_or(CHILD_PANICKED);
            // SAFETY: _exit ends the process at once, without running destructors or exit handlers.
            unsafe { libc::_exit(code) }
        }
    }
}

fn prepare_child(keep: &[RawFd]) -> io::Result<()> {
    crate::fds::close_all_but(keep)?;
    crate::privileges::default_signals()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Threads of this process.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Makes orphaned descendants children of this process instead of PID 1's.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// A descriptor that becomes readable when the process ends; it never means another process with the same number.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; the kernel checks the pid.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0u32) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; it is close-on-exec by definition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Signals the process behind a pidfd.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the siginfo pointer may be null, the other arguments are plain numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
