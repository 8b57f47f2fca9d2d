//! Finding again what an ended runtime process left: records, running containers, namespaces.

use std::io;
use std::os::fd::AsFd;

use nix::unistd::Pid;

use super::containers::Entry;
use super::handover::{Handover, Streams};
use super::log::{Log, Stream};
use super::record::{ContainerRecord, SandboxRecord};
use super::server::{Ending, Server, Source};
use super::work;
use crate::protocol::State;

impl Server {
    /// Reads the records. With a handover, processes are our children still and their descriptors are there.
    pub(super) fn recover(&mut self, handover: Option<Handover>) -> io::Result<()> {
        let (sandboxes, broken) = self.layout.load_sandboxes()?;
        for id in broken {
            remove_left(&self.layout.sandbox(&id));
        }
        let ours = handover.is_some();
        for record in sandboxes {
            self.recover_sandbox(record, ours);
        }
        let (containers, broken) = self.layout.load_containers()?;
        for id in broken {
            remove_left(&self.layout.container(&id));
        }
        let mut handover = handover.unwrap_or_default();
        self.next = self.next.max(handover.next);
        for record in containers {
            let streams = handover.take_streams(&record.spec.id);
            self.recover_container(record, ours, streams);
        }
        for (number, session) in handover.sessions() {
            self.sessions.insert(number, session);
        }
        Ok(())
    }

    fn recover_sandbox(&mut self, mut record: SandboxRecord, ours: bool) {
        let id = record.sandbox.id.clone();
        let pinned =
            record.pinned.iter().all(|kind| sys::namespace::is_pinned(&self.layout.pin(&id, kind)));
        let init = record.init.as_ref().is_none_or(|init| ours || init.is_alive());
        record.sandbox.ready = record.sandbox.ready && pinned && init;
        if let Some(init) = record.init.as_ref().filter(|_| !ours && init)
            && let Ok(pidfd) = sys::process::pidfd_open(Pid::from_raw(init.pid))
        {
            // Held for the life of this process; a sandbox's init ends with the sandbox.
            if self.watch(pidfd.as_fd(), Source::InitEnded(id.clone())).is_ok() {
                self.init_pidfds.push(pidfd);
            }
        }
        self.sandboxes.insert(id, record);
    }

    fn recover_container(&mut self, record: ContainerRecord, ours: bool, streams: Option<Streams>) {
        let spec = &record.spec;
        let log = Log::open(&spec.log_path, spec.log_max_bytes, spec.log_max_files).unwrap_or_else(
            |error| {
                tracing::warn!(id = spec.id, %error, "cannot open container log");
                Log::nowhere()
            },
        );
        let id = spec.id.clone();
        let tty = spec.tty;
        let done = record.status.state == State::Exited || record.start_failure.is_some();
        let alive = record.process.as_ref().is_some_and(|process| ours || process.is_alive());
        self.containers.insert(id.clone(), Entry::new(record, log));
        if done {
            return;
        }
        if !alive {
            let message =
                "exit status unknown: no runtime process was there when the container ended"
                    .to_owned();
            self.mark_exited(&id, Ending::Unknown, message);
            return;
        }
        match streams {
            Some(streams) => self.restore_streams(&id, streams),
            None if tty => {}
            None => self.reopen_streams(&id),
        }
        if !ours {
            self.adopt(&id);
        }
    }

    /// Its process is somebody else's child now: its end is seen, its status is not.
    fn adopt(&mut self, id: &str) {
        let Some(pid) = self.containers.get(id).and_then(|entry| entry.record.status.pid) else {
            return;
        };
        let opened = sys::process::pidfd_open(Pid::from_raw(pid));
        // Between the look at its start time and this it may have ended and its number been given away.
        let same = self
            .containers
            .get(id)
            .and_then(|entry| entry.record.process.as_ref())
            .is_some_and(|p| p.is_alive());
        match opened
            .and_then(|pidfd| Ok((self.watch(pidfd.as_fd(), Source::Ended(id.to_owned()))?, pidfd)))
        {
            Ok((token, pidfd)) if same => {
                if let Some(entry) = self.containers.get_mut(id) {
                    entry.pidfd = Some((pidfd, token));
                }
            }
            Ok((token, pidfd)) => {
                self.forget(pidfd.as_fd(), token);
                self.adopted_ended(id);
            }
            Err(error) => {
                tracing::warn!(id, %error, "cannot adopt container");
                self.adopted_ended(id);
            }
        }
    }

    fn reopen_streams(&mut self, id: &str) {
        let out = self.open_output(id, Stream::Out);
        let err = self.open_output(id, Stream::Err);
        for error in [out.as_ref().err(), err.as_ref().err()].into_iter().flatten() {
            tracing::warn!(id, %error, "cannot reopen container output");
        }
        if let Some(entry) = self.containers.get_mut(id) {
            entry.out = out.ok();
            entry.err = err.ok();
        }
    }

    fn restore_streams(&mut self, id: &str, streams: Streams) {
        let out = streams.out.and_then(|fd| self.watch_output(id, Stream::Out, fd).ok());
        let err = streams.err.and_then(|fd| self.watch_output(id, Stream::Err, fd).ok());
        if let Some(entry) = self.containers.get_mut(id) {
            entry.out = out;
            entry.err = err;
            entry.stdin = streams.stdin;
        }
    }
}

fn remove_left(dir: &std::path::Path) {
    if let Err(error) = work::remove_directory(dir) {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove what is left");
    }
}
