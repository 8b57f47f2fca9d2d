//! The asynchronous client of the runtime process.
//!
//! A [`Runtime`] is a handle to one task that owns the connection and makes it anew when it breaks. Calls in flight when it
//! breaks fail with [`Error::Disconnected`]; everyone who listens to [`Events`] then gets [`Event::Lost`] and lists again.

mod connection;
mod session;
mod spawn;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::protocol::{
    Container, ContainerSpec, Event, ExecSpec, Failure, FailureKind, PROTOCOL, Reply, Request,
    Resources, Sandbox, SandboxSpec, Snapshot, Stats, Version,
};
use connection::{Answer, Pending, Place};
use spawn::Starter;

pub use session::{ExecOutput, ExecSession, FdStream};
pub use spawn::{Program, spawn};

/// Calls waiting to be written.
const CALLS_QUEUED: usize = 64;
/// Events a slow listener may lag behind before it is told [`Event::Lost`].
const EVENTS_QUEUED: usize = 256;
/// How long a call may take, connecting included; creating a container on a slow card takes seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Lost connections over which waiting for a command goes on.
const EXEC_WAIT_RETRIES: u32 = 3;
/// How long [`Runtime::connect`] waits for the process to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("connection to the runtime process at {0} was lost")]
    Disconnected(PathBuf),
    #[error("the runtime process at {path} gave no answer to {call} within {seconds} s")]
    Timeout { path: PathBuf, call: &'static str, seconds: u64 },
    #[error("the runtime process speaks protocol {0}, not {PROTOCOL}")]
    Protocol(u32),
    #[error("unexpected answer to {0}")]
    Unexpected(&'static str),
    #[error("cannot start the runtime process {exe}: {message}")]
    Spawn { exe: PathBuf, message: String },
    #[error("cannot use the descriptors of a session: {0}")]
    Session(String),
}

impl Error {
    fn kind(&self) -> Option<FailureKind> {
        match self {
            Error::Refused(failure) => Some(failure.kind),
            _ => None,
        }
    }

    /// There is no such sandbox, container or session.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Some(FailureKind::NotFound)
    }

    pub fn is_already_exists(&self) -> bool {
        self.kind() == Some(FailureKind::AlreadyExists)
    }
}

/// A handle to the runtime process; clones share one connection, which ends with the last of them.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    calls: mpsc::Sender<Pending>,
    events: broadcast::Sender<Event>,
    task: JoinHandle<()>,
    /// The process was asked to end and is not to be started again.
    stopped: Arc<AtomicBool>,
    /// By the names of the calls, of which there are few.
    operations: Mutex<BTreeMap<&'static str, Operations>>,
}

/// How often a call was made, and how often it failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operations {
    pub total: u64,
    pub failed: u64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What happens to containers, from the moment of [`Runtime::events`] on.
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; none when the [`Runtime`] is gone. [`Event::Lost`] asks to list again.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Lost),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

macro_rules! expect_reply {
    ($self:ident, $name:literal, $request:expr, $pattern:pat => $value:expr) => {
        match $self.call($name, $request, Some(CALL_TIMEOUT)).await?.reply {
            $pattern => Ok($value),
            _ => Err(Error::Unexpected($name)),
        }
    };
}

impl Runtime {
    /// Connects to the process listening at `path`, waiting for it a while.
    pub async fn connect(path: &Path) -> Result<Runtime, Error> {
        Runtime::attach_to(path, None).await
    }

    async fn attach_to(path: &Path, starter: Option<Starter>) -> Result<Runtime, Error> {
        let runtime = Runtime::lazy(path, starter);
        let answered = timeout(CONNECT_TIMEOUT, async {
            loop {
                // A process that is just ending or upgrading cuts the first connection.
                match runtime.version().await {
                    Err(Error::Disconnected(_)) => {}
                    other => return other,
                }
            }
        });
        let version =
            answered.await.map_err(|_| runtime.timed_out("connect", CONNECT_TIMEOUT))??;
        if version.protocol != PROTOCOL {
            return Err(Error::Protocol(version.protocol));
        }
        Ok(runtime)
    }

