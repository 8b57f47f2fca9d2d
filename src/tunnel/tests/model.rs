//! Two state machines back to back with random wishes, delays and cuts, and one against a peer that says anything.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use crate::Limits;
use crate::frame::{Frame, StreamId};
use crate::mux::{End, Event, Mux, Opened, Outgoing, Read, Role};

/// One thing that happens; sides are 0 and 1, streams are taken modulo those that are open.
#[derive(Debug, Clone)]
enum Act {
    Dial(usize),
    Write(usize, usize, u16),
    Read(usize, usize),
    Finish(usize, usize),
    Release(usize, usize),
    /// Moves messages of a side into the wire, and some of the wire to the other side.
    Move(usize, u8, u8),
    Pass(u16),
    Cut,
}

fn act() -> impl Strategy<Value = Act> {
    let (side, stream) = (0..2_usize, 0..6_usize);
    prop_oneof![
        2 => side.clone().prop_map(Act::Dial),
        8 => (side.clone(), stream.clone(), 1..120_u16).prop_map(|(s, i, n)| Act::Write(s, i, n)),
        8 => (side.clone(), stream.clone()).prop_map(|(s, i)| Act::Read(s, i)),
        1 => (side.clone(), stream.clone()).prop_map(|(s, i)| Act::Finish(s, i)),
        1 => (side.clone(), stream).prop_map(|(s, i)| Act::Release(s, i)),
        12 => (side, 0..8_u8, 0..8_u8).prop_map(|(s, a, b)| Act::Move(s, a, b)),
        2 => (0..3_000_u16).prop_map(Act::Pass),
        1 => Just(Act::Cut),
    ]
}

/// What a user of one end has done and seen.
#[derive(Default)]
struct User {
    written: Vec<u8>,
    read: Vec<u8>,
    finished: bool,
    end: Option<End>,
}

/// Messages under way in one direction.
const WIRE_MAX: usize = 12;

/// What is under way; a ping travels in order with messages, its pong comes at once.
enum Wire {
    Message(Bytes),
    Ping(u64),
    Pong(u64),
}

struct World {
    sides: [Mux; 2],
    wires: [VecDeque<Wire>; 2],
    users: [BTreeMap<StreamId, User>; 2],
    /// What was written at ends that are gone.
    gone: BTreeMap<(usize, StreamId), Vec<u8>>,
    cut: bool,
    now: Instant,
    seed: u8,
}

impl World {
    fn new() -> World {
        let now = Instant::now();
        World {
            sides: [
                Mux::new(Role::Client, Limits::small(), now),
                Mux::new(Role::Server, Limits::small(), now),
            ],
            wires: Default::default(),
            users: Default::default(),
            gone: BTreeMap::new(),
            cut: false,
            now,
            seed: 0,
        }
    }

