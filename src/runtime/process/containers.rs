//! Containers: made, started, ended, removed.
//!
//! ```text
//! create -> Created -> start -> Running -> Exited -> remove
//!              \________________________/^
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo, pipe2};

use super::dispatch::{container_key, no_such};
use super::job::{Outcome, Product, failure, internal};
use super::log::Log;
use super::oci::Surroundings;
use super::output::{Outlet, Sink};
use super::record::{ContainerRecord, ProcessIdentity};
use super::server::{CONTAINERS_MAX, Ending, Origin, Server, Source, Task};
use super::work::Stdio;
use super::{record, sandbox, work};
use crate::protocol::{Container, ContainerSpec, Event, Failure, FailureKind, Reply, State};

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
    removing: bool,
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
}

impl Server {
    pub(super) fn entry(&self, id: &str) -> Result<&Entry, Failure> {
        self.containers.get(id).ok_or_else(|| no_such("container", id))
    }

    pub(super) fn create_container(
        &mut self,
        origin: Origin,
        spec: ContainerSpec,
    ) -> Result<(), Failure> {
        self.check_new(&spec)?;
        let id = spec.id.clone();
        let mut entry = Entry::new(self.new_record(&spec)?, Log::nowhere());
        let begun = self
            .prepare(&spec, &mut entry)
            .and_then(|stdio| self.spawn_create(origin, spec, &entry, stdio));
        if let Err(failure) = begun {
            self.forget_streams(&mut entry);
            if let Err(error) = work::remove_directory(&self.layout.container(&id)) {
                tracing::warn!(id, %error, "cannot clean up after a failed creation");
            }
            return Err(failure);
        }
        self.containers.insert(id.clone(), entry);
        self.occupy(container_key(&id));
        Ok(())
    }

    /// Everything of a new container that is made here and not in its child.
    fn prepare(&mut self, spec: &ContainerSpec, entry: &mut Entry) -> Result<Stdio, Failure> {
        let io = |what: &'static str| move |error: io::Error| internal(format!("{what}: {error}"));
        work::make_directories(&self.layout, &spec.id).map_err(io("make container directories"))?;
        if !spec.log_path.as_os_str().is_empty() {
            entry.log = Log::open(&spec.log_path, spec.log_max_bytes, spec.log_max_files)
                .map_err(io("open log"))?;
        }
        // On disk before anything is made, so that nothing is left without a record.
        self.layout.save_container(&entry.record).map_err(io("save container"))?;
        self.make_streams(spec, entry).map_err(io("make streams"))
    }

    fn spawn_create(
        &mut self,
        origin: Origin,
        spec: ContainerSpec,
        entry: &Entry,
        stdio: Stdio,
    ) -> Result<(), Failure> {
        let home = self
            .sandboxes
            .get(&spec.sandbox)
            .cloned()
            .ok_or_else(|| no_such("sandbox", &spec.sandbox))?;
        let (layout, cgroups, open_files) =
            (self.layout.clone(), self.cgroups.clone(), self.open_files);
        let cgroup = entry.record.cgroup.clone();
        let task = Task::Create { id: spec.id.clone() };
        let keep = stdio.numbers();
        self.spawn(task, Some(origin), &keep, move || {
            let around = Surroundings {
                sandbox: &home.sandbox,
                namespaces: &sandbox::pins(&layout, &home.sandbox.id, &home.pinned),
                shm: layout.shm(&home.sandbox.id),
                cgroup,
                cgroup_v2: cgroups.version() == 2,
                open_files,
            };
            work::create(&layout, &cgroups, &spec, &around, stdio)
        })
    }

