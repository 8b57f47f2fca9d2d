//! Decides who answers: the index for the cluster's names, the node's resolvers for all others, both for an alias
//! that leads out of the cluster.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name;

use super::answer::{Answer, answer};
use super::cache::{Key, Reply};
use super::forward::Forwarder;
use super::index::Index;
use super::packet::{Carrier, Packet, Request};
use super::resolv_conf::{Refused, Upstreams};
use super::{Config, Error};

/// Aliases followed for one question.
const ALIASES_MAX: usize = 8;

pub(crate) struct Resolver {
    index: Arc<RwLock<Index>>,
    forwarder: Forwarder,
}

impl Resolver {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let not_a_name = || Error::Zone { zone: config.zone.clone() };
        let mut zone = Name::from_ascii(&config.zone).map_err(|_| not_a_name())?.to_lowercase();
        if zone.is_root() || zone.num_labels() == 0 {
            return Err(not_a_name());
        }
        zone.set_fqdn(true);
        let servers = config.listen.iter().map(|address| address.ip());
        let servers = servers.filter(|address| !address.is_unspecified()).collect();
        let refused =
            Refused { addresses: config.own_addresses.clone(), sockets: config.listen.clone() };
        let upstreams = Upstreams::new(config.resolv_conf.clone(), config.upstream_port, refused);
        Ok(Self {
            index: Arc::new(RwLock::new(Index::new(zone, config.ttl, servers))),
            forwarder: Forwarder::new(upstreams),
        })
    }

    pub(crate) fn index(&self) -> Arc<RwLock<Index>> {
        self.index.clone()
    }

    /// Writes the reply into `out` if it is known without asking anyone; false if it is not.
    pub(crate) fn immediate(&self, request: &Request, carrier: Carrier, out: &mut Vec<u8>) -> bool {
        if let Some(found) = self.look_up(&request.query, request.id) {
            if found.next.is_some() {
                return false;
            }
            match local(&request.query, found) {
                Some(packet) => packet.write(request, 0, carrier, out),
                None => fail(request, carrier, out),
            }
            return true;
        }
        let cached = self.forwarder.cached(&Key::new(request));
        if let Some(reply) = &cached {
            reply.packet.write(request, age(reply), carrier, out);
        }
        cached.is_some()
    }

    /// Writes the reply into `out`, asking the node's resolvers as needed.
    pub(crate) async fn resolve(&self, request: &Request, carrier: Carrier, out: &mut Vec<u8>) {
        match self.look_up(&request.query, request.id) {
            Some(found) => match self.follow(request, found).await {
                Some(packet) => packet.write(request, 0, carrier, out),
                None => fail(request, carrier, out),
            },
            None => match self.forwarder.ask(request).await {
                Some(reply) => reply.packet.write(request, age(&reply), carrier, out),
                None => fail(request, carrier, out),
            },
        }
    }

    fn look_up(&self, query: &Query, turn: u16) -> Option<Answer> {
        let mut found = answer(&read(&self.index), query)?;
        found.rotate(usize::from(turn));
        Some(found)
    }

    /// Goes where the aliases of an answer lead.
    async fn follow(&self, request: &Request, mut found: Answer) -> Option<Packet> {
        let mut aliases = 0;
        while let Some(target) = found.next.take() {
            aliases += 1;
            if aliases > ALIASES_MAX {
                found.code = ResponseCode::ServFail;
                break;
            }
            let mut asked = request.clone();
            asked.query.name = target;
            match self.look_up(&asked.query, request.id) {
                Some(more) => {
                    found.code = more.code;
                    found.answers.extend(more.answers);
                    found.authorities = more.authorities;
                    found.additionals = more.additionals;
                    found.next = more.next;
                }
                None => {
                    let reply = self.forwarder.ask(&asked).await;
                    append(&mut found, reply.as_ref());
                }
            }
        }
        local(&request.query, found)
    }

    #[cfg(test)]
    pub(crate) fn cache_usage(&self) -> (usize, usize) {
        self.forwarder.cache_usage()
    }
}

/// Adds the reply about an alias' target.
fn append(found: &mut Answer, reply: Option<&Reply>) {
    let Some((message, reply)) = reply.and_then(|reply| Some((reply.packet.message()?, reply)))
    else {
        found.code = ResponseCode::ServFail;
        return;
    };
    let age = age(reply);
    found.code = message.response_code;
    found.answers.extend(message.answers.into_iter().map(|mut record| {
        record.ttl = record.ttl.saturating_sub(age);
        record
    }));
    found.authorities = message.authorities;
}

fn local(query: &Query, found: Answer) -> Option<Packet> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = found.code;
    message.metadata.authoritative = found.code != ResponseCode::ServFail;
    message.metadata.recursion_available = true;
    message.queries = vec![query.clone()];
    message.answers = found.answers;
    message.authorities = found.authorities;
    message.additionals = found.additionals;
    Packet::new(&message)
}

/// Writes that the question could not be answered.
pub(crate) fn fail(request: &Request, carrier: Carrier, out: &mut Vec<u8>) {
    out.clear();
    if let Some(packet) = Packet::code(&request.query, ResponseCode::ServFail) {
        packet.write(request, 0, carrier, out);
    }
}

fn age(reply: &Reply) -> u32 {
    let seconds = Instant::now().saturating_duration_since(reply.made).as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

pub(crate) fn read(index: &RwLock<Index>) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}