    fn pick(&self, side: usize, index: usize) -> Option<StreamId> {
        let opened = |id: &&StreamId| self.sides[side].opened(**id, self.now) != Opened::Waiting;
        let ids: Vec<_> = self.users[side].keys().filter(opened).collect();
        ids.get(index % ids.len().max(1)).map(|id| **id)
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Dial(side) => {
                if let Ok(id) = self.sides[side].dial("tcp", "a:1") {
                    self.users[side].insert(id, User::default());
                }
            }
            Act::Write(side, index, len) => self.write(side, index, usize::from(len)),
            Act::Read(side, index) => {
                if let Some(id) = self.pick(side, index) {
                    self.read(side, id);
                }
            }
            Act::Finish(side, index) => {
                if let Some(id) = self.pick(side, index) {
                    self.sides[side].finish(id);
                    self.user(side, id).finished = true;
                }
            }
            Act::Release(side, index) => {
                if let Some(id) = self.pick(side, index) {
                    self.sides[side].release(id);
                    let user = self.users[side].remove(&id).unwrap_or_default();
                    self.gone.insert((side, id), user.written);
                }
            }
            Act::Move(side, from, to) => self.shift(side, from, to),
            Act::Pass(ms) => {
                self.now += Duration::from_millis(u64::from(ms));
                let now = self.now;
                self.sides.iter_mut().for_each(|side| side.tick(now));
            }
            Act::Cut => {
                self.cut = true;
                self.wires.iter_mut().for_each(VecDeque::clear);
            }
        }
        (0..2).for_each(|side| self.events(side));
    }

    fn user(&mut self, side: usize, id: StreamId) -> &mut User {
        self.users[side].entry(id).or_default()
    }

    fn write(&mut self, side: usize, index: usize, len: usize) {
        let Some(id) = self.pick(side, index) else { return };
        self.seed = self.seed.wrapping_add(1);
        let bytes: Vec<u8> = (0..len).map(|i| self.seed.wrapping_mul(31) ^ i as u8).collect();
        if let Some(taken) = self.sides[side].write(id, &bytes) {
            self.user(side, id).written.extend_from_slice(&bytes[..taken]);
        }
    }

    fn read(&mut self, side: usize, id: StreamId) {
        match self.sides[side].read(id) {
            Read::Bytes(bytes) => {
                let user = self.user(side, id);
                assert!(user.end.is_none(), "bytes after the end");
                user.read.extend_from_slice(&bytes);
            }
            Read::Nothing => {}
            Read::End(end) => {
                let overflow = End::Failed("receive buffer exceeded".to_owned());
                assert_ne!(end, overflow, "the other side minds every pause");
                self.user(side, id).end = Some(end);
            }
        }
        self.check(side, id);
    }

    /// What was read is the beginning of what was written; at a good end it is all of it.
    fn check(&self, side: usize, id: StreamId) {
        let read = &self.users[side][&id];
        let empty = Vec::new();
        let written = match self.users[1 - side].get(&id) {
            Some(user) => &user.written,
            None => self.gone.get(&(1 - side, id)).unwrap_or(&empty),
        };
        assert!(written.starts_with(&read.read), "bytes out of order");
        if read.end == Some(End::Finished) {
            assert_eq!(&read.read, written, "a good end before all was read");
        }
    }

    fn shift(&mut self, side: usize, from: u8, to: u8) {
        let room = WIRE_MAX.saturating_sub(self.wires[side].len());
        for _ in 0..usize::from(from).min(room) {
            let Some(outgoing) = self.sides[side].next_outgoing() else { break };
            if !self.cut {
                self.wires[side].push_back(match outgoing {
                    Outgoing::Message(message) => Wire::Message(message),
                    Outgoing::Ping(number) => Wire::Ping(number),
                });
            }
        }
        for _ in 0..to {
            if self.sides[1 - side].congested() {
                break;
            }
            let now = self.now;
            match self.wires[side].pop_front() {
                Some(Wire::Message(message)) => self.sides[1 - side].receive(message, now),
                Some(Wire::Ping(number)) => {
                    self.sides[1 - side].heard(now);
                    self.wires[1 - side].push_back(Wire::Pong(number));
                }
                Some(Wire::Pong(number)) => {
                    self.sides[1 - side].heard(now);
                    self.sides[1 - side].pong(number);
                }
                None => break,
            }
        }
    }

    fn events(&mut self, side: usize) {
        while let Some(event) = self.sides[side].next_event() {
            if let Event::Connect { stream, .. } = event {
                self.sides[side].accepted(stream);
                self.users[side].insert(stream, User::default());
            }
        }
    }

    /// Lets everything arrive and be read; with a cut link, lets the deadline pass.
    fn settle(&mut self) {
        if self.cut {
            self.now += Limits::small().deadline;
            let now = self.now;
            self.sides.iter_mut().for_each(|side| side.tick(now));
        }
        for _ in 0..400 {
            for side in 0..2 {
                self.shift(side, 8, 16);
                self.events(side);
                let ids: Vec<StreamId> = self.users[side].keys().copied().collect();
                ids.into_iter().for_each(|id| self.read(side, id));
            }
        }
    }
}

fn all_is_well_at_the_end(world: &mut World) {
    world.settle();
    if world.cut {
        for side in 0..2 {
            assert!(world.sides[side].failure().is_some(), "a cut link ends the session");
            assert!(world.users[side].values().all(|u| u.end.is_some()), "and every stream");
        }
        return;
    }
    for side in 0..2 {
        assert_eq!(world.sides[side].failure(), None);
        for (id, user) in &world.users[side] {
            let Some(other) = world.users[1 - side].get(id) else { continue };
            let broken = matches!(user.end, Some(End::Failed(_)))
                || matches!(other.end, Some(End::Failed(_)));
            if !broken {
                assert_eq!(user.read, other.written, "side {side} stream {id}: bytes are missing");
                assert_eq!(user.end.is_some(), other.finished, "side {side} stream {id}: end");
            }
        }
    }
    for (side, users) in world.users.clone_ids() {
        for id in users {
            world.sides[side].release(id);
        }
    }
    world.settle_released();
    assert_eq!(world.sides.each_ref().map(Mux::streams), [0, 0], "streams are left");
}

