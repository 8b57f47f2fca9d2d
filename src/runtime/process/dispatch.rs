//! Requests: what is answered at once, what needs a child, what has to wait.

use std::time::Instant;

use super::containers::Entry;
use super::job::{Child, Outcome, Product, failure, internal};
use super::server::{
    DEFERRED_MAX, Deferred, JOB_TIMEOUT, JOBS_MAX, Job, Origin, SANDBOXES_MAX, Server, Task,
};
use super::{record, sandbox, work};
use crate::protocol::{
    Event, Failure, FailureKind, PROTOCOL, Reply, Request, Resources, Sandbox, SandboxSpec,
    Snapshot, Version,
};

pub(super) fn no_such(what: &str, id: &str) -> Failure {
    failure(FailureKind::NotFound, format!("no {what} {id:?}"))
}

pub(super) fn sandbox_key(id: &str) -> String {
    format!("sandbox {id}")
}

pub(super) fn container_key(id: &str) -> String {
    format!("container {id}")
}

impl Server {
    pub(super) fn dispatch(&mut self, origin: Origin, request: Request) {
        if needs_child(&request) {
            self.dispatch_job(origin, request);
        } else if let Some(result) = self.at_once(origin, request) {
            self.reply(origin, result, Vec::new());
        }
    }

    /// Answers, or takes care that an answer comes later.
    fn at_once(&mut self, origin: Origin, request: Request) -> Option<Result<Reply, Failure>> {
        let done = |result: Result<(), Failure>| Some(result.map(|()| Reply::Done));
        match request {
            Request::Version => Some(Ok(Reply::Version(self.version()))),
            Request::List => Some(Ok(Reply::List(self.snapshot()))),
            Request::Container { id } => {
                Some(self.entry(&id).map(|entry| Reply::Container(Box::new(entry.status()))))
            }
            Request::Signal { id, signal } => done(self.signal_container(&id, signal)),
            Request::KillAll { id } => done(self.kill_all(&id)),
            Request::Resize { id, columns, rows } => {
                done(self.resize_container(&id, columns, rows))
            }
            Request::UpdateResources { id, resources } => {
                done(self.update_resources(&id, &resources))
            }
            Request::ReopenLog { id } => done(self.reopen_log(&id)),
            Request::ExecSignal { session, signal } => done(self.signal_session(session, signal)),
            Request::ResizeExec { session, columns, rows } => {
                done(self.resize_session(session, columns, rows))
            }
            Request::ExecWait { session } => self.wait_session(origin, session),
            Request::Attach { id, stdin } => match self.attach(&id, stdin) {
                Ok((reply, fds)) => {
                    self.reply(origin, Ok(reply), fds);
                    None
                }
                Err(failure) => Some(Err(failure)),
            },
            Request::Subscribe => {
                if let Some(client) = self.clients.get_mut(&origin.client) {
                    client.subscribed = true;
                }
                Some(Ok(Reply::Done))
            }
            Request::Upgrade { exe } => self.ask_upgrade(origin, exe),
            Request::Stop => {
                self.stopping = true;
                Some(Ok(Reply::Done))
            }
            other => Some(Err(internal(format!("unexpected request {other:?}")))),
        }
    }

    fn dispatch_job(&mut self, origin: Origin, request: Request) {
        let waiting = self.queue.len()
            + self.busy.values().map(std::collections::VecDeque::len).sum::<usize>();
        if waiting >= DEFERRED_MAX {
            self.reply(
                origin,
                Err(failure(FailureKind::Limit, "too many requests wait")),
                Vec::new(),
            );
            return;
        }
        for key in keys(&request) {
            if let Some(queue) = self.busy.get_mut(&key) {
                queue.push_back(Deferred { origin, request });
                return;
            }
        }
        if self.jobs.len() >= JOBS_MAX {
            self.queue.push_back(Deferred { origin, request });
            return;
        }
        if let Err(failure) = self.begin(origin, request) {
            self.reply(origin, Err(failure), Vec::new());
        }
    }

    /// Starts the child for a request whose things are free.
    fn begin(&mut self, origin: Origin, request: Request) -> Result<(), Failure> {
        match request {
            Request::CreateSandbox(spec) => self.create_sandbox(origin, *spec),
            Request::RemoveSandbox { id } => self.remove_sandbox(origin, id),
            Request::CreateContainer(spec) => self.create_container(origin, *spec),
            Request::StartContainer { id } => self.start_container(origin, id),
            Request::RemoveContainer { id } => self.remove_container(origin, id),
            Request::Exec { id, spec } => self.exec(origin, &id, *spec),
            Request::Stats { id } => {
                let cgroup = self.entry(&id)?.record.cgroup.clone();
                let (layout, cgroups) = (self.layout.clone(), self.cgroups.clone());
                self.spawn(Task::Stats, Some(origin), &[], move || {
                    work::stats(&layout, &cgroups, &id, &cgroup)
                })
            }
            Request::SandboxStats { id } => {
                let record = self.sandboxes.get(&id).ok_or_else(|| no_such("sandbox", &id))?;
                let group = sandbox::group(&self.config.cgroup_root, &record.sandbox.spec);
                let cgroups = self.cgroups.clone();
                self.spawn(Task::Stats, Some(origin), &[], move || {
                    work::sandbox_stats(&cgroups, &group)
                })
            }
            other => Err(internal(format!("unexpected request {other:?}"))),
        }
    }

