//! Starting programs with a clean slate of signals.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Makes the program start with no signal blocked, whatever the caller blocks.
///
/// The standard library hands the caller's mask on, and a program that finds SIGTERM blocked cannot be ended politely.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and makes one system call, which is safe there.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) }
}
