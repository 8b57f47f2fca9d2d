//! One exec or attach session: bytes between the WebSocket's channels and the descriptors of the process.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use runtime::client::{ExecSession, FdStream, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::channels::{self, Ended, Incoming, Protocol, STDERR, STDOUT};
use super::exec::{Plan, Verb};
use super::upgrade::Socket;

const READ_BYTES: usize = 32 << 10;
/// Messages that wait for a slow client; then the process waits too.
const OUTGOING_MAX: usize = 16;
/// Output that is still in the pipes when the command has ended. A child that keeps them open does not count.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a client that goes away may take for the last message.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a client with a terminal may take to tell its size, and messages kept meanwhile.
const SIZE_WAIT: Duration = Duration::from_millis(200);
const EARLY_MAX: usize = 32;
const SIGHUP: i32 = 1;

/// The descriptors of a process, as far as the client wants them.
pub(super) struct Streams {
    stdin: Option<FdStream>,
    stdout: Option<FdStream>,
    stderr: Option<FdStream>,
}

impl Streams {
    pub(super) fn new(session: ExecSession, plan: &Plan) -> io::Result<Streams> {
        let open = |fd: Option<OwnedFd>| fd.map(FdStream::new).transpose();
        Ok(Streams {
            stdin: open(session.stdin.filter(|_| plan.stdin))?,
            // Output is read even if nobody wants it, so that the process does not stand still.
            stdout: open(session.stdout)?,
            stderr: open(session.stderr)?,
        })
    }
}

/// Serves the session to its end and says how it ended.
pub(super) async fn run(
    runtime: Runtime,
    socket: Socket,
    plan: Plan,
    protocol: Protocol,
    made: Result<(u64, Streams), String>,
    early: Vec<Incoming>,
) {
    let (sink, mut source) = socket.split();
    let (session, streams) = match made {
        Ok(made) => made,
        Err(error) => {
            let text = format!("error executing command in container: {error}");
            say_end(sink, &Ended::Failed(text), protocol).await;
            return until_closed(source).await;
        }
    };
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    // An empty message tells the client that the connection stands.
    let first = if plan.stdout {
        STDOUT
    } else if plan.stderr {
        STDERR
    } else {
        channels::ERROR
    };
    drop(outgoing.send(channels::frame(first, &[])).await);
    let Streams { stdin, stdout, stderr } = streams;
    let output = async {
        let out = pump(stdout, STDOUT, plan.stdout, outgoing.clone());
        let err = pump(stderr, STDERR, plan.stderr, outgoing.clone());
        tokio::join!(out, err);
    };
    let feed = Feed { runtime: &runtime, session, plan: &plan, stdin };
    let input = feed.run(&mut source, early, protocol);
    let mut writer = std::pin::pin!(write(sink, queue));
    let work = async {
        let ended = serve(&runtime, session, &plan, output, input).await;
        if let Some(frame) = ended.and_then(|e| channels::end_frame(&e, protocol)) {
            drop(timeout(FAREWELL, outgoing.send(frame)).await);
        }
    };
    let client_left = tokio::select! {
        () = work => false,
        () = &mut writer => true,
    };
    drop(outgoing);
    if !client_left {
        drop(timeout(FAREWELL, writer).await);
        until_closed(source).await;
    }
}

/// Lets the client answer the close, so that nothing under way to it is lost.
async fn until_closed(mut source: SplitStream<Socket>) {
    let closed = async { while let Some(Ok(_)) = source.next().await {} };
    drop(timeout(FAREWELL, closed).await);
}