    fn check_new(&self, spec: &ContainerSpec) -> Result<(), Failure> {
        if !record::valid_id(&spec.id) {
            return Err(failure(FailureKind::Invalid, format!("bad container id {:?}", spec.id)));
        }
        if spec.args.is_empty() {
            return Err(failure(FailureKind::Invalid, "no command specified"));
        }
        if self.containers.contains_key(&spec.id) {
            return Err(failure(
                FailureKind::AlreadyExists,
                format!("container {:?} already exists", spec.id),
            ));
        }
        if self.containers.len() >= CONTAINERS_MAX {
            return Err(failure(
                FailureKind::Limit,
                format!("there are {CONTAINERS_MAX} containers"),
            ));
        }
        let home =
            self.sandboxes.get(&spec.sandbox).ok_or_else(|| no_such("sandbox", &spec.sandbox))?;
        if !home.sandbox.ready {
            return Err(failure(
                FailureKind::State,
                format!("sandbox {} is not ready", spec.sandbox),
            ));
        }
        Ok(())
    }

    fn new_record(&self, spec: &ContainerSpec) -> Result<ContainerRecord, Failure> {
        let home =
            self.sandboxes.get(&spec.sandbox).ok_or_else(|| no_such("sandbox", &spec.sandbox))?;
        let group = sandbox::group(&self.config.cgroup_root, &home.sandbox.spec);
        Ok(ContainerRecord {
            spec: spec.clone(),
            status: Container {
                id: spec.id.clone(),
                sandbox: spec.sandbox.clone(),
                name: spec.name.clone(),
                attempt: spec.attempt,
                labels: spec.labels.clone(),
                state: State::Created,
                pid: None,
                created_at: super::clock::now(),
                started_at: None,
                finished_at: None,
                exit_code: None,
                signal: None,
                oom_killed: false,
                message: String::new(),
                log_path: spec.log_path.clone(),
            },
            process: None,
            cgroup: format!("{group}/{}", spec.id),
        })
    }

