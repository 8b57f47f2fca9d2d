//! Tries work on hostile bytes in a child first: a panic in PID 1 would be the end of the machine.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::time::wait_for;

const LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(2);

/// Whether `work` comes to its end in a copy of this process; not, when there can be no copy.
pub(crate) fn survives(work: impl FnOnce()) -> bool {
    let child = sys::process::fork_child(&[], || {
        work();
        0
    });
    let Ok(child) = child else { return false };
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