/// Waits for the end of the command, or of the attached container's output. `None`: the client went away.
async fn serve(
    runtime: &Runtime,
    session: u64,
    plan: &Plan,
    output: impl Future<Output = ()>,
    input: impl Future<Output = ()>,
) -> Option<Ended> {
    let mut output = std::pin::pin!(output);
    let mut input = std::pin::pin!(input);
    if plan.verb == Verb::Attach {
        tokio::select! {
            () = &mut output => return Some(Ended::Success),
            () = &mut input => return None,
        }
    }
    let mut waiting = std::pin::pin!(runtime.exec_wait(session));
    let mut drained = false;
    let code = loop {
        tokio::select! {
            code = &mut waiting => break code,
            () = &mut output, if !drained => drained = true,
            () = &mut input => {
                // As with a terminal that is closed.
                drop(runtime.exec_signal(session, SIGHUP).await);
                return None;
            }
        }
    };
    if !drained {
        drop(timeout(DRAIN, output).await);
    }
    Some(match code {
        Ok(0) => Ended::Success,
        Ok(code) => Ended::Exit { code, command: plan.command.clone() },
        Err(error) => Ended::Failed(format!("error executing command in container: {error}")),
    })
}

/// From a descriptor to the client.
async fn pump(stream: Option<FdStream>, channel: u8, wanted: bool, outgoing: mpsc::Sender<Bytes>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        if wanted && outgoing.send(channels::frame(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

/// What the client sends, on its way to the process.
struct Feed<'a> {
    runtime: &'a Runtime,
    session: u64,
    plan: &'a Plan,
    stdin: Option<FdStream>,
}

impl Feed<'_> {
    /// Ends when the client does.
    async fn run(
        mut self,
        source: &mut SplitStream<Socket>,
        early: Vec<Incoming>,
        protocol: Protocol,
    ) {
        for incoming in early {
            self.take(incoming).await;
        }
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => self.take(channels::parse(&bytes, protocol)).await,
                Message::Close(_) => return,
                _ => {}
            }
        }
    }

    async fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Stdin(bytes) => {
                if let Some(open) = &mut self.stdin
                    && open.write_all(&bytes).await.is_err()
                {
                    // The process reads no more; what comes is of no use to anyone.
                    self.stdin = None;
                }
            }
            Incoming::StdinClosed => self.stdin = None,
            Incoming::Resize { columns, rows } => {
                let result = match self.plan.verb {
                    Verb::Exec => self.runtime.resize_exec(self.session, columns, rows).await,
                    Verb::Attach => self.runtime.resize(&self.plan.id, columns, rows).await,
                };
                if let Err(error) = result {
                    tracing::debug!(%error, "terminal not resized");
                }
            }
            Incoming::Ignored => {}
        }
    }
}

/// Waits a moment for the size of the client's terminal, so that a short command sees it. What comes before it is kept.
pub(super) async fn first_size(
    socket: &mut Socket,
    protocol: Protocol,
) -> (Option<(u16, u16)>, Vec<Incoming>) {
    let mut early = Vec::new();
    let reading = async {
        while let Some(Ok(message)) = socket.next().await {
            let Message::Binary(bytes) = message else { continue };
            match channels::parse(&bytes, protocol) {
                Incoming::Resize { columns, rows } => return Some((columns, rows)),
                Incoming::Ignored => {}
                other => early.push(other),
            }
            if early.len() >= EARLY_MAX {
                return None;
            }
        }
        None
    };
    let size = timeout(SIZE_WAIT, reading).await.ok().flatten();
    tracing::debug!(?size, "terminal");
    (size, early)
}

/// To the client, until there is nothing more or it is gone.
async fn write(mut sink: SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(frame) = queue.recv().await {
        if sink.send(Message::Binary(frame)).await.is_err() {
            return;
        }
    }
    goodbye(&mut sink).await;
}

/// Clients take any close code but the normal one for a failure.
async fn goodbye(sink: &mut SplitSink<Socket, Message>) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    drop(sink.send(Message::Close(Some(frame))).await);
}

async fn say_end(mut sink: SplitSink<Socket, Message>, ended: &Ended, protocol: Protocol) {
    if let Some(frame) = channels::end_frame(ended, protocol) {
        drop(timeout(FAREWELL, sink.send(Message::Binary(frame))).await);
    }
    drop(timeout(FAREWELL, goodbye(&mut sink)).await);
}
