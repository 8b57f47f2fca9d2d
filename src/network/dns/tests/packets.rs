//! Bytes in, bytes out.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::{name, query, request};
use crate::dns::packet::{Carrier, Incoming, Packet, Request, read};

fn reply(answers: u8) -> Message {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.queries.push(query("many.example.com.", RecordType::A));
    for last in 0..answers {
        let data = RData::A(A(Ipv4Addr::new(192, 0, 2, last)));
        message.answers.push(Record::from_rdata(name("many.example.com."), 300, data));
    }
    message
}

fn written(message: &Message, request: &Request, age: u32, carrier: Carrier) -> (usize, Message) {
    let mut out = vec![1, 2, 3];
    Packet::new(message).unwrap().write(request, age, carrier, &mut out);
    (out.len(), Message::from_vec(&out).unwrap())
}

#[test]
fn a_reply_echoes_its_request_and_has_aged() {
    let mut request = request("MANY.example.COM.", RecordType::A);
    request.checking_disabled = true;
    let (_, got) = written(&reply(2), &request, 100, Carrier::Udp);
    assert_eq!((got.id, got.message_type), (77, MessageType::Response));
    assert!(got.recursion_desired && got.checking_disabled && got.recursion_available);
    assert!(!got.truncation);
    assert_eq!(got.queries[0].name.to_string(), "MANY.example.COM.");
    assert_eq!(got.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [200, 200]);
    let edns = got.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, false));
    let (_, old) = written(&reply(1), &request, 1000, Carrier::Udp);
    assert_eq!(old.answers[0].ttl, 0);
}

#[test]
fn replies_fit_their_carrier() {
    let mut request = request("many.example.com.", RecordType::A);
    for (edns, carrier, limit, all) in [
        (None, Carrier::Udp, 512, false),
        (Some((100, true)), Carrier::Udp, 512, false),
        (Some((1000, false)), Carrier::Udp, 1000, false),
        (Some((65_535, false)), Carrier::Udp, 1232, false),
        (None, Carrier::Tcp, 65_535, true),
        (Some((512, false)), Carrier::Tcp, 65_535, true),
    ] {
        request.edns = edns;
        let (length, got) = written(&reply(200), &request, 0, carrier);
        assert!(length <= limit, "{length} {edns:?} {carrier:?}");
        assert!(length > limit - 16 || all, "{length}: as much as fits");
        assert_eq!(got.truncation, !all);
        assert_eq!(got.answers.len() == 200, all);
        assert_eq!(got.edns.map(|it| it.flags().dnssec_ok), edns.map(|it| it.1));
    }
}

#[test]
fn what_is_only_mentioned_may_be_missing() {
    let mut message = reply(1);
    message.additionals = reply(200).answers;
    let (length, got) =
        written(&message, &request("many.example.com.", RecordType::A), 0, Carrier::Udp);
    assert!(length <= 1232 && !got.truncation && got.answers.len() == 1);
    assert!(got.additionals.len() > 60);
}

#[test]
fn refusals() {
    let mut plain = Message::query();
    plain.queries.push(query("a.example.", RecordType::A));
    let refusal = |message: &Message| match read(&message.to_vec().unwrap()) {
        Incoming::Refusal(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    };
    let mut update = plain.clone();
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(refusal(&update).response_code, ResponseCode::NotImp);
    let mut chaos = plain.clone();
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(refusal(&chaos).response_code, ResponseCode::Refused);
    let mut two = plain.clone();
    two.queries.push(query("b.example.", RecordType::A));
    assert_eq!(refusal(&two).response_code, ResponseCode::FormErr);
    let mut future = plain.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    future.edns = Some(edns);
    let refused = refusal(&future);
    assert_eq!(u16::from(refused.response_code), 16, "bad version");
    assert_eq!(refused.id, future.id);
    let mut answer = plain.clone();
    answer.metadata.message_type = MessageType::Response;
    assert!(matches!(read(&answer.to_vec().unwrap()), Incoming::Noise), "two servers never talk");
}

#[test]
fn damaged_queries_are_refused_or_ignored() {
    let mut message = Message::query();
    message.queries.push(query("web.shop.svc.cluster.local.", RecordType::A));
    message.edns = Some(Edns::new());
    let bytes = message.to_vec().unwrap();
    for length in 0..bytes.len() {
        let incoming = read(&bytes[..length]);
        assert!(matches!(incoming, Incoming::Noise) == (length < 12), "{length} {incoming:?}");
    }
    for place in 0..bytes.len() {
        for flip in [0x01, 0x40, 0x80, 0xc0, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= flip;
            if let Incoming::Request(request) = read(&damaged) {
                let mut out = Vec::new();
                let packet = Packet::code(&request.query, ResponseCode::ServFail).unwrap();
                packet.write(&request, 0, Carrier::Udp, &mut out);
                assert!(Message::from_vec(&out).is_ok());
            }
        }
    }
}
