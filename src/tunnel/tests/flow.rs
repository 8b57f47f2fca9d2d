//! Streams of the state machine: opening, refusing, pausing, ending.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Error;
use crate::Limits;
use crate::frame::{Body, Frame, StreamId};
use crate::mux::{End, Event, Mux, NotDialled, Opened, Outgoing, Read, Role};

/// A state machine under test, with the other side played by hand.
pub(super) struct Side {
    pub(super) mux: Mux,
    pub(super) now: Instant,
}

impl Side {
    pub(super) fn new(role: Role) -> Side {
        let now = Instant::now();
        Side { mux: Mux::new(role, Limits::small(), now), now }
    }

    /// A side whose peer has greeted, with its own greeting out of the way.
    pub(super) fn greeted(role: Role) -> Side {
        let mut side = Side::new(role);
        assert_eq!(side.said(), [(0, Body::Resume)]);
        side.hear(0, Body::Resume);
        side
    }

    pub(super) fn hear(&mut self, stream: StreamId, body: Body) {
        self.mux.receive(Frame { message: 1, stream, body }.encode(), self.now);
    }

    /// What it sends, without the pings.
    pub(super) fn said(&mut self) -> Vec<(StreamId, Body)> {
        let messages = self.sent().into_iter().filter_map(|outgoing| match outgoing {
            Outgoing::Message(message) => Some(Frame::decode(message).expect("ours")),
            Outgoing::Ping(_) => None,
        });
        messages.map(|f| (f.stream, f.body)).collect()
    }

    pub(super) fn sent(&mut self) -> Vec<Outgoing> {
        std::iter::from_fn(|| self.mux.next_outgoing()).collect()
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.mux.next_event()).collect()
    }

    /// A stream that the peer opened and that was accepted.
    fn accepted(&mut self, id: StreamId) {
        self.hear(id, connect("tcp", "a:1"));
        self.mux.accepted(id);
        self.said();
        self.events();
    }

    fn opened(&self, id: StreamId) -> Opened {
        self.mux.opened(id, self.now)
    }
}

pub(super) fn connect(proto: &str, address: &str) -> Body {
    Body::Connect { proto: proto.to_owned(), address: address.to_owned() }
}

pub(super) fn data(bytes: &[u8]) -> Body {
    Body::Data(Bytes::copy_from_slice(bytes))
}

fn failed(why: &str) -> Read {
    Read::End(End::Failed(why.to_owned()))
}

#[test]
fn a_dialled_stream_opens_with_the_acknowledgement() {
    let mut side = Side::greeted(Role::Client);
    let id = side.mux.dial("tcp", "127.0.0.1:10250").expect("dialled");
    assert_eq!(side.said(), [(1, connect("tcp", "127.0.0.1:10250"))]);
    assert_eq!(side.opened(id), Opened::Waiting);
    side.hear(id, Body::Resume);
    assert_eq!(side.events(), [Event::Readable(1)]);
    assert_eq!(side.opened(id), Opened::Open);
}

#[test]
fn a_refusal_has_the_words_of_the_peer() {
    let mut side = Side::greeted(Role::Server);
    let id = side.mux.dial("tcp", "127.0.0.1:1").expect("dialled");
    assert_eq!(id, 2);
    side.hear(id, Body::Error(Some("connection refused".to_owned())));
    assert_eq!(side.opened(id), Opened::Refused("connection refused".to_owned()));
    assert_eq!(side.said(), [(id, connect("tcp", "127.0.0.1:1")), (id, Body::Error(None))]);
    side.hear(id, Body::Error(None));
    side.mux.release(id);
    assert_eq!(side.mux.streams(), 0);
    assert!(side.said().is_empty(), "the end is answered once");
}

#[test]
fn a_peer_that_never_greets_is_not_waited_for() {
    let mut side = Side::new(Role::Server);
    let id = side.mux.dial("tcp", "127.0.0.1:10250").expect("dialled");
    assert_eq!(side.opened(id), Opened::Waiting);
    side.now = side.mux.next_tick(side.now);
    side.mux.tick(side.now);
    assert_eq!(side.events(), [Event::Readable(id)]);
    assert_eq!(side.opened(id), Opened::Open);
    side.said();
    side.mux.finish(id);
    assert_eq!(side.said(), [(id, Body::Error(None))], "it knows no half closed streams");
}

