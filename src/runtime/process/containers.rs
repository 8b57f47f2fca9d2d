//! Containers: made, started, ended, removed.
//!
//! ```text
//! create -> Created -> start -> Running -> Exited -> remove
//!              \________________________/^
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::dispatch::{container_key, no_such};
use super::job::{Product, failure, internal};
use super::log::Log;
use super::output::{Outlet, Sink};
use super::record::ContainerRecord;
use super::server::{Ending, Origin, Server, Task};
use super::work;
use crate::protocol::{Container, Event, Failure, FailureKind, Reply, State};

/// A container and what this process holds of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: ContainerRecord,
    pub(super) log: Log,
    /// With a terminal, its master; else the container's standard output.
    pub(super) out: Option<Outlet>,
    pub(super) err: Option<Outlet>,
    /// The writing end of the container's standard input.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) sinks: Vec<Sink>,
    /// Tells the end of a process that is not our child.
    pub(super) pidfd: Option<(OwnedFd, u64)>,
    /// A child is starting it.
    pub(super) starting: bool,
    /// A child is removing its directory, where nothing may be written meanwhile.
    pub(super) removing: bool,
}

impl Entry {
    pub(super) fn new(record: ContainerRecord, log: Log) -> Entry {
        Entry {
            record,
            log,
            out: None,
            err: None,
            stdin: None,
            sinks: Vec::new(),
            pidfd: None,
            starting: false,
            removing: false,
        }
    }

    /// What clients are told.
    pub(super) fn status(&self) -> Container {
        Container { removing: self.removing, ..self.record.status.clone() }
    }
}

impl Server {
    pub(super) fn entry(&self, id: &str) -> Result<&Entry, Failure> {
        self.containers.get(id).ok_or_else(|| no_such("container", id))
    }

    pub(super) fn start_container(&mut self, origin: Origin, id: String) -> Result<(), Failure> {
        let entry = self.containers.get_mut(&id).ok_or_else(|| no_such("container", &id))?;
        if entry.record.status.state != State::Created {
            let message = format!("container {id} is {:?}, not created", entry.record.status.state)
                .to_lowercase();
            return Err(failure(FailureKind::State, message));
        }
        if let Some(why) = entry.record.start_failure.clone() {
            self.mark_exited(&id, Ending::NotStarted, why.clone());
            self.tell_exit(&id);
            return Err(failure(FailureKind::Start, why));
        }
        entry.starting = true;
        let (layout, name) = (self.layout.clone(), id.clone());
        self.spawn(Task::Start { id: id.clone() }, Some(origin), &[], move || {
            work::start(&layout, &name)
        })?;
        self.occupy(container_key(&id));
        Ok(())
    }

    pub(super) fn container_started(&mut self, origin: Option<Origin>, id: &str, report: Product) {
        let now = super::clock::now();
        let result = report.and_then(|_| {
            let entry = self.containers.get_mut(id).ok_or_else(|| no_such("container", id))?;
            let status = &mut entry.record.status;
            // It may have ended already.
            if status.state == State::Created {
                status.state = State::Running;
                status.started_at = Some(now);
            }
            self.layout
                .save_container(&entry.record)
                .map_err(|error| internal(format!("save container: {error}")))?;
            Ok(Reply::Container(Box::new(entry.record.status.clone())))
        });
        if let Some(entry) = self.containers.get_mut(id) {
            entry.starting = false;
        }
        if result.is_ok() {
            self.announce(&Event::ContainerStarted { id: id.to_owned() });
        }
        self.answer(origin, result);
        self.release(&container_key(id));
    }

    /// Some process that is no job has ended.
    pub(super) fn process_ended(&mut self, pid: i32, ending: Ending) {
        let container =
            self.containers.iter().find(|(_, entry)| entry.record.status.pid == Some(pid));
        if let Some(id) = container.map(|(id, _)| id.clone()) {
            self.container_ended(&id, ending);
            return;
        }
        let home = self
            .sandboxes
            .iter()
            .find(|(_, home)| home.init.as_ref().is_some_and(|init| init.pid == pid));
        if let Some(id) = home.map(|(id, _)| id.clone()) {
            self.init_ended(&id);
            return;
        }
        // Anything else is an orphan of a container.
        self.session_ended(pid, ending);
    }

    pub(super) fn adopted_ended(&mut self, id: &str) {
        if let Some((pidfd, token)) =
            self.containers.get_mut(id).and_then(|entry| entry.pidfd.take())
        {
            self.forget(pidfd.as_fd(), token);
        }
        // The status is known only to our own children; if it is one, it is collected by `reap`.
        self.reap();
        if self.containers.get(id).is_some_and(|entry| entry.record.status.pid.is_some()) {
            self.container_ended(id, Ending::Unknown);
        }
    }

