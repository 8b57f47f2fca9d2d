//! The session as a state machine without IO: messages and the users' wishes go in, messages and events come out. It
//! owns the table of streams with their bounded buffers, flow control and the deadlines of liveness.
//!
//! Two things go beyond what K3s' peers say, both invisible to them. Each side begins with a Resume of stream 0, which
//! they ignore; two sides that have seen it of each other acknowledge a Connect by a Resume of its stream, and close one
//! half of a stream by a Data message without bytes. Peers that did not say it get the stream ended as a whole.

mod receive;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Error;
use crate::frame::{Body, Frame, StreamId};
use crate::limits::{ADDRESS_MAX, Limits};
pub(crate) use stream::End;
use stream::{Opening, Sending, Stream};

/// How long an opened stream waits for the peer's greeting before it is taken for one that never greets.
const GREETING_WAIT: Duration = Duration::from_secs(5);
/// The stream of the greeting; no stream has this number.
const GREETING: StreamId = 0;
const OVERFLOW: &str = "receive buffer exceeded";

/// Which end of the session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It pings and tells which streams it knows.
    Client,
    Server,
}

/// What the world outside should do or look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The peer wants a stream to an address; `accepted` or `refused` is the answer.
    Connect { stream: StreamId, proto: String, address: String },
    /// There is something to read, or the end of it, or the stream is open.
    Readable(StreamId),
    /// There is room to write, or the end of writing.
    Writable(StreamId),
}

/// What goes to the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Message(Bytes),
    /// Its pong carries the number back.
    Ping(u64),
}

/// What reading gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(Bytes),
    Nothing,
    End(End),
}

/// Whether a stream that was asked for is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opened {
    Waiting,
    Open,
    Refused(String),
}

/// Why a stream cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDialled {
    #[error("{0}")]
    Over(Error),
    #[error(
        "address {0:?} is invalid, expected a protocol without slash and at most 266 bytes in all"
    )]
    Address(String),
    #[error("tunnel has {0} streams open, which is its limit")]
    Streams(usize),
    #[error("tunnel is congested")]
    Congested,
}