#[test]
fn dialling_has_limits() {
    let mut side = Side::new(Role::Client);
    let long = "a".repeat(263);
    assert!(matches!(side.mux.dial("tcp", &long), Err(NotDialled::Address(_))));
    assert!(matches!(side.mux.dial("tcp/x", "a"), Err(NotDialled::Address(_))));
    side.mux.dial("tcp", &long[..262]).expect("266 bytes");
    for _ in 1..8 {
        side.mux.dial("tcp", "a:1").expect("below the limit");
    }
    assert_eq!(side.mux.dial("tcp", "a:1"), Err(NotDialled::Streams(8)));
}

#[test]
fn a_ninth_stream_of_the_peer_is_refused_and_the_others_stay() {
    let mut side = Side::greeted(Role::Client);
    for id in (2..=16).step_by(2) {
        side.hear(id, connect("tcp", "a:1"));
    }
    side.hear(18, connect("tcp", "a:1"));
    assert_eq!(side.said(), [(18, Body::Error(Some("more than 8 streams".to_owned())))]);
    assert_eq!(side.mux.streams(), 8);
    side.hear(20, Body::BadConnect("no slash"));
    let why = "address is not of the form proto/address".to_owned();
    assert_eq!(side.said(), [(20, Body::Error(Some(why)))]);
}

#[test]
fn a_number_that_is_taken_ends_the_session() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.hear(2, connect("tcp", "a:1"));
    let error = Error::Protocol("stream 2 was opened twice".to_owned());
    assert_eq!(side.mux.failure(), Some(&error));
    assert_eq!(side.mux.read(2), failed(&error.to_string()));
}

#[test]
fn a_slow_reader_pauses_its_stream_alone() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.accepted(4);
    side.hear(2, data(&[1; 60]));
    side.hear(4, data(&[2; 60]));
    assert!(side.said().is_empty());
    side.hear(2, data(&[1; 10]));
    assert_eq!(side.said(), [(2, Body::Pause)]);
    assert_eq!(side.mux.read(2), Read::Bytes(vec![1; 70].into()));
    assert_eq!(side.said(), [(2, Body::Resume)]);
    assert_eq!(side.mux.read(2), Read::Nothing);
}

#[test]
fn a_peer_that_saw_the_pause_and_goes_on_loses_the_stream() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.accepted(4);
    side.hear(2, data(&[1; 70]));
    let sent = side.sent();
    assert!(matches!(sent[..], [Outgoing::Message(_), Outgoing::Ping(1)]), "{sent:?}");
    side.hear(2, data(&[1; 70]));
    assert!(side.said().is_empty(), "140 bytes may have been under way");
    side.mux.pong(1);
    side.hear(2, data(&[1; 1]));
    assert_eq!(side.said(), [(2, Body::Error(Some("receive buffer exceeded".to_owned())))]);
    assert_eq!(side.mux.read(2), failed("receive buffer exceeded"));
    assert_eq!(side.mux.read(4), Read::Nothing);
    assert!(side.mux.failure().is_none());
}

#[test]
fn much_unread_data_pauses_every_stream_that_brings_more() {
    let mut side = Side::greeted(Role::Client);
    (2..=12).step_by(2).for_each(|id| side.accepted(id));
    (2..=12).step_by(2).for_each(|id| side.hear(id, data(&[1; 60])));
    assert_eq!(side.said(), [(10, Body::Pause), (12, Body::Pause)]);
}

#[test]
fn without_room_nothing_is_read_until_the_stream_is_or_fails() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.accepted(4);
    let fill = |side: &mut Side| {
        while !side.mux.congested() {
            side.hear(2, data(&[1; 60]));
        }
    };
    fill(&mut side);
    side.said();
    assert!(matches!(side.mux.read(2), Read::Bytes(_)));
    assert!(side.mux.take_relieved() && !side.mux.congested(), "there is room again");
    fill(&mut side);
    side.said();
    side.now += Limits::small().unread_wait;
    assert_eq!(side.mux.next_tick(side.now), side.now, "time is looked at");
    side.mux.tick(side.now);
    assert!(side.mux.take_relieved() && !side.mux.congested(), "others go on");
    assert_eq!(side.mux.read(2), failed("receive buffer exceeded"));
    assert_eq!(side.said(), [(2, Body::Error(Some("receive buffer exceeded".to_owned())))]);
    assert_eq!(side.mux.read(4), Read::Nothing);
}

