//! Pings, deadlines and lists of streams.

use std::time::Duration;

use super::flow::{Side, connect};
use crate::Limits;
use crate::frame::Body;
use crate::mux::{End, Outgoing, Read, Role};

#[test]
fn the_client_pings_and_tells_its_streams() {
    let mut side = Side::greeted(Role::Client);
    let (start, limits) = (side.now, Limits::small());
    let (mut pings, mut lists) = (0, 0);
    while side.now < start + Duration::from_secs(181) {
        side.now = side.mux.next_tick(side.now);
        side.mux.tick(side.now);
        side.mux.heard(side.now);
        for outgoing in side.sent() {
            match outgoing {
                Outgoing::Ping(_) => pings += 1,
                Outgoing::Message(_) => lists += 1,
            }
        }
    }
    let seconds = (side.now - start).as_secs();
    assert_eq!(pings as u64, seconds / limits.ping_every.as_secs());
    assert_eq!(lists as u64, seconds / limits.sync_every.as_secs());
}

#[test]
fn the_server_only_waits() {
    let mut side = Side::greeted(Role::Server);
    assert_eq!(side.mux.next_tick(side.now), side.now + Limits::small().deadline);
    side.now += Duration::from_secs(59);
    side.mux.tick(side.now);
    side.mux.heard(side.now);
    side.now += Duration::from_secs(59);
    side.mux.tick(side.now);
    assert!(side.mux.failure().is_none());
    assert!(side.events().is_empty() && side.said().is_empty());
}

#[test]
fn streams_that_the_client_forgot_are_dropped() {
    let mut side = Side::greeted(Role::Server);
    let acknowledged = side.mux.dial("tcp", "a:1").expect("dialled");
    let kept = side.mux.dial("tcp", "a:2").expect("dialled");
    let under_way = side.mux.dial("tcp", "a:3").expect("dialled");
    side.hear(1, connect("tcp", "b:1"));
    side.hear(acknowledged, Body::Resume);
    side.said();
    side.hear(0, Body::Sync(vec![kept]));
    let why = "stream is not known to the client any more".to_owned();
    let gone = Read::End(End::Failed(why));
    assert_eq!(side.mux.read(acknowledged), gone);
    assert_eq!(side.mux.read(1), gone);
    assert_eq!(side.mux.read(kept), Read::Nothing);
    assert_eq!(side.mux.read(under_way), Read::Nothing, "the list may be older than the wish");
    side.hear(0, Body::Sync(vec![kept]));
    assert_eq!(side.mux.read(under_way), gone);
    assert!(side.said().is_empty(), "nothing is said about streams that the peer forgot");
}

#[test]
fn the_client_keeps_its_streams_whatever_a_list_says() {
    let mut side = Side::greeted(Role::Client);
    side.hear(2, connect("tcp", "a:1"));
    side.hear(0, Body::Sync(vec![]));
    assert_eq!(side.mux.read(2), Read::Nothing);
}

#[test]
fn a_list_names_living_streams_only() {
    let mut side = Side::greeted(Role::Client);
    for id in [2, 4] {
        side.hear(id, connect("tcp", "a:1"));
    }
    side.hear(4, Body::Error(None));
    assert_eq!(side.said(), [(4, Body::Error(None))]);
    side.now += Limits::small().sync_every - Duration::from_millis(1);
    side.mux.heard(side.now);
    side.now += Duration::from_millis(1);
    side.mux.tick(side.now);
    assert_eq!(side.said(), [(0, Body::Sync(vec![2]))]);
}
