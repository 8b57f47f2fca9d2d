//! The one task of a session: it owns the socket, moves messages between it and the state machine, keeps time, and owns
//! the tasks of streams that the peer opened.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use crate::error::Error;
use crate::limits::Limits;
use crate::mux::Outgoing;
use crate::pump::pump;
use crate::shared::{Shared, Wish, now};
use crate::stream::Stream;
use crate::{Accept, BoxIo};

/// Messages in one direction before the other gets its turn, and turns before other tasks do.
const BATCH: usize = 16;
const TURNS: usize = 8;
/// How long the farewell to the peer may take.
const FAREWELL: Duration = Duration::from_secs(1);

pub(crate) type Socket = WebSocketStream<BoxIo>;

pub(crate) struct Driver {
    socket: Socket,
    shared: Arc<Shared>,
    accept: Accept,
    limits: Limits,
    streams: JoinSet<()>,
    sleep: Pin<Box<Sleep>>,
    /// Since when the peer takes nothing.
    stalled: Option<Instant>,
}

impl Driver {
    pub(crate) fn new(
        socket: Socket,
        shared: Arc<Shared>,
        accept: Accept,
        limits: Limits,
    ) -> Driver {
        Driver {
            socket,
            shared,
            accept,
            limits,
            streams: JoinSet::new(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            stalled: None,
        }
    }

    /// Runs the session to its end.
    pub(crate) async fn run(mut self) {
        let error = std::future::poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(%error, "tunnel session ended");
        self.shared.fail(error.clone());
        self.streams.abort_all();
        if matches!(error, Error::Closed | Error::Protocol(_)) {
            drop(tokio::time::timeout(FAREWELL, self.socket.close(None)).await);
        }
        self.shared.closed.send_replace(Some(error));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.shared.driver.register(cx.waker());
        while let Poll::Ready(Some(_)) = self.streams.poll_join_next(cx) {}
        for _ in 0..TURNS {
            if let Some(error) = self.shared.with_as_driver(|state| state.mux.failure().cloned()) {
                return Poll::Ready(error);
            }
            self.take_up_wishes();
            let moved = self.send(cx).and_then(|sent| Ok(self.receive(cx)? | sent));
            match moved {
                Ok(true) => {}
                Ok(false) => return self.poll_time(cx),
                Err(error) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what there is; says whether something went out.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let mut sent = false;
        for _ in 0..BATCH {
            match self.socket.poll_ready_unpin(cx) {
                Poll::Ready(ready) => ready.map_err(socket_error)?,
                Poll::Pending => {
                    self.stalled.get_or_insert_with(now);
                    return Ok(sent);
                }
            }
            let Some(message) = self.next_message() else { break };
            self.socket.start_send_unpin(message).map_err(socket_error)?;
            sent = true;
        }
        match self.socket.poll_flush_unpin(cx) {
            Poll::Ready(flushed) => {
                flushed.map_err(socket_error)?;
                self.stalled = None;
            }
            Poll::Pending => {
                self.stalled.get_or_insert_with(now);
            }
        }
        Ok(sent)
    }

    fn next_message(&mut self) -> Option<Message> {
        Some(match self.shared.with_as_driver(|state| state.mux.next_outgoing())? {
            Outgoing::Message(message) => Message::Binary(message),
            Outgoing::Ping(number) => Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes())),
        })
    }

    /// Takes what the peer sent; says whether there was something.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let mut received = false;
        for _ in 0..BATCH {
            if self.shared.with_as_driver(|state| state.mux.congested()) {
                break;
            }
            let Poll::Ready(message) = self.socket.poll_next_unpin(cx) else { break };
            let message = message.ok_or(Error::ClosedByPeer)?.map_err(socket_error)?;
            received = true;
            let now = now();
            match message {
                Message::Binary(bytes) => {
                    self.shared.with_as_driver(|state| state.mux.receive(bytes, now))
                }
                Message::Ping(_) => self.shared.with_as_driver(|state| state.mux.heard(now)),
                Message::Pong(payload) => self.shared.with_as_driver(|state| {
                    state.mux.heard(now);
                    if let Ok(number) = payload.as_ref().try_into() {
                        state.mux.pong(u64::from_be_bytes(number));
                    }
                }),
                Message::Close(_) => return Err(Error::ClosedByPeer),
                Message::Text(_) | Message::Frame(_) => {
                    return Err(Error::Protocol("text message, expected binary".to_owned()));
                }
            }
        }
        Ok(received)
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            let now = now();
            let gone = self.stalled.map(|since| since + self.limits.deadline);
            if gone.is_some_and(|at| at <= now) {
                return Poll::Ready(Error::Stalled(self.limits.deadline));
            }
            let (next, failure) = self.shared.with_as_driver(|state| {
                state.mux.tick(now);
                (state.mux.next_tick(now), state.mux.failure().cloned())
            });
            if let Some(error) = failure {
                return Poll::Ready(error);
            }
            if self.stalled.is_none() && self.shared.with_as_driver(|s| s.needs_driver()) {
                cx.waker().wake_by_ref();
            }
            let next = tokio::time::Instant::from_std(gone.map_or(next, |at| at.min(next)));
            // A deadline that only moved away is looked at when the old one is due.
            if self.sleep.is_elapsed() || next < self.sleep.deadline() {
                self.sleep.as_mut().reset(next);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Answers what the peer asked for, each in a task of its own.
    fn take_up_wishes(&mut self) {
        while let Some(wish) = self.shared.with_as_driver(|state| state.wishes.pop_front()) {
            let Wish { stream, proto, address } = wish;
            let stream = Stream::new(Arc::clone(&self.shared), stream);
            let (accept, timeout) = (Arc::clone(&self.accept), self.limits.dial_timeout);
            self.streams.spawn(async move {
                match tokio::time::timeout(timeout, accept(proto, address)).await {
                    Ok(Ok(io)) => {
                        stream.accepted();
                        pump(stream, io).await;
                    }
                    Ok(Err(error)) => stream.refused(&error.to_string()),
                    Err(_) => stream.refused("dial timed out"),
                }
            });
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.fail(Error::Closed);
        self.shared.closed.send_if_modified(|closed| {
            let open = closed.is_none();
            closed.get_or_insert(Error::Closed);
            open
        });
    }
}

fn socket_error(error: SocketError) -> Error {
    match error {
        SocketError::ConnectionClosed | SocketError::AlreadyClosed => Error::ClosedByPeer,
        SocketError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Error::ClosedByPeer
        }
        SocketError::Io(error) => Error::Connection(error.to_string()),
        other => Error::Protocol(other.to_string()),
    }
}
