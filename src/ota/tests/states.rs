//! The machine's table, and the datastore that goes with it.

use std::fs;

use disk::slot::Slot::{self, A, B};

use super::board::Board;
use crate::{
    Before, BootStep, State, Update, clear_put_back_mark, forget, keep, put_back, was_put_back,
};

fn update() -> Update {
    Update {
        source: "http://host/v2".to_owned(),
        allow_downgrade: false,
        version: "2.0.0".parse().unwrap(),
        before_version: "1.0.0".parse().unwrap(),
        from: A,
        to: B,
        healthy_within: 300,
        before: Before::default(),
    }
}

#[test]
fn every_start_leads_somewhere() {
    let u = update;
    let trying = |starts| State::Trying { update: u(), starts };
    let falling = |reason: &str| State::FallingBack { update: u(), reason: reason.to_owned() };
    let fell = |reason: &str| BootStep::FellBack { update: u(), reason: reason.to_owned() };
    let never = "slot b with 2.0.0 did not start: its kernel, initramfs or root failed 3 times";
    let ended = "slot b with 2.0.0 started 3 times, and each time the machine ended before it was healthy (at most 300 s)";
    let table: [(State, Slot, State, BootStep); 12] = [
        (State::Idle, A, State::Idle, BootStep::Ordinary),
        (State::Idle, B, State::Idle, BootStep::Ordinary),
        (State::Writing(u()), A, State::Writing(u()), BootStep::Ordinary),
        (State::Writing(u()), B, State::Idle, BootStep::Lost(u())),
        (State::Staged(u()), A, State::Staged(u()), BootStep::Arm(u())),
        (State::Staged(u()), B, trying(1), BootStep::Trial(u())),
        (trying(0), B, trying(1), BootStep::Trial(u())),
        (trying(255), B, trying(255), BootStep::Trial(u())),
        (trying(0), A, falling(never), fell(never)),
        (trying(3), A, falling(ended), fell(ended)),
        (falling("sick"), A, falling("sick"), fell("sick")),
        (falling("sick"), B, falling("sick"), BootStep::Leave(u())),
    ];
    for (state, running, after, step) in table {
        let text = format!("{state:?} on {running}");
        assert_eq!(state.at_boot(running), (after, step), "{text}");
    }
}

#[test]
fn an_update_begins_only_where_nothing_is_undecided() {
    let table = [
        (State::Idle, true, ""),
        (State::Idle, false, "slot a has not been confirmed"),
        (State::Writing(update()), true, ""),
        (State::Writing(update()), false, "slot a has not been confirmed"),
        (State::Staged(update()), true, "waits for the restart"),
        (State::Trying { update: update(), starts: 1 }, true, "is on trial"),
        (State::FallingBack { update: update(), reason: String::new() }, true, "is on trial"),
    ];
    for (state, confirmed, expected) in table {
        let text = state
            .may_begin(A, confirmed)
            .err()
            .map_or(String::new(), |refusal| refusal.to_string());
        assert!(
            text.contains(expected) && text.is_empty() == expected.is_empty(),
            "{state:?}: {text}"
        );
    }
}

#[test]
fn the_datastore_comes_back_as_it_was() {
    let board = Board::new();
    let (data, upgrade) = (board.path("data"), board.places.upgrade());
    let db = board.path("data/server/db");
    fs::create_dir_all(&upgrade).unwrap();
    fs::write(db.join("state.db"), "before").unwrap();
    fs::write(db.join("state.db-wal"), "log before").unwrap();
    keep(&data, &upgrade).unwrap();
    keep(&data, &upgrade).unwrap();
    fs::write(db.join("state.db"), "after").unwrap();
    fs::write(db.join("state.db-wal"), "log after").unwrap();
    fs::write(db.join("state.db-shm"), "index").unwrap();
    for _ in 0..2 {
        put_back(&data, &upgrade).unwrap();
        assert_eq!(fs::read_to_string(db.join("state.db")).unwrap(), "before");
        assert_eq!(fs::read_to_string(db.join("state.db-wal")).unwrap(), "log before");
        assert!(!db.join("state.db-shm").exists() && was_put_back(&data));
    }
    clear_put_back_mark(&data).unwrap();
    forget(&upgrade).unwrap();
    fs::write(db.join("state.db"), "later").unwrap();
    put_back(&data, &upgrade).unwrap();
    assert_eq!(
        fs::read_to_string(db.join("state.db")).unwrap(),
        "later",
        "without a copy nothing changes"
    );
    assert!(!was_put_back(&data));
}
