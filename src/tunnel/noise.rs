//! The state machine against a peer that says anything, for the fuzz target in `fuzz/`.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Limits;
use crate::frame::Frame;
use crate::mux::{Mux, Outgoing, Role};

/// Reads the input as what a peer says and a user does, one byte of choice before each, and panics when a bound does
/// not hold or a message of ours cannot be read.
pub fn noise(mut input: &[u8]) {
    let (limits, mut now) = (Limits::small(), Instant::now());
    let mut mux = Mux::new(Role::Server, limits, now);
    while let Some((choice, rest)) = input.split_first() {
        let (what, argument) = (choice >> 5, choice & 31);
        let id = i64::from(argument) - 4;
        input = rest;
        match what {
            0 | 1 if mux.congested() => {}
            0 | 1 => {
                let (message, rest) = rest.split_at(usize::from(argument).min(rest.len()));
                mux.receive(Bytes::copy_from_slice(message), now);
                input = rest;
            }
            2 => match argument {
                0..8 => drop(mux.dial("tcp", "a:1")),
                _ => mux.refused(id, "no"),
            },
            3 => drop(mux.write(id, &[1; 30])),
            4 => drop(mux.read(id)),
            5 => mux.release(id),
            6 => mux.accepted(id),
            _ => {
                now += Duration::from_millis(u64::from(argument) * 200);
                mux.tick(now);
                while let Some(outgoing) = mux.next_outgoing() {
                    let Outgoing::Message(message) = outgoing else { continue };
                    assert!(Frame::decode(message).is_ok(), "a message of ours cannot be read");
                }
            }
        }
        while mux.next_event().is_some() {}
        let held = limits.receive_total * 2 + 60 + limits.streams_max * limits.send_buffer;
        assert!(mux.streams() <= limits.streams_max, "{} streams", mux.streams());
        assert!(mux.held_bytes() <= held, "{} bytes held", mux.held_bytes());
        let waiting = limits.control_max + 3 * limits.streams_max;
        assert!(mux.waiting_messages() <= waiting, "{} messages", mux.waiting_messages());
    }
}
