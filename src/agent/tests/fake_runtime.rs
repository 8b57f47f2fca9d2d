//! A runtime process that only says that containers run.

use std::path::Path;
use std::sync::{Arc, Mutex};

use runtime::protocol::{
    Call, Container, ContainerSpec, Event, Failure, FailureKind, Message, PROTOCOL, Reply, Request,
    Sandbox, Snapshot, State, Version,
};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

#[derive(Clone)]
pub(super) struct FakeRuntime {
    inner: Arc<Mutex<Inner>>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Inner {
    snapshot: Snapshot,
    specs: Vec<ContainerSpec>,
    clock: i64,
}

impl FakeRuntime {
    /// Serves the socket until the handle is aborted.
    pub(super) fn serve(socket: &Path) -> (FakeRuntime, JoinHandle<()>) {
        let listener = UnixListener::bind(socket).expect("a socket");
        let fake = FakeRuntime { inner: Arc::default(), events: broadcast::channel(64).0 };
        let serving = fake.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serving.clone().connection(stream));
            }
        });
        (fake, task)
    }

    async fn connection(self, stream: tokio::net::UnixStream) {
        let (mut input, mut output) = stream.into_split();
        let (answers, mut answered) = mpsc::channel::<Vec<u8>>(64);
        let mut events = self.events.subscribe();
        let writing = async move {
            loop {
                let frame = tokio::select! {
                    Some(frame) = answered.recv() => frame,
                    Ok(event) = events.recv() => frame(&Message::Event(event)),
                    else => return,
                };
                if output.write_all(&frame).await.is_err() {
                    return;
                }
            }
        };
        let reading = async move {
            while let Ok(length) = input.read_u32_le().await {
                let mut body = vec![0; length as usize];
                if input.read_exact(&mut body).await.is_err() {
                    return;
                }
                let call: Call = serde_json::from_slice(&body).expect("a call");
                let message =
                    Message::Reply { id: call.id, fds: 0, result: self.answer(call.request) };
                if answers.send(frame(&message)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = writing => {}, () = reading => {} }
    }

    fn answer(&self, request: Request) -> Result<Reply, Failure> {
        let mut inner = self.inner.lock().expect("lock");
        inner.clock += 1;
        let now = inner.clock;
        match request {
            Request::Version => Ok(Reply::Version(Version {
                protocol: PROTOCOL,
                version: "0".into(),
                pid: 1,
                started_at: 0,
                cgroup: 1,
            })),
            Request::List => Ok(Reply::List(inner.snapshot.clone())),
            Request::CreateSandbox(spec) => {
                if inner.snapshot.sandboxes.iter().any(|s| s.id == spec.id) {
                    let message = format!("sandbox {:?} exists", spec.id);
                    return Err(Failure { kind: FailureKind::AlreadyExists, message });
                }
                let netns = Some("/proc/self/ns/net".into());
                let sandbox = Sandbox {
                    id: spec.id.clone(),
                    netns,
                    spec: *spec,
                    created_at: now,
                    ready: true,
                };
                inner.snapshot.sandboxes.push(sandbox.clone());
                Ok(Reply::Sandbox(Box::new(sandbox)))
            }
            Request::RemoveSandbox { id } => {
                inner.snapshot.sandboxes.retain(|s| s.id != id);
                Ok(Reply::Done)
            }
            Request::CreateContainer(spec) => {
                let made = container(&spec, now);
                inner.snapshot.containers.push(made.clone());
                inner.specs.push(*spec);
                Ok(Reply::Container(Box::new(made)))
            }
            Request::StartContainer { id } => {
                let made = find(&mut inner, &id)?;
                (made.state, made.started_at) = (State::Running, Some(1_700_000_000_000_000_000));
                Ok(Reply::Container(Box::new(made.clone())))
            }
            Request::Container { id } => {
                Ok(Reply::Container(Box::new(find(&mut inner, &id)?.clone())))
            }
            Request::Signal { id, .. } | Request::KillAll { id } => {
                let made = find(&mut inner, &id)?;
                (made.state, made.exit_code) = (State::Exited, Some(0));
                // Nobody listens when the agent is gone.
                drop(self.events.send(Event::ContainerExited { id }));
                Ok(Reply::Done)
            }
            Request::RemoveContainer { id } => {
                inner.snapshot.containers.retain(|c| c.id != id);
                Ok(Reply::Done)
            }
            Request::Subscribe => Ok(Reply::Done),
            other => panic!("the agent asked the runtime for {other:?}"),
        }
    }

    /// The machine starts anew: nothing runs, and what sandboxes there were is only written down.
    pub(super) fn reboot(&self) {
        let snapshot = &mut self.inner.lock().expect("lock").snapshot;
        snapshot.containers.clear();
        snapshot.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
    }

    /// A container ends by itself.
    pub(super) fn end(&self, id: &str) {
        self.answer(Request::Signal { id: id.to_owned(), signal: 15 }).expect("a container");
    }

    /// Ids of the containers that run.
    pub(super) fn running(&self) -> Vec<String> {
        let inner = self.inner.lock().expect("lock");
        let running = inner.snapshot.containers.iter().filter(|c| c.state == State::Running);
        running.map(|c| c.id.clone()).collect()
    }

    /// All containers that were ever made, in order.
    pub(super) fn made(&self) -> Vec<ContainerSpec> {
        self.inner.lock().expect("lock").specs.clone()
    }
}

fn find<'a>(inner: &'a mut Inner, id: &str) -> Result<&'a mut Container, Failure> {
    inner.snapshot.containers.iter_mut().find(|c| c.id == id).ok_or_else(|| Failure {
        kind: FailureKind::NotFound,
        message: format!("no container {id:?}"),
    })
}

fn container(spec: &ContainerSpec, now: i64) -> Container {
    Container {
        id: spec.id.clone(),
        sandbox: spec.sandbox.clone(),
        name: spec.name.clone(),
        attempt: spec.attempt,
        labels: spec.labels.clone(),
        state: State::Created,
        pid: None,
        created_at: now,
        started_at: None,
        finished_at: None,
        exit_code: None,
        signal: None,
        oom_killed: false,
        message: String::new(),
        log_path: spec.log_path.clone(),
        removing: false,
    }
}

fn frame(message: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(message).expect("JSON");
    let mut frame = u32::try_from(body.len()).expect("a length").to_le_bytes().to_vec();
    frame.extend(body);
    frame
}
