//! New containers: what is made here before their child starts, what is noted when it has ended, and
//! what is undone when it failed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};

use super::containers::Entry;
use super::dispatch::{container_key, no_such};
use super::job::{Outcome, Product, failure, internal};
use super::log::{Log, Stream};
use super::oci::Surroundings;
use super::record::{ContainerRecord, ProcessIdentity};
use super::server::{CONTAINERS_MAX, Ending, Origin, Server, Task};
use super::work::Stdio;
use super::{record, sandbox, work};
use crate::protocol::{Container, ContainerSpec, Failure, FailureKind, Reply, State};

impl Server {
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
                cgroups_v1: cgroups.groups_v1(&cgroup),
                cgroup,
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
                removing: false,
            },
            process: None,
            cgroup: format!("{group}/{}", spec.id),
            start_failure: None,
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
        entry.out = Some(self.open_output(&spec.id, Stream::Out)?);
        entry.err = Some(self.open_output(&spec.id, Stream::Err)?);
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
            Err(why) if why.kind == FailureKind::Start => {
                let result = self.postpone(id, why.message);
                self.answer(origin, result);
                self.release(&container_key(id));
            }
            Err(why) => self.abandon(origin, id, why),
        }
    }

    /// A container that cannot run its program counts as created; starting it will fail.
    fn postpone(&mut self, id: &str, why: String) -> Result<Reply, Failure> {
        let entry = self.containers.get_mut(id).ok_or_else(|| no_such("container", id))?;
        entry.record.start_failure = Some(why);
        entry.stdin = None;
        self.layout
            .save_container(&entry.record)
            .map_err(|error| internal(format!("save container: {error}")))?;
        let status = entry.record.status.clone();
        self.cgroups.kill(&entry.record.cgroup);
        self.drain(id);
        Ok(Reply::Container(Box::new(status)))
    }

    fn note_process(
        &mut self,
        id: &str,
        pid: i32,
        master: Option<OwnedFd>,
    ) -> Result<Container, Failure> {
        let master = match master {
            Some(master) => Some(
                self.watch_output(id, Stream::Out, master)
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
}

fn open_both_ways(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}