#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    limits: Limits,
    streams: BTreeMap<StreamId, Stream>,
    /// Streams with something to say, each at most once.
    queue: VecDeque<StreamId>,
    /// Messages about streams, which go before their data.
    control: VecDeque<Frame>,
    events: VecDeque<Event>,
    next_stream: StreamId,
    next_message: i64,
    /// Received and not read, over all streams.
    unread: usize,
    /// The stream whose bytes found no room, and since when nothing is read from the peer for its sake.
    overfull: Option<(StreamId, Instant)>,
    /// Reading from the peer may go on.
    relieved: bool,
    greeted: bool,
    started: Instant,
    heard: Instant,
    ping_at: Instant,
    sync_at: Instant,
    /// The number of the last ping.
    pings: u64,
    /// The last ping is still to be sent.
    ping_due: bool,
    failed: Option<Error>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Mux {
    pub(crate) fn new(role: Role, limits: Limits, now: Instant) -> Mux {
        let greeting = Frame { message: 0, stream: GREETING, body: Body::Resume };
        Mux {
            role,
            limits,
            streams: BTreeMap::new(),
            queue: VecDeque::new(),
            control: VecDeque::from([greeting]),
            events: VecDeque::new(),
            next_stream: if role == Role::Client { 1 } else { 2 },
            next_message: 0,
            unread: 0,
            overfull: None,
            relieved: false,
            greeted: false,
            started: now,
            heard: now,
            ping_at: now + limits.ping_every,
            sync_at: now + limits.sync_every,
            pings: 0,
            ping_due: false,
            failed: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Streams that somebody here still uses or that still have something to say.
    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether nothing more should be read from the peer until messages to it are gone or a stream is read.
    pub(crate) fn congested(&self) -> bool {
        if self.overfull.is_some() {
            return true;
        }
        let forgotten = self.queue.len().saturating_sub(self.streams.len());
        self.control.len() + forgotten >= self.limits.control_max
    }

    /// Whether reading from the peer may go on since this was last asked.
    pub(crate) fn take_relieved(&mut self) -> bool {
        std::mem::take(&mut self.relieved)
    }

    /// Whether a stream with so many unread bytes, or all together, may not get more for now.
    fn is_overfull(&self, len: usize) -> bool {
        let total = self.limits.receive_total;
        len > total || self.unread > total.saturating_mul(2)
    }

    /// Goes on reading from the peer when there is room again.
    fn relieve(&mut self) {
        let Some((id, _)) = self.overfull else { return };
        let len = self.streams.get(&id).map_or(0, |stream| stream.inbox.len());
        if !self.is_overfull(len) {
            self.overfull = None;
            self.relieved = true;
        }
    }

    /// Whether there may be something to send to the peer.
    pub(crate) fn has_messages(&self) -> bool {
        self.ping_due || !self.control.is_empty() || !self.queue.is_empty()
    }

    /// Asks the peer for a stream.
    pub(crate) fn dial(&mut self, proto: &str, address: &str) -> Result<StreamId, NotDialled> {
        if let Some(error) = &self.failed {
            return Err(NotDialled::Over(error.clone()));
        }
        if proto.contains('/') || proto.len() + 1 + address.len() > ADDRESS_MAX {
            return Err(NotDialled::Address(format!("{proto}/{address}")));
        }
        if self.streams.len() >= self.limits.streams_max {
            return Err(NotDialled::Streams(self.limits.streams_max));
        }
        if self.congested() {
            return Err(NotDialled::Congested);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        self.streams.insert(id, Stream::new(Opening::Asked));
        self.say(id, Body::Connect { proto: proto.to_owned(), address: address.to_owned() });
        Ok(id)
    }

    /// Whether the stream that was asked for is open.
    pub(crate) fn opened(&self, id: StreamId, now: Instant) -> Opened {
        let Some(stream) = self.streams.get(&id) else {
            return Opened::Refused("stream is closed".to_owned());
        };
        match (stream.opening, &stream.end) {
            (Opening::Asked, Some(End::Failed(why))) => Opened::Refused(why.clone()),
            (Opening::Asked, Some(End::Finished)) => {
                Opened::Refused("connection closed by the peer".to_owned())
            }
            (Opening::Asked, None) if self.greeted || now < self.started + GREETING_WAIT => {
                Opened::Waiting
            }
            _ => Opened::Open,
        }
    }

    /// The address that the peer asked for is connected.
    pub(crate) fn accepted(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.opening != Opening::Dialling {
            return;
        }
        stream.opening = Opening::Open;
        if self.greeted {
            self.say(id, Body::Resume);
        }
    }

    /// Ends a stream because of this side, telling the peer why.
    pub(crate) fn refused(&mut self, id: StreamId, why: &str) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.over {
            self.unread -= stream.inbox.clear();
            stream.end_with(End::Finished);
            stream.end = Some(End::Failed(why.to_owned()));
            self.say(id, Body::Error(Some(why.to_owned())));
            self.wake(id);
            self.relieve();
        }
        self.forget_if_done(id);
    }

    /// Takes received bytes.
    pub(crate) fn read(&mut self, id: StreamId) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else { return Read::End(End::Finished) };
        let Some(bytes) = stream.inbox.pop() else {
            return stream.end.clone().map_or(Read::Nothing, Read::End);
        };
        self.unread -= bytes.len();
        let left = stream.inbox.len();
        let room = self.unread <= self.limits.receive_total || left == 0;
        if stream.hold.is_some() && !stream.over && left < self.limits.resume_below && room {
            stream.hold = None;
            self.say(id, Body::Resume);
        }
        self.relieve();
        Read::Bytes(bytes)
    }

    /// Room for bytes to be sent; none when the half is closed.
    pub(crate) fn room(&self, id: StreamId) -> Option<usize> {
        let stream = self.streams.get(&id)?;
        (stream.sending == Sending::Open)
            .then(|| self.limits.send_buffer.saturating_sub(stream.outbox.len()))
    }

    /// Takes bytes to be sent, as many as there is room for; none when the half is closed.
    pub(crate) fn write(&mut self, id: StreamId, bytes: &[u8]) -> Option<usize> {
        let taken = self.room(id)?.min(bytes.len());
        self.streams.get_mut(&id)?.outbox.extend_from_slice(&bytes[..taken]);
        self.enqueue(id);
        Some(taken)
    }

    /// Why writing is over, in the words of the peer if it said some.
    pub(crate) fn write_failure(&self, id: StreamId) -> Option<String> {
        match &self.streams.get(&id)?.end {
            Some(End::Failed(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// Closes the sending half after what was written.
    pub(crate) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.sending == Sending::Open
        {
            stream.sending = Sending::Finishing;
            self.enqueue(id);
        }
    }

    /// Nobody uses the stream any more. What was written is still sent.
    pub(crate) fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.unread -= stream.inbox.clear();
        stream.unused = true;
        if !stream.is_done() {
            stream.sending = Sending::Leaving;
            self.enqueue(id);
        }
        self.relieve();
        self.forget_if_done(id);
    }

    /// What the peer is to be sent next. A ping goes after the pause whose arrival its pong confirms.
    pub(crate) fn next_outgoing(&mut self) -> Option<Outgoing> {
        if self.failed.is_some() {
            return None;
        }
        if let Some(frame) = self.control.pop_front() {
            return Some(self.numbered(frame));
        }
        if std::mem::take(&mut self.ping_due) {
            return Some(Outgoing::Ping(self.pings));
        }
        loop {
            let id = self.queue.pop_front()?;
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            if !stream.wants_to_send() {
                continue;
            }
            let body = self.word_of(id)?;
            self.enqueue(id);
            self.forget_if_done(id);
            return Some(self.numbered(Frame { message: 0, stream: id, body }));
        }
    }

    /// What a stream that wants to send says next.
    fn word_of(&mut self, id: StreamId) -> Option<Body> {
        let stream = self.streams.get_mut(&id)?;
        if !stream.outbox.is_empty() {
            let data = if stream.outbox.len() <= self.limits.chunk {
                std::mem::take(&mut stream.outbox).freeze()
            } else {
                stream.outbox.split_to(self.limits.chunk).freeze()
            };
            self.bytes_out += data.len() as u64;
            self.events.push_back(Event::Writable(id));
            return Some(Body::Data(data));
        }
        let half = stream.sending == Sending::Finishing && self.greeted;
        stream.sending = Sending::Closed;
        if half {
            return Some(Body::Data(Bytes::new()));
        }
        // A stream in use may still get what the peer sent before it reads this.
        stream.over = stream.unused;
        Some(Body::Error(None))
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.failed.is_some() {
            return;
        }
        if now >= self.heard + self.limits.deadline {
            return self.fail(Error::Silent(self.limits.deadline));
        }
        if let Some((id, since)) = self.overfull
            && now >= since + self.limits.unread_wait
        {
            self.refused(id, OVERFLOW);
        }
        if self.role == Role::Client {
            if now >= self.ping_at {
                self.ping_at = now + self.limits.ping_every;
                self.ping();
            }
            if now >= self.sync_at {
                self.sync_at = now + self.limits.sync_every;
                let known = self.streams.iter().filter(|(_, s)| !s.over).map(|(id, _)| *id);
                let body = Body::Sync(known.collect());
                self.say(GREETING, body);
            }
        }
        if !self.greeted && now >= self.started + GREETING_WAIT {
            let waiting = self.streams.iter().filter(|(_, s)| s.opening == Opening::Asked);
            self.events.extend(waiting.map(|(id, _)| Event::Readable(*id)));
        }
    }

    /// When time is to be looked at again.
    pub(crate) fn next_tick(&self, now: Instant) -> Instant {
        let mut next = self.heard + self.limits.deadline;
        if self.role == Role::Client {
            next = next.min(self.ping_at).min(self.sync_at);
        }
        if let Some((_, since)) = self.overfull {
            next = next.min(since + self.limits.unread_wait);
        }
        let greeting = self.started + GREETING_WAIT;
        if !self.greeted && now < greeting { next.min(greeting) } else { next }
    }

    /// Ends the session and with it every stream.
    pub(crate) fn fail(&mut self, error: Error) {
        if self.failed.is_some() {
            return;
        }
        let text = error.to_string();
        self.failed = Some(error);
        self.control = VecDeque::new();
        self.queue = VecDeque::new();
        for (id, stream) in &mut self.streams {
            stream.end_with(End::Failed(text.clone()));
            self.events.extend([Event::Readable(*id), Event::Writable(*id)]);
        }
        self.streams.retain(|_, stream| !stream.unused);
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn held_bytes(&self) -> usize {
        let held = |s: &Stream| s.inbox.len() + s.outbox.len();
        self.streams.values().map(held).sum()
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn waiting_messages(&self) -> usize {
        self.control.len() + self.queue.len()
    }

    fn ping(&mut self) -> u64 {
        self.pings += 1;
        self.ping_due = true;
        self.pings
    }

    fn say(&mut self, stream: StreamId, body: Body) {
        if self.failed.is_none() {
            self.control.push_back(Frame { message: 0, stream, body });
        }
    }

    fn numbered(&mut self, frame: Frame) -> Outgoing {
        self.next_message += 1;
        Outgoing::Message(Frame { message: self.next_message, ..frame }.encode())
    }

    fn wake(&mut self, id: StreamId) {
        self.events.extend([Event::Readable(id), Event::Writable(id)]);
    }

    fn enqueue(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.wants_to_send()
            && !stream.queued
        {
            stream.queued = true;
            self.queue.push_back(id);
        }
    }

    fn forget_if_done(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Stream::is_done) {
            self.streams.remove(&id);
        }
    }
}
