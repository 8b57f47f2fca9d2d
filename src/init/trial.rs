//! Tries work on hostile bytes in a child first: a panic in PID 1 would be the end of the machine.

use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::time::wait_for;

const LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(2);

/// Whether `work` comes to its end in a copy of this process; not, when there can be no copy.
pub(crate) fn survives(work: impl Fn()) -> bool {
    ends_well(|| {
        sys::process::fork_child(&[], || {
            work();
            0
        })
    })
}

/// Starts a child, again while that fails: a thread that has ended stands in its way until the kernel has forgotten it.
fn ends_well(start: impl Fn() -> io::Result<Pid>) -> bool {
    let Some(child) = wait_for(LIMIT, STEP, || start().ok()) else { return false };
    let ended = || match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) => None,
        status => Some(status),
    };
    let status = wait_for(LIMIT, STEP, ended);
    if status.is_none() {
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
    }
    matches!(status, Some(Ok(WaitStatus::Exited(_, 0))))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_a_clean_end_counts_and_a_late_start_does_not_matter() {
        for (script, failures, expected) in [
            ("exit 0", 0, true),
            ("exit 0", 3, true),
            ("exit 125", 0, false),
            ("kill $$", 1, false),
        ] {
            let left = Cell::new(failures);
            let start = || {
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    return Err(io::ErrorKind::Deadlock.into());
                }
                let child = Command::new("/bin/sh").args(["-c", script]).spawn()?;
                Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
            };
            assert_eq!((ends_well(start), left.get()), (expected, 0), "{script} {failures}");
        }
    }
}
