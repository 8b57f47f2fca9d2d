//! Starting programs with a clean slate: of signals, of descriptors; and such as end with who started them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};

use crate::fds;

/// Makes the program start with no signal blocked, whatever the caller blocks.
///
/// The standard library hands the caller's mask on, and a program that finds SIGTERM blocked cannot be ended politely.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and makes one system call, which is safe there.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) }
}

/// Makes the kernel kill the program when the *thread* that starts it ends, for whatever reason, and keeps from it every
/// descriptor but 0, 1 and 2, those that the caller inherited without asking included.
///
/// Start it from a thread that lives as long as the program is wanted.
pub fn tie_to_caller(command: &mut Command) -> &mut Command {
    let caller = Pid::this();
    // SAFETY: the closure runs between fork and exec and makes three system calls, which are safe there.
    unsafe {
        command.pre_exec(move || {
            fds::close_at_exec(3)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // A caller that ended before the line above is not noticed by the kernel any more.
            if getppid() == caller {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        })
    }
}
