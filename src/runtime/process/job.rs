//! Short-lived children: each does one thing that may block or alter its process, reports once, and ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::protocol::{Failure, FailureKind, Stats};

/// The longest report; messages are cut to fit.
const REPORT_MAX: usize = 64 << 10;
const MESSAGE_MAX: usize = 8 << 10;

/// What a child reports.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done,
    /// A process was made; with a terminal its master comes along.
    Process {
        pid: i32,
    },
    Stats(Stats),
    Failed(Failure),
}

/// What a child hands back: its outcome and perhaps a descriptor.
pub(super) type Product = Result<(Outcome, Option<OwnedFd>), Failure>;

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    report: OwnedFd,
}

pub(super) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    let mut message = message.into();
    if message.len() > MESSAGE_MAX {
        let end =
            (0..=MESSAGE_MAX).rev().find(|index| message.is_char_boundary(*index)).unwrap_or(0);
        message.truncate(end);
    }
    Failure { kind, message }
}

pub(super) fn internal(message: impl Into<String>) -> Failure {
    failure(FailureKind::Internal, message)
}

/// An error with all its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Child {
    /// Forks; the child keeps only `keep` of our descriptors. What `work` owns is dropped here, used there.
    pub(super) fn start(keep: &[RawFd], work: impl FnOnce() -> Product) -> io::Result<Child> {
        let (report, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let mut kept = keep.to_vec();
        kept.push(theirs.as_raw_fd());
        let pid = sys::process::fork_child(&kept, || {
            // Half done and without anyone to report to, it would only be in the way of a new runtime process.
            if nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL)).is_err() {
                return 1;
            }
            // libcontainer traces into whatever is stderr, which in a container is the container's log.
            let silent = tracing::subscriber::NoSubscriber::default();
            let (outcome, fd) = tracing::subscriber::with_default(silent, work)
                .unwrap_or_else(|failure| (Outcome::Failed(failure), None));
            i32::from(tell(theirs.as_fd(), &outcome, fd.as_ref()).is_err())
        })?;
        Ok(Child { pid, report })
    }

    /// What the child reported; to be asked after its end.
    pub(super) fn report(&self) -> Product {
        let died = || internal("the child process ended without a report");
        sys::fds::set_nonblocking(self.report.as_fd(), true).map_err(|_| died())?;
        let mut buffer = vec![0; REPORT_MAX];
        let (length, fds) =
            sys::fds::receive(self.report.as_fd(), &mut buffer).map_err(|_| died())?;
        let outcome =
            serde_json::from_slice(buffer.get(..length).unwrap_or_default()).map_err(|_| died())?;
        match outcome {
            Outcome::Failed(failure) => Err(failure),
            outcome => Ok((outcome, fds.into_iter().next())),
        }
    }
}

fn tell(socket: BorrowedFd<'_>, outcome: &Outcome, fd: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(outcome)?;
    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(|fd| fd.as_fd()).collect();
    sys::fds::send(socket, &bytes, &fds)?;
    Ok(())
}
