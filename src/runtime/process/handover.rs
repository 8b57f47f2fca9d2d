//! Replacing the program of this process without ending it: same pid, same children, same descriptors.
//!
//! The numbers of the descriptors go into a memory file whose own number is in the environment of the new program. All
//! else is in the records on disk. Clients are cut off and connect again.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::handover_variable;
use super::job::failure;
use super::server::{Origin, Server};
use super::sessions::Session;
use crate::protocol::{Failure, FailureKind, Reply};

/// An upgrade that waits until no child is at work.
#[derive(Debug)]
pub(super) struct Upgrade {
    exe: PathBuf,
    origin: Origin,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Handover {
    listener: RawFd,
    lock: RawFd,
    pub(super) next: u64,
    containers: BTreeMap<String, Numbers>,
    sessions: BTreeMap<u64, SessionNumbers>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Numbers {
    out: Option<RawFd>,
    err: Option<RawFd>,
    stdin: Option<RawFd>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionNumbers {
    container: String,
    pid: Option<i32>,
    master: Option<RawFd>,
    exit: Option<i32>,
}

/// A container's descriptors, taken over.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) out: Option<OwnedFd>,
    pub(super) err: Option<OwnedFd>,
    pub(super) stdin: Option<OwnedFd>,
}

/// Takes a number over; one that is not open is reported and missing.
fn take(number: Option<RawFd>) -> Option<OwnedFd> {
    let adopted = sys::fds::adopt(number?).and_then(|fd| {
        sys::fds::set_cloexec(fd.as_fd(), true)?;
        Ok(fd)
    });
    adopted
        .inspect_err(|error| tracing::error!(?number, %error, "a descriptor was not handed over"))
        .ok()
}

impl Handover {
    /// What a former program of this process left, if there was one.
    pub(super) fn receive() -> io::Result<Option<Handover>> {
        let Some(number) = std::env::var_os(handover_variable()) else { return Ok(None) };
        let number = number.to_str().and_then(|text| text.parse().ok());
        let file = take(number).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut text = Vec::new();
        File::from(file).read_to_end(&mut text)?;
        Ok(Some(serde_json::from_slice(&text)?))
    }

    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        take(Some(self.listener))
            .map(UnixListener::from)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The lock file, still locked: the lock belongs to the open file.
    pub(super) fn lock(&self) -> io::Result<File> {
        take(Some(self.lock)).map(File::from).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn take_streams(&mut self, id: &str) -> Option<Streams> {
        let numbers = self.containers.remove(id)?;
        Some(Streams { out: take(numbers.out), err: take(numbers.err), stdin: take(numbers.stdin) })
    }

    pub(super) fn sessions(self) -> impl Iterator<Item = (u64, Session)> {
        self.sessions.into_iter().map(|(number, session)| {
            let master = take(session.master);
            (number, Session::restored(session.container, session.pid, master, session.exit))
        })
    }
}

impl Server {
    pub(super) fn ask_upgrade(
        &mut self,
        origin: Origin,
        exe: Option<PathBuf>,
    ) -> Option<Result<Reply, Failure>> {
        if self.upgrade.is_some() {
            return Some(Err(failure(FailureKind::State, "an upgrade is on its way")));
        }
        match exe.map_or_else(std::env::current_exe, Ok) {
            Ok(exe) if exe.is_file() => {
                self.upgrade = Some(Upgrade { exe, origin });
                None
            }
            Ok(exe) => {
                Some(Err(failure(FailureKind::Invalid, format!("{} is no program", exe.display()))))
            }
            Err(error) => {
                Some(Err(failure(FailureKind::Internal, format!("find own program: {error}"))))
            }
        }
    }

    /// Replaces the program once no child is at work. Comes back only if that fails.
    pub(super) fn try_upgrade(&mut self) {
        if !self.jobs.is_empty() || self.upgrade.is_none() {
            return;
        }
        let Some(Upgrade { exe, origin }) = self.upgrade.take() else { return };
        tracing::info!(exe = %exe.display(), "runtime process re-executes itself");
        // Sent before, as there is no connection afterwards.
        self.reply(origin, Ok(Reply::Done), Vec::new());
        let Err(error) = self.execute(&exe);
        tracing::error!(%error, "upgrade failed; going on as before");
        self.seal();
    }

    fn execute(&self, exe: &std::path::Path) -> io::Result<std::convert::Infallible> {
        let handover = self.describe()?;
        let memory = sys::fds::memory_file("handover", &serde_json::to_vec(&handover)?)?;
        let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
        let args = std::env::args_os().map(|arg| c_string(&arg)).collect::<io::Result<Vec<_>>>()?;
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os().filter(|(name, _)| name != handover_variable()) {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            env.push(c_string(&entry)?);
        }
        let mut own = handover_variable().to_os_string();
        own.push(format!("={}", memory.into_raw_fd()));
        env.push(c_string(&own)?);
        Ok(nix::unistd::execve(c_string(exe.as_os_str())?.as_c_str(), &args, &env)?)
    }

    /// Makes what is handed over survive the exec, and lists it.
    fn describe(&self) -> io::Result<Handover> {
        let keep = |fd: BorrowedFd<'_>| -> io::Result<RawFd> {
            sys::fds::set_cloexec(fd, false)?;
            Ok(fd.as_raw_fd())
        };
        let mut handover = Handover {
            listener: keep(self.listener.as_fd())?,
            lock: keep(self.lock.as_fd())?,
            next: self.next,
            ..Handover::default()
        };
        for (id, entry) in &self.containers {
            let numbers = Numbers {
                out: entry.out.as_ref().map(|outlet| keep(outlet.fd.as_fd())).transpose()?,
                err: entry.err.as_ref().map(|outlet| keep(outlet.fd.as_fd())).transpose()?,
                stdin: entry.stdin.as_ref().map(|fd| keep(fd.as_fd())).transpose()?,
            };
            handover.containers.insert(id.clone(), numbers);
        }
        for (number, session) in &self.sessions {
            let numbers = SessionNumbers {
                container: session.container.clone(),
                pid: session.pid,
                master: session.master.as_ref().map(|fd| keep(fd.as_fd())).transpose()?,
                exit: session.exit,
            };
            handover.sessions.insert(*number, numbers);
        }
        Ok(handover)
    }

    /// Undoes [`Server::describe`] after a failed exec: no child of ours may inherit these by accident.
    fn seal(&self) {
        let mut all = vec![self.listener.as_fd(), self.lock.as_fd()];
        for entry in self.containers.values() {
            all.extend(entry.out.iter().chain(&entry.err).map(|outlet| outlet.fd.as_fd()));
            all.extend(entry.stdin.as_ref().map(AsFd::as_fd));
        }
        all.extend(
            self.sessions.values().filter_map(|session| session.master.as_ref()).map(AsFd::as_fd),
        );
        for fd in all {
            if let Err(error) = sys::fds::set_cloexec(fd, true) {
                tracing::error!(%error, "cannot seal a descriptor");
            }
        }
    }
}