    /// Makes the streams; our ends go into the entry, the container's are returned.
    fn make_streams(&mut self, spec: &ContainerSpec, entry: &mut Entry) -> io::Result<Stdio> {
        let mut stdio = Stdio::default();
        if spec.tty {
            return Ok(stdio);
        }
        for name in ["stdout", "stderr"] {
            mkfifo(&self.layout.fifo(&spec.id, name), Mode::from_bits_truncate(0o600))?;
        }
        entry.out = Some(self.open_output(&spec.id, super::log::Stream::Out)?);
        entry.err = Some(self.open_output(&spec.id, super::log::Stream::Err)?);
        // Open for reading too: the container never gets SIGPIPE while no runtime process reads.
        stdio.stdout = Some(open_both_ways(&self.layout.fifo(&spec.id, "stdout"))?);
        stdio.stderr = Some(open_both_ways(&self.layout.fifo(&spec.id, "stderr"))?);
        if spec.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            stdio.stdin = Some(read);
            entry.stdin = Some(write);
        } else {
            stdio.stdin = Some(File::open("/dev/null")?.into());
        }
        Ok(stdio)
    }

    pub(super) fn container_created(&mut self, origin: Option<Origin>, id: &str, report: Product) {
        let made = report.and_then(|(outcome, master)| match outcome {
            Outcome::Process { pid } => self.note_process(id, pid, master),
            other => Err(internal(format!("unexpected report {other:?}"))),
        });
        match made {
            Ok(container) => {
                self.answer(origin, Ok(Reply::Container(Box::new(container))));
                self.release(&container_key(id));
            }
            Err(why) => self.abandon(origin, id, why),
        }
    }

    fn note_process(
        &mut self,
        id: &str,
        pid: i32,
        master: Option<OwnedFd>,
    ) -> Result<Container, Failure> {
        let master = match master {
            Some(master) => Some(
                self.watch_output(id, super::log::Stream::Out, master)
                    .map_err(|error| internal(format!("watch terminal: {error}")))?,
            ),
            None => None,
        };
        let entry = self.containers.get_mut(id).ok_or_else(|| no_such("container", id))?;
        if let Some(master) = master {
            entry.out = Some(master);
        }
        let identity = ProcessIdentity::of(pid)
            .map_err(|error| internal(format!("container process: {error}")))?;
        entry.record.process = Some(identity);
        entry.record.status.pid = Some(pid);
        self.layout
            .save_container(&entry.record)
            .map_err(|error| internal(format!("save container: {error}")))?;
        Ok(entry.record.status.clone())
    }

    /// Removes what a failed creation left, then says why it failed.
    fn abandon(&mut self, origin: Option<Origin>, id: &str, why: Failure) {
        let cgroup = self.containers.get_mut(id).map(|entry| {
            entry.removing = true;
            entry.record.cgroup.clone()
        });
        let cgroup = cgroup.unwrap_or_default();
        let (layout, cgroups, name) = (self.layout.clone(), self.cgroups.clone(), id.to_owned());
        let task = Task::Abandon { id: id.to_owned(), why: why.clone() };
        if self
            .spawn(task, origin, &[], move || work::remove(&layout, &cgroups, &name, &cgroup))
            .is_err()
        {
            self.answer(origin, Err(why));
            self.release(&container_key(id));
        }
    }

    pub(super) fn container_abandoned(
        &mut self,
        origin: Option<Origin>,
        id: &str,
        why: Failure,
        report: Product,
    ) {
        match report {
            Ok(_) => self.drop_entry(id),
            Err(error) => {
                tracing::warn!(id, %error, "cannot clean up after a failed creation");
                if let Some(entry) = self.containers.get_mut(id) {
                    entry.removing = false;
                }
                self.mark_exited(id, Ending::Unknown, why.message.clone());
            }
        }
        self.answer(origin, Err(why));
        self.release(&container_key(id));
    }

    pub(super) fn start_container(&mut self, origin: Origin, id: String) -> Result<(), Failure> {
        let entry = self.containers.get_mut(&id).ok_or_else(|| no_such("container", &id))?;
        if entry.record.status.state != State::Created {
            let message = format!("container {id} is {:?}, not created", entry.record.status.state)
                .to_lowercase();
            return Err(failure(FailureKind::State, message));
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
        self.tell_exit(id);
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
            if let Err(error) = self.layout.save_container(&entry.record) {
                tracing::warn!(id, %error, "cannot save container");
            }
        }
        self.answer(origin, report.map(|_| Reply::Done));
        self.release(&container_key(id));
    }

    fn drop_entry(&mut self, id: &str) {
        self.drain(id);
        if let Some(mut entry) = self.containers.remove(id) {
            self.forget_streams(&mut entry);
            if let Some((pidfd, token)) = entry.pidfd.take() {
                self.forget(pidfd.as_fd(), token);
            }
        }
        self.sessions_of_removed(id);
    }

    fn forget_streams(&mut self, entry: &mut Entry) {
        for outlet in [entry.out.take(), entry.err.take()].into_iter().flatten() {
            self.forget(outlet.fd.as_fd(), outlet.token);
        }
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<(), Failure> {
        let entry = self.containers.get_mut(id).ok_or_else(|| no_such("container", id))?;
        entry.log.reopen().map_err(|error| internal(format!("reopen log of {id}: {error}")))
    }

    /// Opens our end of a stream's named pipe and waits for output.
    pub(super) fn open_output(
        &mut self,
        id: &str,
        stream: super::log::Stream,
    ) -> io::Result<Outlet> {
        let name = if stream == super::log::Stream::Out { "stdout" } else { "stderr" };
        let path = self.layout.fifo(id, name);
        let file =
            OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        self.watch_output(id, stream, file.into())
    }

    pub(super) fn watch_output(
        &mut self,
        id: &str,
        stream: super::log::Stream,
        fd: OwnedFd,
    ) -> io::Result<Outlet> {
        sys::fds::set_nonblocking(fd.as_fd(), true)?;
        let token = self.watch(fd.as_fd(), Source::Output(id.to_owned(), stream))?;
        Ok(Outlet { fd, token })
    }
}

fn open_both_ways(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}
