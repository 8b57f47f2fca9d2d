//! Replies of the node's resolvers, kept for as long as they allow, within bounds.
//!
//! When space is needed, expired replies go first, then those not asked for since the last round.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};

use super::packet::{Packet, Request};

/// Replies held.
const ENTRIES_MAX: usize = 4096;
/// Bytes of replies and their keys held.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// A reply is asked for again after this time, whatever it says.
const POSITIVE_MAX: u32 = 3600;
/// The same for replies that deny.
const NEGATIVE_MAX: u32 = 300;
/// How long a failure is kept, so that a dead resolver is not asked for each repetition of a query.
const FAILURE: u32 = 1;
/// Where the name begins in a key, after type and flags.
const NAME_AT: usize = 3;
/// Bytes of a key.
const KEY_MAX: usize = NAME_AT + 256;
/// About what the tables need per entry.
const OVERHEAD: usize = 128;

/// A question in the form that tells whether two are the same.
#[derive(Clone)]
pub(crate) struct Key {
    bytes: [u8; KEY_MAX],
    length: usize,
}

impl Key {
    pub(crate) fn new(request: &Request) -> Self {
        let mut key = Self { bytes: [0; KEY_MAX], length: 0 };
        key.push(&u16::from(request.query.query_type).to_be_bytes());
        let dnssec = request.edns.is_some_and(|(_, dnssec)| dnssec);
        key.push(&[u8::from(dnssec) | u8::from(request.checking_disabled) << 1]);
        for label in request.query.name.iter() {
            key.push(&[u8::try_from(label.len()).unwrap_or(u8::MAX)]);
            key.push(label);
        }
        // Lengths stay as they are: a label has at most 63 bytes, fewer than any letter's code.
        if let Some(name) = key.bytes.get_mut(NAME_AT..) {
            name.make_ascii_lowercase();
        }
        key
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            place.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// A reply and when it was made.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) packet: Arc<Packet>,
    pub(crate) made: Instant,
}

struct Held {
    reply: Reply,
    expires: Instant,
    asked: bool,
}

#[derive(Default)]
pub(crate) struct Cache {
    held: HashMap<Arc<[u8]>, Held>,
    order: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<Reply> {
        let held = self.held.get_mut(key.as_bytes()).filter(|held| held.expires > now)?;
        held.asked = true;
        Some(held.reply.clone())
    }

    pub(crate) fn put(&mut self, key: &Key, reply: Reply, lifetime: Duration) {
        let size = cost(key.as_bytes(), &reply.packet);
        if lifetime.is_zero() || size > BYTES_MAX / 8 {
            return;
        }
        let expires = reply.made + lifetime;
        let now = reply.made;
        let held = Held { reply, expires, asked: false };
        if let Some(old) = self.held.get_mut(key.as_bytes()) {
            self.bytes -= cost(key.as_bytes(), &old.reply.packet);
            *old = held;
        } else {
            let key: Arc<[u8]> = key.as_bytes().into();
            self.order.push_back(key.clone());
            self.held.insert(key, held);
        }
        self.bytes += size;
        while self.bytes > BYTES_MAX || self.held.len() > ENTRIES_MAX {
            self.evict(now);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Looks at the oldest entry: it goes, or comes to the end of the line if it was asked for.
    fn evict(&mut self, now: Instant) {
        let Some(key) = self.order.pop_front() else {
            return self.clear();
        };
        match self.held.get_mut(&key) {
            Some(held) if held.asked && held.expires > now => {
                held.asked = false;
                self.order.push_back(key);
            }
            Some(held) => {
                self.bytes -= cost(&key, &held.reply.packet);
                self.held.remove(&key);
            }
            None => {}
        }
    }

    #[cfg(test)]
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.held.len(), self.bytes)
    }
}

fn cost(key: &[u8], packet: &Packet) -> usize {
    OVERHEAD + key.len() + packet.size()
}

/// How long a resolver's reply may be kept.
pub(crate) fn lifetime(message: &Message) -> Duration {
    let records = message.answers.iter().map(|record| record.ttl).min();
    let denial = message.authorities.iter().find_map(denial);
    let answered = message.answers.iter().any(|record| {
        message.queries.first().is_some_and(|query| record.record_type() == query.query_type)
    });
    let seconds = match (message.response_code, answered) {
        (ResponseCode::NoError, true) => records.unwrap_or(0).min(POSITIVE_MAX),
        // An alias that leads to nothing is kept as long as both allow.
        (ResponseCode::NoError | ResponseCode::NXDomain, _) => {
            denial.unwrap_or(0).min(records.unwrap_or(u32::MAX)).min(NEGATIVE_MAX)
        }
        _ => FAILURE,
    };
    Duration::from_secs(seconds.into())
}

/// How long a zone lets its denials be kept.
fn denial(record: &Record) -> Option<u32> {
    match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    }
}
