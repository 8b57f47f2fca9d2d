//! The task that owns the connection: writes calls, matches answers, passes events on, connects again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::sleep;

use super::spawn::Starter;
use crate::protocol::{Call, Event, FRAME_MAX, Failure, Message, PREFIX, Reply, Request};

/// First and longest pause between attempts to connect.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Unwritten bytes above which no further call is taken.
const UNWRITTEN_MAX: usize = 1 << 20;
/// Answers waited for at once; further calls wait in the queue.
const UNANSWERED_MAX: usize = 1024;
const READ_CHUNK: usize = 64 << 10;

/// A call on its way.
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<Answer, Failure>>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) fds: Vec<OwnedFd>,
}

/// Where the process is to be found.
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Starts it when nobody answers.
    pub(super) starter: Option<Starter>,
    pub(super) stopped: Arc<AtomicBool>,
}

/// Lives until aborted or until the last handle is gone.
pub(super) async fn run(
    mut place: Place,
    mut calls: mpsc::Receiver<Pending>,
    events: broadcast::Sender<Event>,
) {
    let path = place.path.clone();
    let mut backoff = BACKOFF_FIRST;
    let mut connected_before = false;
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => {
                if connected_before {
                    // No listener is fine.
                    let _ = events.send(Event::Lost);
                }
                connected_before = true;
                backoff = BACKOFF_FIRST;
                let mut link = Link::new(stream, &events);
                match link.serve(&mut calls).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::info!(path = %path.display(), %error, "runtime process disconnected")
                    }
                }
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "runtime process does not answer");
                if let Some(starter) =
                    place.starter.as_mut().filter(|_| !place.stopped.load(Ordering::Relaxed))
                {
                    starter.start_again();
                }
            }
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

struct Link<'a> {
    stream: UnixStream,
    events: &'a broadcast::Sender<Event>,
    unwritten: VecDeque<u8>,
    read: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Answer, Failure>>>,
    next_id: u64,
}

impl<'a> Link<'a> {
    fn new(stream: UnixStream, events: &'a broadcast::Sender<Event>) -> Self {
        let mut link = Link {
            stream,
            events,
            unwritten: VecDeque::new(),
            read: Vec::new(),
            fds: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_id: 1,
        };
        link.push(0, Request::Subscribe);
        link
    }

    /// Until the connection breaks (an error) or nobody can call any more.
    async fn serve(&mut self, calls: &mut mpsc::Receiver<Pending>) -> io::Result<()> {
        let mut chunk = vec![0; READ_CHUNK];
        loop {
            let takes = self.unwritten.len() < UNWRITTEN_MAX && self.waiting.len() < UNANSWERED_MAX;
            let interest = if self.unwritten.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            tokio::select! {
                call = calls.recv(), if takes => match call {
                    Some(call) => self.take(call),
                    None => return Ok(()),
                },
                ready = self.stream.ready(interest) => {
                    let ready = ready?;
                    if ready.is_writable() {
                        self.write()?;
                    }
                    if ready.is_readable() || ready.is_read_closed() {
                        self.read(&mut chunk)?;
                    }
                }
            }
        }
    }

    fn take(&mut self, call: Pending) {
        if call.answer.is_closed() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        if self.push(id, call.request) {
            self.waiting.insert(id, call.answer);
        } else {
            let message = format!("request is larger than {FRAME_MAX} bytes");
            // The caller may have given up.
            let _ = call
                .answer
                .send(Err(Failure { kind: crate::protocol::FailureKind::Invalid, message }));
        }
    }

    fn push(&mut self, id: u64, request: Request) -> bool {
        match crate::protocol::encode(&Call { id, request }) {
            Some(frame) => {
                self.unwritten.extend(frame);
                true
            }
            None => false,
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.unwritten.is_empty() {
            match self.stream.try_write(self.unwritten.as_slices().0) {
                Ok(written) => {
                    self.unwritten.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        loop {
            let received = self
                .stream
                .try_io(Interest::READABLE, || sys::fds::receive(self.stream.as_fd(), chunk));
            match received {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((bytes, fds)) => {
                    self.read.extend_from_slice(chunk.get(..bytes).unwrap_or_default());
                    self.fds.extend(fds);
                    self.frames()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn frames(&mut self) -> io::Result<()> {
        while let Some(length) = crate::protocol::frame_length(&self.read)? {
            let end = PREFIX + length;
            let Some(body) = self.read.get(PREFIX..end) else { return Ok(()) };
            let message: Message = serde_json::from_slice(body)?;
            self.read.drain(..end);
            self.message(message)?;
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Event(event) => {
                // No listener is fine.
                let _ = self.events.send(event);
            }
            Message::Reply { id, fds, result } => {
                if fds > self.fds.len() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "descriptors are missing",
                    ));
                }
                let fds = self.fds.drain(..fds).collect();
                if let Some(answer) = self.waiting.remove(&id) {
                    // A caller that gave up drops the answer with its descriptors.
                    let _ = answer.send(result.map(|reply| Answer { reply, fds }));
                }
            }
        }
        Ok(())
    }
}