    pub(super) fn spawn(
        &mut self,
        task: Task,
        origin: Option<Origin>,
        keep: &[std::os::fd::RawFd],
        work: impl FnOnce() -> Product,
    ) -> Result<(), Failure> {
        let child = Child::start(keep, work).map_err(|error| internal(format!("fork: {error}")))?;
        let deadline = Instant::now() + JOB_TIMEOUT;
        self.jobs.insert(child.pid.as_raw(), Job { child, task, origin, deadline, killed: false });
        Ok(())
    }

    /// Marks something as being worked on.
    pub(super) fn occupy(&mut self, key: String) {
        self.busy.entry(key).or_default();
    }

    /// Ends that, and lets those go on who waited.
    pub(super) fn release(&mut self, key: &str) {
        for deferred in self.busy.remove(key).unwrap_or_default() {
            self.dispatch(deferred.origin, deferred.request);
        }
    }

    /// Starts waiting work while children may be started.
    pub(super) fn resume_queue(&mut self) {
        while self.jobs.len() < JOBS_MAX
            && let Some(deferred) = self.queue.pop_front()
        {
            self.dispatch(deferred.origin, deferred.request);
        }
    }

    /// A child has ended: takes its report and goes on from there.
    pub(super) fn finish(&mut self, job: Job) {
        let report = if job.killed {
            Err(internal("took too long and was killed"))
        } else {
            job.child.report()
        };
        match job.task {
            Task::CreateSandbox { id } => self.sandbox_created(job.origin, &id, report),
            Task::RemoveSandbox { id } => self.sandbox_removed(job.origin, &id, report),
            Task::Create { id } => self.container_created(job.origin, &id, report),
            Task::Abandon { id, why } => self.container_abandoned(job.origin, &id, why, report),
            Task::Start { id } => self.container_started(job.origin, &id, report),
            Task::Remove { id } => self.container_removed(job.origin, &id, report),
            Task::Exec { session, reply } => self.exec_started(job.origin, session, reply, report),
            Task::Stats => {
                let result = report.and_then(|(outcome, _)| match outcome {
                    Outcome::Stats(stats) => Ok(Reply::Stats(stats)),
                    other => Err(internal(format!("unexpected report {other:?}"))),
                });
                self.answer(job.origin, result);
            }
        }
    }