    fn container_ended(&mut self, id: &str, ending: Ending) {
        let Some(entry) = self.containers.get(id) else { return };
        // The next container of this id must not be taken for the one that ended.
        let removing = entry.removing;
        let home = self.sandboxes.get(&entry.record.spec.sandbox);
        if home.is_some_and(|home| home.sandbox.spec.share_pid || home.sandbox.spec.host_pid) {
            // Its children live on in a PID namespace that does not end with it.
            self.cgroups.kill(&entry.record.cgroup);
        }
        self.drain(id);
        let message = match ending {
            Ending::Unknown => {
                "exit status unknown: no runtime process was there when the container ended"
                    .to_owned()
            }
            _ => String::new(),
        };
        self.mark_exited(id, ending, message);
        if !removing {
            self.tell_exit(id);
        }
    }

    pub(super) fn mark_exited(&mut self, id: &str, ending: Ending, message: String) {
        let Some(entry) = self.containers.get_mut(id) else { return };
        let now = super::clock::now();
        let status = &mut entry.record.status;
        if status.state == State::Created && entry.starting {
            status.started_at = Some(now);
        }
        status.state = State::Exited;
        status.pid = None;
        status.finished_at = Some(now);
        status.exit_code = Some(ending.exit_code());
        status.signal = if let Ending::Signal(signal) = ending { Some(signal) } else { None };
        status.oom_killed = self.cgroups.oom_kills(&entry.record.cgroup) > 0;
        status.message = message;
        entry.record.process = None;
        entry.stdin = None;
        if entry.removing {
            return;
        }
        if let Err(error) = self.layout.save_container(&entry.record) {
            tracing::warn!(id, %error, "cannot save container");
        }
    }

    pub(super) fn signal_container(&mut self, id: &str, signal: i32) -> Result<(), Failure> {
        let entry = self.entry(id)?;
        let Some(pid) = entry.record.status.pid else { return Ok(()) };
        let sent = match &entry.pidfd {
            Some((pidfd, _)) => sys::process::pidfd_signal(pidfd.as_fd(), signal),
            // Our child, not collected yet: the number is its own.
            None => Signal::try_from(signal)
                .and_then(|signal| kill(Pid::from_raw(pid), signal))
                .map_err(io::Error::from),
        };
        match sent {
            Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => Err(failure(
                FailureKind::Invalid,
                format!("signal {signal} to container {id}: {error}"),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn kill_all(&mut self, id: &str) -> Result<(), Failure> {
        let entry = self.entry(id)?;
        if entry.record.status.state != State::Exited {
            self.cgroups.kill(&entry.record.cgroup);
        }
        Ok(())
    }

    pub(super) fn remove_container(&mut self, origin: Origin, id: String) -> Result<(), Failure> {
        let Some(entry) = self.containers.get_mut(&id) else {
            self.answer(Some(origin), Ok(Reply::Done));
            return Ok(());
        };
        entry.removing = true;
        let cgroup = entry.record.cgroup.clone();
        let (layout, cgroups, name) = (self.layout.clone(), self.cgroups.clone(), id.clone());
        let task = Task::Remove { id: id.clone() };
        self.spawn(task, Some(origin), &[], move || {
            work::remove(&layout, &cgroups, &name, &cgroup)
        })?;
        self.occupy(container_key(&id));
        Ok(())
    }

    pub(super) fn container_removed(&mut self, origin: Option<Origin>, id: &str, report: Product) {
        if report.is_ok() {
            self.drop_entry(id);
        } else if let Some(entry) = self.containers.get_mut(id) {
            entry.removing = false;
            let exited = entry.record.status.state == State::Exited;
            if let Err(error) = self.layout.save_container(&entry.record) {
                tracing::warn!(id, %error, "cannot save container");
            }
            if exited {
                self.tell_exit(id);
            }
        }
        self.answer(origin, report.map(|_| Reply::Done));
        self.release(&container_key(id));
    }

    pub(super) fn drop_entry(&mut self, id: &str) {
        self.drain(id);
        if let Some(mut entry) = self.containers.remove(id) {
            self.forget_streams(&mut entry);
            if let Some((pidfd, token)) = entry.pidfd.take() {
                self.forget(pidfd.as_fd(), token);
            }
        }
        self.sessions_of_removed(id);
    }

    pub(super) fn forget_streams(&mut self, entry: &mut Entry) {
        for outlet in [entry.out.take(), entry.err.take()].into_iter().flatten() {
            self.forget(outlet.fd.as_fd(), outlet.token);
        }
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<(), Failure> {
        let entry = self.containers.get_mut(id).ok_or_else(|| no_such("container", id))?;
        entry.log.reopen().map_err(|error| internal(format!("reopen log of {id}: {error}")))
    }
}
