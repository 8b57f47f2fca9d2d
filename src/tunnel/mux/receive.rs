//! What a message of the peer does to the session.

use std::time::Instant;

use bytes::Bytes;

use super::stream::{End, Hold, Opening, Stream};
use super::{Event, GREETING, Mux, OVERFLOW, Role};
use crate::error::Error;
use crate::frame::{Body, Frame, StreamId};

impl Mux {
    /// The peer gave a sign of life.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The peer answered a ping; it has seen everything said before that.
    pub(crate) fn pong(&mut self, ping: u64) {
        for stream in self.streams.values_mut() {
            if let Some(hold) = &mut stream.hold {
                hold.seen |= hold.ping <= ping;
            }
        }
    }

    /// Takes one message of the peer.
    pub(crate) fn receive(&mut self, message: Bytes, now: Instant) {
        if self.failed.is_some() {
            return;
        }
        self.heard(now);
        let Frame { stream: id, body, .. } = match Frame::decode(message) {
            Ok(frame) => frame,
            Err(bad) => return self.fail(Error::Protocol(bad.to_string())),
        };
        match body {
            Body::Data(data) => self.data(id, &data, now),
            Body::Connect { proto, address } => self.connect(id, proto, address),
            Body::BadConnect(why) => {
                if self.is_new(id) {
                    self.say(id, Body::Error(Some(why.to_owned())));
                }
            }
            Body::Error(text) => self.told_the_end(id, text),
            Body::Pause => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.held = true;
                }
            }
            Body::Resume => self.resume(id),
            Body::Sync(known) => self.sync(known),
            // Peering of servers is not spoken; what is not known was added by a later version.
            Body::AddClient(_) | Body::RemoveClient(_) | Body::Unknown(_) => {}
        }
    }

    /// Whether the peer may open this stream; a number that is taken ends the session, since answers to it would hit
    /// another stream.
    fn is_new(&mut self, id: StreamId) -> bool {
        let free = id != GREETING && !self.streams.contains_key(&id);
        if !free {
            self.fail(Error::Protocol(format!("stream {id} was opened twice")));
        }
        free
    }

    fn connect(&mut self, id: StreamId, proto: String, address: String) {
        if !self.is_new(id) {
            return;
        }
        if self.streams.len() >= self.limits.streams_max {
            let why = format!("more than {} streams", self.limits.streams_max);
            return self.say(id, Body::Error(Some(why)));
        }
        self.streams.insert(id, Stream::new(Opening::Dialling));
        self.events.push_back(Event::Connect { stream: id, proto, address });
    }

    fn data(&mut self, id: StreamId, data: &[u8], now: Instant) {
        self.bytes_in += data.len() as u64;
        let greeted = self.greeted;
        let Some(stream) = self.known_stream(id) else {
            if !data.is_empty() {
                self.say(id, Body::Error(Some(format!("stream {id} not found"))));
            }
            return;
        };
        if stream.over || stream.unused {
            return;
        }
        if stream.end.is_some() {
            return self.refused(id, "data after the end of the stream");
        }
        if data.is_empty() {
            if greeted {
                stream.end = Some(End::Finished);
                self.events.push_back(Event::Readable(id));
            }
            return;
        }
        stream.inbox.push(data);
        let (len, hold) = (stream.inbox.len(), stream.hold);
        self.unread += data.len();
        let limits = self.limits;
        if hold.is_some_and(|hold| hold.seen) && len > limits.fail_above {
            return self.refused(id, OVERFLOW);
        }
        if self.is_overfull(len) {
            self.overfull.get_or_insert((id, now));
        }
        if hold.is_none() && (len > limits.pause_above || self.unread > limits.receive_total) {
            self.say(id, Body::Pause);
            let ping = self.ping();
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.hold = Some(Hold { ping, seen: false });
            }
        }
        self.events.push_back(Event::Readable(id));
    }

    fn resume(&mut self, id: StreamId) {
        if id == GREETING {
            self.greeted = true;
            return;
        }
        if let Some(stream) = self.known_stream(id) {
            stream.held = false;
            self.enqueue(id);
        }
    }

    /// A peer that ended a stream may still wait for our end of it.
    fn told_the_end(&mut self, id: StreamId, text: Option<String>) {
        if self.streams.get(&id).is_some_and(|stream| !stream.over) {
            self.ended(id, text);
            self.say(id, Body::Error(None));
        }
    }

    fn ended(&mut self, id: StreamId, text: Option<String>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end_with(text.map_or(End::Finished, End::Failed));
            self.wake(id);
            self.forget_if_done(id);
        }
    }

    /// A client's list of its streams: others are dead. One that the client may not have heard of when it wrote the
    /// list gets a second chance.
    fn sync(&mut self, known: Vec<StreamId>) {
        if self.role != Role::Server {
            return;
        }
        let known: std::collections::BTreeSet<StreamId> = known.into_iter().collect();
        let mut dead = Vec::new();
        for (id, stream) in &mut self.streams {
            let missing = !known.contains(id) && !stream.over;
            if missing && (stream.known || stream.missed) {
                dead.push(*id);
            }
            stream.missed = missing;
        }
        for id in dead {
            self.ended(id, Some("stream is not known to the client any more".to_owned()));
        }
    }

    /// The stream, marked as known to the peer; the first sign opens it.
    fn known_stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(&id)?;
        stream.known = true;
        if stream.opening == Opening::Asked {
            stream.opening = Opening::Open;
            self.events.push_back(Event::Readable(id));
        }
        Some(stream)
    }
}