    fn version(&self) -> Version {
        Version {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            started_at: self.started_at,
            cgroup: self.cgroups.version(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            sandboxes: self.sandboxes.values().map(|record| record.sandbox.clone()).collect(),
            containers: self.containers.values().map(Entry::status).collect(),
        }
    }

    fn update_resources(&mut self, id: &str, resources: &Resources) -> Result<(), Failure> {
        let entry = self.entry(id)?;
        self.cgroups
            .limit(&entry.record.cgroup, resources, true)
            .map_err(|error| internal(format!("limit resources: {error}")))
    }

    fn create_sandbox(&mut self, origin: Origin, spec: SandboxSpec) -> Result<(), Failure> {
        if !record::valid_id(&spec.id) || !record::valid_cgroup(&spec.cgroup) {
            let message = format!("bad sandbox id {:?} or cgroup {:?}", spec.id, spec.cgroup);
            return Err(failure(FailureKind::Invalid, message));
        }
        if self.sandboxes.contains_key(&spec.id) {
            return Err(failure(
                FailureKind::AlreadyExists,
                format!("sandbox {:?} already exists", spec.id),
            ));
        }
        if self.sandboxes.len() >= SANDBOXES_MAX {
            return Err(failure(
                FailureKind::Limit,
                format!("there are {SANDBOXES_MAX} sandboxes"),
            ));
        }
        let id = spec.id.clone();
        if let Err(failure) = self.begin_sandbox(origin, spec) {
            if let Err(error) = work::remove_directory(&self.layout.sandbox(&id)) {
                tracing::warn!(id, %error, "cannot clean up after a failed creation");
            }
            return Err(failure);
        }
        self.occupy(sandbox_key(&id));
        Ok(())
    }

    fn begin_sandbox(&mut self, origin: Origin, spec: SandboxSpec) -> Result<(), Failure> {
        let id = spec.id.clone();
        sandbox::make_directories(&self.layout, &id)
            .map_err(|error| internal(format!("make directories of sandbox {id}: {error}")))?;
        let pinned = sandbox::own_namespaces(&spec);
        let netns = pinned.contains(&"net").then(|| self.layout.pin(&id, "net"));
        let sandbox = Sandbox {
            id: id.clone(),
            netns,
            spec: spec.clone(),
            created_at: super::clock::now(),
            ready: false,
        };
        let record = record::SandboxRecord {
            sandbox,
            pinned: pinned.iter().map(|kind| (*kind).to_owned()).collect(),
            init: None,
        };
        // On disk before anything is made, so that nothing is left without a record.
        self.layout
            .save_sandbox(&record)
            .map_err(|error| internal(format!("save sandbox {id}: {error}")))?;
        let (layout, cgroups, root) =
            (self.layout.clone(), self.cgroups.clone(), self.config.cgroup_root.clone());
        let task = Task::CreateSandbox { id: id.clone() };
        self.spawn(task, Some(origin), &[], move || {
            sandbox::create(&layout, &cgroups, &root, &spec)
        })?;
        self.sandboxes.insert(id, record);
        Ok(())
    }

    fn sandbox_created(&mut self, origin: Option<Origin>, id: &str, report: Product) {
        let result = report.and_then(|(outcome, _)| {
            let record = self.sandboxes.get_mut(id).ok_or_else(|| no_such("sandbox", id))?;
            record.sandbox.ready = true;
            if let Outcome::Process { pid } = outcome {
                let identity = record::ProcessIdentity::of(pid);
                record.init =
                    Some(identity.map_err(|error| internal(format!("sandbox init: {error}")))?);
            }
            self.layout
                .save_sandbox(record)
                .map_err(|error| internal(format!("save sandbox {id}: {error}")))?;
            Ok(Reply::Sandbox(Box::new(record.sandbox.clone())))
        });
        if result.is_err() {
            // The child has cleaned up; a second removal by the client is allowed should something be left.
            let gone = !self.layout.sandbox(id).exists();
            if gone {
                self.sandboxes.remove(id);
            }
        }
        self.answer(origin, result);
        self.release(&sandbox_key(id));
    }

    fn remove_sandbox(&mut self, origin: Origin, id: String) -> Result<(), Failure> {
        let Some(record) = self.sandboxes.get_mut(&id) else {
            self.answer(Some(origin), Ok(Reply::Done));
            return Ok(());
        };
        if let Some(entry) = self.containers.values().find(|entry| entry.record.spec.sandbox == id)
        {
            let message = format!("sandbox {id} still has container {}", entry.record.spec.id);
            return Err(failure(FailureKind::State, message));
        }
        record.sandbox.ready = false;
        let init = record
            .init
            .as_ref()
            .filter(|init| init.is_alive())
            .map(|init| nix::unistd::Pid::from_raw(init.pid));
        let group = sandbox::group(&self.config.cgroup_root, &record.sandbox.spec);
        let (layout, cgroups) = (self.layout.clone(), self.cgroups.clone());
        let task = Task::RemoveSandbox { id: id.clone() };
        let key = sandbox_key(&id);
        self.spawn(task, Some(origin), &[], move || {
            sandbox::remove(&layout, &cgroups, &group, &id, init)
        })?;
        self.occupy(key);
        Ok(())
    }

    fn sandbox_removed(&mut self, origin: Option<Origin>, id: &str, report: Product) {
        if report.is_ok() {
            self.sandboxes.remove(id);
        }
        self.answer(origin, report.map(|_| Reply::Done));
        self.release(&sandbox_key(id));
    }

    /// The tiny init of a sandbox has ended; with it all processes of the namespace.
    pub(super) fn init_ended(&mut self, id: &str) {
        if let Some(record) = self.sandboxes.get_mut(id) {
            record.init = None;
            // One that is not ready may be being removed: nothing may appear in its directory then.
            let was_ready = std::mem::replace(&mut record.sandbox.ready, false);
            if was_ready && let Err(error) = self.layout.save_sandbox(record) {
                tracing::warn!(id, %error, "cannot save sandbox");
            }
        }
    }

    pub(super) fn tell_exit(&mut self, id: &str) {
        self.announce(&Event::ContainerExited { id: id.to_owned() });
    }
}

fn needs_child(request: &Request) -> bool {
    matches!(
        request,
        Request::CreateSandbox(_)
            | Request::RemoveSandbox { .. }
            | Request::CreateContainer(_)
            | Request::StartContainer { .. }
            | Request::RemoveContainer { .. }
            | Request::Exec { .. }
            | Request::Stats { .. }
            | Request::SandboxStats { .. }
    )
}

/// What must be free before the request can begin.
fn keys(request: &Request) -> Vec<String> {
    match request {
        Request::CreateSandbox(spec) => vec![sandbox_key(&spec.id)],
        Request::RemoveSandbox { id } => vec![sandbox_key(id)],
        Request::CreateContainer(spec) => vec![sandbox_key(&spec.sandbox), container_key(&spec.id)],
        Request::StartContainer { id }
        | Request::RemoveContainer { id }
        | Request::Exec { id, .. } => {
            vec![container_key(id)]
        }
        _ => Vec::new(),
    }
}