    /// A handle that connects when the process is there; calls wait for that.
    fn lazy(path: &Path, starter: Option<Starter>) -> Runtime {
        let (calls, queue) = mpsc::channel(CALLS_QUEUED);
        let (events, _) = broadcast::channel(EVENTS_QUEUED);
        let stopped = Arc::new(AtomicBool::new(false));
        let place = Place { path: path.to_owned(), starter, stopped: Arc::clone(&stopped) };
        let task = tokio::spawn(connection::run(place, queue, events.clone()));
        let (path, operations) = (path.to_owned(), Mutex::default());
        Runtime { inner: Arc::new(Inner { path, calls, events, task, stopped, operations }) }
    }

    fn timed_out(&self, call: &'static str, after: Duration) -> Error {
        Error::Timeout { path: self.inner.path.clone(), call, seconds: after.as_secs() }
    }

    async fn call(
        &self,
        name: &'static str,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<Answer, Error> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let lost = || Error::Disconnected(self.inner.path.clone());
            self.inner.calls.send(Pending { request, answer }).await.map_err(|_| lost())?;
            answered.await.map_err(|_| lost())?.map_err(Error::from)
        };
        let result = match limit {
            Some(limit) => {
                timeout(limit, exchange).await.unwrap_or_else(|_| Err(self.timed_out(name, limit)))
            }
            None => exchange.await,
        };
        self.count(name, result.is_err());
        result
    }

    fn count(&self, name: &'static str, failed: bool) {
        let mut all = self.inner.operations.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(name).or_default();
        count.total += 1;
        count.failed += u64::from(failed);
    }

    /// The calls made so far, by name.
    pub fn operations(&self) -> Vec<(&'static str, Operations)> {
        let all = self.inner.operations.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, count)| (*name, *count)).collect()
    }

    async fn done(&self, name: &'static str, request: Request) -> Result<(), Error> {
        match self.call(name, request, Some(CALL_TIMEOUT)).await?.reply {
            Reply::Done => Ok(()),
            _ => Err(Error::Unexpected(name)),
        }
    }

    pub async fn version(&self) -> Result<Version, Error> {
        expect_reply!(self, "version", Request::Version, Reply::Version(version) => version)
    }

    /// Everything the runtime knows, exited containers included until they are removed.
    pub async fn list(&self) -> Result<Snapshot, Error> {
        expect_reply!(self, "list", Request::List, Reply::List(snapshot) => snapshot)
    }

    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        let request = Request::CreateSandbox(Box::new(spec.clone()));
        expect_reply!(self, "create_sandbox", request, Reply::Sandbox(sandbox) => *sandbox)
    }

    /// Removes a sandbox without containers; one that is not there is fine.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.done("remove_sandbox", Request::RemoveSandbox { id: id.to_owned() }).await
    }

    pub async fn create_container(&self, spec: &ContainerSpec) -> Result<Container, Error> {
        let request = Request::CreateContainer(Box::new(spec.clone()));
        expect_reply!(self, "create_container", request, Reply::Container(container) => *container)
    }

    pub async fn start_container(&self, id: &str) -> Result<Container, Error> {
        let request = Request::StartContainer { id: id.to_owned() };
        expect_reply!(self, "start_container", request, Reply::Container(container) => *container)
    }

    pub async fn container(&self, id: &str) -> Result<Container, Error> {
        let request = Request::Container { id: id.to_owned() };
        expect_reply!(self, "container", request, Reply::Container(container) => *container)
    }

    /// Signals the container's first process; one that has exited is fine.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.done("signal", Request::Signal { id: id.to_owned(), signal }).await
    }

    /// Kills every process of the container.
    pub async fn kill_all(&self, id: &str) -> Result<(), Error> {
        self.done("kill_all", Request::KillAll { id: id.to_owned() }).await
    }

    /// Kills the container if it runs and removes all it has but its log; one that is not there is fine.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.done("remove_container", Request::RemoveContainer { id: id.to_owned() }).await
    }

    pub async fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<(), Error> {
        self.done("resize", Request::Resize { id: id.to_owned(), columns, rows }).await
    }

    pub async fn stats(&self, id: &str) -> Result<Stats, Error> {
        expect_reply!(self, "stats", Request::Stats { id: id.to_owned() }, Reply::Stats(stats) => stats)
    }

    pub async fn sandbox_stats(&self, id: &str) -> Result<Stats, Error> {
        expect_reply!(self, "sandbox_stats", Request::SandboxStats { id: id.to_owned() }, Reply::Stats(stats) => stats)
    }

    pub async fn update_resources(&self, id: &str, resources: &Resources) -> Result<(), Error> {
        self.done(
            "update_resources",
            Request::UpdateResources { id: id.to_owned(), resources: *resources },
        )
        .await
    }

    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.done("reopen_log", Request::ReopenLog { id: id.to_owned() }).await
    }

    /// Runs a command in a running container. The descriptors are the caller's; see [`ExecSession`].
    pub async fn exec(&self, id: &str, spec: &ExecSpec) -> Result<ExecSession, Error> {
        let request = Request::Exec { id: id.to_owned(), spec: Box::new(spec.clone()) };
        let answer = self.call("exec", request, Some(CALL_TIMEOUT)).await?;
        ExecSession::from_answer(answer)
    }

    /// Waits, however long, until a command of [`Runtime::exec`] ends; gives its exit code, `128 + signal` after a signal.
    pub async fn exec_wait(&self, session: u64) -> Result<i32, Error> {
        // The command goes on when the process is upgraded meanwhile.
        let mut lost = 0;
        loop {
            match self.call("exec_wait", Request::ExecWait { session }, None).await {
                Ok(Answer { reply: Reply::Exit { code }, .. }) => return Ok(code),
                Ok(_) => return Err(Error::Unexpected("exec_wait")),
                Err(Error::Disconnected(_)) if lost < EXEC_WAIT_RETRIES => lost += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub async fn exec_signal(&self, session: u64, signal: i32) -> Result<(), Error> {
        self.done("exec_signal", Request::ExecSignal { session, signal }).await
    }

    pub async fn resize_exec(&self, session: u64, columns: u16, rows: u16) -> Result<(), Error> {
        self.done("resize_exec", Request::ResizeExec { session, columns, rows }).await
    }

    /// Runs a command to its end and keeps at most `limit` bytes of each stream; after `deadline` it is killed and
    /// [`ExecOutput::code`] is none.
    pub async fn exec_sync(
        &self,
        id: &str,
        args: Vec<String>,
        deadline: Duration,
        limit: usize,
    ) -> Result<ExecOutput, Error> {
        session::run_to_end(self, id, args, deadline, limit).await
    }

    /// Joins the output of a running container from now on, and its standard input if asked for. Output that the caller
    /// does not read in time is dropped, not waited for.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<ExecSession, Error> {
        let answer = self
            .call("attach", Request::Attach { id: id.to_owned(), stdin }, Some(CALL_TIMEOUT))
            .await?;
        ExecSession::from_answer(answer)
    }

    pub fn events(&self) -> Events {
        Events { receiver: self.inner.events.subscribe() }
    }

    /// Makes the process re-execute itself as `exe` (none: the program it is), keeping all it has.
    pub async fn upgrade(&self, exe: Option<&Path>) -> Result<(), Error> {
        self.done("upgrade", Request::Upgrade { exe: exe.map(Path::to_owned) }).await
    }

    /// Ends the process. Containers go on; their output waits for the next one.
    pub async fn stop(&self) -> Result<(), Error> {
        self.inner.stopped.store(true, Ordering::Relaxed);
        self.done("stop", Request::Stop).await
    }
}
