//! A client's connection: frames in, frames with descriptors out.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::epoll::EpollFlags;

use super::server::{Origin, Server};
use crate::protocol::{Call, Event, Failure, Message, PREFIX, Reply, encode, frame_length};

/// Unsent bytes after which a client that does not read is dropped.
const UNSENT_MAX: usize = 16 << 20;
/// Bytes taken from one client before others get their turn.
const READ_TURN: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    token: u64,
    input: Vec<u8>,
    output: VecDeque<Frame>,
    unsent: usize,
    waits_to_write: bool,
    pub(super) subscribed: bool,
}

#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Client {
    pub(super) fn new(stream: UnixStream, token: u64) -> Client {
        Client {
            stream,
            token,
            input: Vec::new(),
            output: VecDeque::new(),
            unsent: 0,
            waits_to_write: false,
            subscribed: false,
        }
    }

    fn push(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.unsent += bytes.len();
        if self.unsent > UNSENT_MAX {
            return Err(io::Error::other("client does not read"));
        }
        self.output.push_back(Frame { bytes, sent: 0, fds });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(frame) = self.output.front_mut() {
            let rest = frame.bytes.get(frame.sent..).unwrap_or_default();
            let fds: Vec<_> = frame.fds.iter().map(AsFd::as_fd).collect();
            match sys::fds::send(self.stream.as_fd(), rest, &fds) {
                Ok(sent) => {
                    frame.sent += sent;
                    self.unsent = self.unsent.saturating_sub(sent);
                    // They went with the first byte.
                    frame.fds.clear();
                    if frame.sent >= frame.bytes.len() {
                        self.output.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Server {
    pub(super) fn client_ready(&mut self, id: u64, flags: EpollFlags) {
        let mut result = Ok(());
        if flags.contains(EpollFlags::EPOLLOUT) {
            result = self.flush(id);
        }
        if result.is_ok()
            && flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
        {
            result = self.read_calls(id);
        }
        if let Err(error) = result {
            self.drop_client(id, &error);
        }
    }

    fn read_calls(&mut self, id: u64) -> io::Result<()> {
        let mut taken = 0;
        while taken < READ_TURN {
            let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
            match client.stream.read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    taken += count;
                    client.input.extend_from_slice(self.buffer.get(..count).unwrap_or_default());
                    self.take_frames(id)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_frames(&mut self, id: u64) -> io::Result<()> {
        while let Some(client) = self.clients.get_mut(&id)
            && let Some(length) = frame_length(&client.input)?
        {
            let Some(body) = client.input.get(PREFIX..PREFIX + length) else { return Ok(()) };
            let call: Call = serde_json::from_slice(body)?;
            client.input.drain(..PREFIX + length);
            if client.input.is_empty() {
                client.input = Vec::new();
            }
            self.dispatch(Origin { client: id, call: call.id }, call.request);
        }
        Ok(())
    }

    /// Answers a call; a client that has gone needs no answer.
    pub(super) fn reply(
        &mut self,
        origin: Origin,
        result: Result<Reply, Failure>,
        fds: Vec<OwnedFd>,
    ) {
        let message = Message::Reply { id: origin.call, fds: fds.len(), result };
        let Some(frame) = encode(&message) else {
            let failure =
                super::job::failure(crate::protocol::FailureKind::Limit, "the answer is too large");
            self.reply(origin, Err(failure), Vec::new());
            return;
        };
        self.send(origin.client, frame, fds);
    }

    pub(super) fn answer(&mut self, origin: Option<Origin>, result: Result<Reply, Failure>) {
        if let Some(origin) = origin {
            self.reply(origin, result, Vec::new());
        }
    }

    /// Tells all subscribers.
    pub(super) fn announce(&mut self, event: &Event) {
        let subscribers: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.subscribed)
            .map(|(id, _)| *id)
            .collect();
        for id in subscribers {
            if let Some(frame) = encode(&Message::Event(event.clone())) {
                self.send(id, frame, Vec::new());
            }
        }
    }

    fn send(&mut self, id: u64, frame: Vec<u8>, fds: Vec<OwnedFd>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let result = client.push(frame, fds).and_then(|()| self.flush(id));
        if let Err(error) = result {
            self.drop_client(id, &error);
        }
    }

    fn flush(&mut self, id: u64) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        client.flush()?;
        let waits = !client.output.is_empty();
        if waits != client.waits_to_write {
            client.waits_to_write = waits;
            let token = client.token;
            if let Some(client) = self.clients.get(&id) {
                self.watch_writable(client.stream.as_fd(), token, waits)?;
            }
        }
        Ok(())
    }

    fn drop_client(&mut self, id: u64, why: &io::Error) {
        let Some(client) = self.clients.remove(&id) else { return };
        if why.kind() == io::ErrorKind::UnexpectedEof {
            tracing::debug!("client left");
        } else {
            tracing::warn!(%why, "client dropped");
        }
        self.forget(client.stream.as_fd(), client.token);
        self.client_left(id);
    }
}
