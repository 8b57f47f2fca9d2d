//! The cache of replies: what is kept, for how long, and how much of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{RData, Record, RecordType};

use super::{name, query, request};
use crate::dns::cache::{Cache, Key, Reply, lifetime};
use crate::dns::packet::Packet;

fn message(code: ResponseCode, answers: &[(u32, RData)], soa: Option<(u32, u32)>) -> Message {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.queries.push(query("a.example.", RecordType::A));
    for (ttl, data) in answers {
        message.answers.push(Record::from_rdata(name("a.example."), *ttl, data.clone()));
    }
    if let Some((ttl, minimum)) = soa {
        let data = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, minimum);
        message.authorities.push(Record::from_rdata(name("example."), ttl, RData::SOA(data)));
    }
    message
}

fn reply(made: Instant) -> Reply {
    let packet = Packet::new(&message(ResponseCode::NoError, &[], None)).unwrap();
    Reply { packet: Arc::new(packet.shrunk()), made }
}

#[test]
fn lifetimes() {
    let a = || RData::A(A([192, 0, 2, 1].into()));
    let alias = || RData::CNAME(CNAME(name("b.example.")));
    let ok = ResponseCode::NoError;
    let missing = ResponseCode::NXDomain;
    for (message, seconds) in [
        (message(ok, &[(60, a()), (20, a())], None), 20),
        (message(ok, &[(0, a())], None), 0),
        (message(ok, &[(86_400, a())], None), 3600),
        (message(ok, &[(50, alias()), (60, a())], None), 50),
        (message(ok, &[], Some((100, 30))), 30),
        (message(ok, &[], Some((10, 30))), 10),
        (message(ok, &[], None), 0),
        (message(ok, &[(5, alias())], Some((100, 30))), 5),
        (message(missing, &[], Some((100, 86_400))), 100),
        (message(missing, &[], Some((86_400, 86_400))), 300),
        (message(missing, &[], None), 0),
        (message(ResponseCode::ServFail, &[], None), 1),
        (message(ResponseCode::Refused, &[], None), 1),
    ] {
        assert_eq!(lifetime(&message), Duration::from_secs(seconds), "{message}");
    }
}

#[test]
fn replies_expire() {
    let mut cache = Cache::default();
    let now = Instant::now();
    let key = Key::new(&request("a.example.", RecordType::A));
    cache.put(&key, reply(now), Duration::from_secs(10));
    assert!(cache.get(&key, now + Duration::from_secs(9)).is_some());
    assert!(cache.get(&key, now + Duration::from_secs(10)).is_none());
    cache.put(&key, reply(now), Duration::ZERO);
    assert_eq!(cache.usage().0, 1, "what may not be kept replaces nothing");
}

#[test]
fn questions_differ_in_type_and_flags_but_not_in_case() {
    let plain = request("a.example.", RecordType::A);
    let key = |request| Key::new(&request).as_bytes().to_vec();
    assert_eq!(key(plain.clone()), key(request("A.eXample.", RecordType::A)));
    assert_ne!(key(plain.clone()), key(request("a.example.", RecordType::AAAA)));
    let numbered = |number| key(request("a.example.", RecordType::Unknown(number)));
    assert_ne!(numbered(0x4142), numbered(0x6162), "types are no letters");
    let mut dnssec = plain.clone();
    dnssec.edns = Some((1232, true));
    assert_ne!(key(plain.clone()), key(dnssec));
    let mut unchecked = plain.clone();
    unchecked.checking_disabled = true;
    assert_ne!(key(plain), key(unchecked));
}

#[test]
fn bounded_and_partial_to_what_is_asked_for() {
    let mut cache = Cache::default();
    let now = Instant::now();
    let hour = Duration::from_secs(3600);
    let popular = Key::new(&request("popular.example.", RecordType::A));
    cache.put(&popular, reply(now), hour);
    for number in 0..20_000 {
        let key = Key::new(&request(&format!("n{number}.example."), RecordType::A));
        cache.put(&key, reply(now), hour);
        assert!(cache.get(&popular, now).is_some(), "{number}");
    }
    let (entries, bytes) = cache.usage();
    assert!(entries <= 4096 && bytes <= 2 * 1024 * 1024, "{entries} {bytes}");
    assert!(entries > 2000, "{entries}");
    let late = now + hour + hour;
    for number in 0..10_000 {
        let key = Key::new(&request(&format!("m{number}.example."), RecordType::A));
        cache.put(&key, reply(late), hour);
    }
    assert!(cache.get(&popular, now).is_none(), "what expired goes whoever asked for it");
    cache.clear();
    assert_eq!(cache.usage(), (0, 0));
}