impl World {
    fn settle_released(&mut self) {
        self.users = Default::default();
        for _ in 0..400 {
            for side in 0..2 {
                self.shift(side, 8, 16);
                self.events(side);
            }
        }
    }
}

trait Ids {
    fn clone_ids(&self) -> Vec<(usize, Vec<StreamId>)>;
}

impl Ids for [BTreeMap<StreamId, User>; 2] {
    fn clone_ids(&self) -> Vec<(usize, Vec<StreamId>)> {
        self.iter().enumerate().map(|(i, users)| (i, users.keys().copied().collect())).collect()
    }
}

#[derive(Debug, Clone)]
enum Noise {
    Bytes(Vec<u8>),
    /// A well formed header with any payload.
    Frame(i64, i64, Vec<u8>),
    Dial,
    Write(i64),
    Read(i64),
    Release(i64),
    Accept(i64),
    Refuse(i64),
    Pass(u16),
    Send,
}

fn noise() -> impl Strategy<Value = Noise> {
    let id = || -2..8_i64;
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Noise::Bytes),
        20 => (id(), 0..10_i64, proptest::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(id, kind, payload)| Noise::Frame(id, kind, payload)),
        1 => Just(Noise::Dial),
        3 => id().prop_map(Noise::Write),
        3 => id().prop_map(Noise::Read),
        2 => id().prop_map(Noise::Release),
        2 => id().prop_map(Noise::Accept),
        1 => id().prop_map(Noise::Refuse),
        1 => any::<u16>().prop_map(Noise::Pass),
        5 => Just(Noise::Send),
    ]
}

fn encoded(id: i64, kind: i64, payload: &[u8]) -> Bytes {
    let zigzag = |n: i64| ((n << 1) ^ (n >> 63)) as u8;
    let mut bytes = vec![2, zigzag(id), zigzag(kind)];
    if kind == 1 || kind == 2 {
        bytes.push(0);
    }
    if kind == 2 {
        bytes.extend_from_slice(b"tcp/");
    }
    bytes.extend_from_slice(payload);
    bytes.into()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn bytes_arrive_in_order_and_complete_or_the_stream_fails(
        acts in proptest::collection::vec(act(), 1..160),
        cut in any::<bool>(),
    ) {
        let mut world = World::new();
        for act in acts.iter().filter(|act| cut || !matches!(act, Act::Cut)) {
            world.act(act);
        }
        all_is_well_at_the_end(&mut world);
    }

    #[test]
    fn no_peer_breaks_a_bound(noises in proptest::collection::vec(noise(), 1..300)) {
        let mut now = Instant::now();
        let limits = Limits::small();
        let mut mux = Mux::new(Role::Server, limits, now);
        for noise in noises {
            match noise {
                Noise::Bytes(_) | Noise::Frame(..) if mux.congested() => {}
                Noise::Bytes(bytes) => mux.receive(bytes.into(), now),
                Noise::Frame(id, kind, payload) => mux.receive(encoded(id, kind, &payload), now),
                Noise::Dial => drop(mux.dial("tcp", "a:1")),
                Noise::Write(id) => drop(mux.write(id, &[1; 30])),
                Noise::Read(id) => drop(mux.read(id)),
                Noise::Release(id) => mux.release(id),
                Noise::Accept(id) => mux.accepted(id),
                Noise::Refuse(id) => mux.refused(id, "no"),
                Noise::Pass(ms) => {
                    now += Duration::from_millis(u64::from(ms));
                    mux.tick(now);
                }
                Noise::Send => {
                    if let Some(Outgoing::Message(message)) = mux.next_outgoing() {
                        prop_assert!(Frame::decode(message).is_ok());
                    }
                }
            }
            while mux.next_event().is_some() {}
            prop_assert!(mux.streams() <= limits.streams_max);
            prop_assert!(mux.held_bytes() <= limits.receive_total * 2 + 60 + limits.streams_max * limits.send_buffer);
            prop_assert!(mux.waiting_messages() <= limits.control_max + 3 * limits.streams_max);
        }
    }
}