#[test]
fn a_paused_stream_keeps_its_bytes_and_others_go_on() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.accepted(4);
    side.hear(2, Body::Pause);
    assert_eq!(side.mux.write(2, &[7; 100]), Some(48), "the send buffer is bounded");
    assert_eq!(side.mux.write(4, &[8; 20]), Some(20));
    assert_eq!(side.said(), [(4, data(&[8; 16])), (4, data(&[8; 4]))]);
    assert_eq!(side.mux.room(2), Some(0));
    side.hear(2, Body::Resume);
    assert_eq!(side.said(), [(2, data(&[7; 16])), (2, data(&[7; 16])), (2, data(&[7; 16]))]);
    assert_eq!(side.mux.room(2), Some(48));
}

#[test]
fn streams_take_turns() {
    let mut side = Side::greeted(Role::Client);
    [2, 4, 6].into_iter().for_each(|id| side.accepted(id));
    for id in [2, 4, 6] {
        side.mux.write(id, &[0; 32]);
    }
    let order: Vec<StreamId> = side.said().into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, [2, 4, 6, 2, 4, 6]);
}

#[test]
fn halves_close_apart() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.mux.write(2, b"question");
    side.mux.finish(2);
    assert_eq!(side.said(), [(2, data(b"question")), (2, data(b""))]);
    assert_eq!(side.mux.write(2, b"more"), None);
    side.hear(2, data(b"answer"));
    side.hear(2, data(b""));
    assert_eq!(side.mux.read(2), Read::Bytes(Bytes::from_static(b"answer")));
    assert_eq!(side.mux.read(2), Read::End(End::Finished));
    side.mux.release(2);
    assert!(side.said().is_empty(), "both sides know that it is over");
    assert_eq!(side.mux.streams(), 0);
}

#[test]
fn what_was_written_is_sent_before_the_end() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.mux.write(2, &[5; 20]);
    side.mux.release(2);
    let end = (2, Body::Error(None));
    assert_eq!(side.said(), [(2, data(&[5; 16])), (2, data(&[5; 4])), end]);
    assert_eq!(side.mux.streams(), 0);
}

#[test]
fn data_before_the_end_is_read_before_the_end() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.hear(2, data(b"last words"));
    side.hear(2, Body::Error(Some("reset".to_owned())));
    assert_eq!(side.mux.write(2, b"more"), None);
    assert_eq!(side.mux.read(2), Read::Bytes(Bytes::from_static(b"last words")));
    assert_eq!(side.mux.read(2), failed("reset"));
}

#[test]
fn data_after_the_end_loses_the_stream() {
    let mut side = Side::greeted(Role::Client);
    side.accepted(2);
    side.hear(2, data(b""));
    side.hear(2, data(b"more"));
    assert_eq!(side.mux.read(2), failed("data after the end of the stream"));
    side.hear(6, data(b"stray"));
    let said = side.said();
    assert_eq!(said.last(), Some(&(6, Body::Error(Some("stream 6 not found".to_owned())))));
    assert!(side.mux.failure().is_none());
}

#[test]
fn a_peer_that_provokes_answers_and_takes_none_is_not_read() {
    let mut side = Side::new(Role::Client);
    for _ in 0..31 {
        assert!(!side.mux.congested());
        side.hear(2, data(b"stray"));
    }
    assert!(side.mux.congested());
    assert_eq!(side.mux.dial("tcp", "a:1"), Err(NotDialled::Congested));
    side.said();
    assert!(!side.mux.congested());
}

#[test]
fn the_end_of_the_session_ends_every_stream() {
    let mut side = Side::greeted(Role::Server);
    let asked = side.mux.dial("tcp", "a:1").expect("dialled");
    side.accepted(1);
    side.mux.write(1, b"unsent");
    side.now += Duration::from_secs(60);
    side.mux.tick(side.now);
    assert_eq!(side.mux.failure(), Some(&Error::Silent(Duration::from_secs(60))));
    let text = "tunnel peer was not heard for 60s";
    assert_eq!(side.opened(asked), Opened::Refused(text.to_owned()));
    assert_eq!(side.mux.read(1), failed(text));
    assert_eq!(side.mux.write_failure(1), Some(text.to_owned()));
    assert!(side.said().is_empty());
    assert!(matches!(side.mux.dial("tcp", "a:1"), Err(NotDialled::Over(_))));
    side.mux.release(1);
    side.mux.release(asked);
    assert_eq!(side.mux.streams(), 0);
}
