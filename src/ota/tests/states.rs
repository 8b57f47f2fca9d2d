//! The machine's table, and the datastore that goes with it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use disk::slot::Slot::{self, A, B};

use super::board::Board;
use crate::{
    Before, BootStep, Journal, State, Update, clear_put_back_mark, forget, keep, put_back,
    was_put_back,
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
    let never = "slot b with 2.0.0 did not start: its kernel, initramfs or root failed in every start it had";
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
        let on_trial = matches!(running, B) && !matches!(state, State::Idle | State::Writing(_));
        assert_eq!(step.is_on_trial(), on_trial, "{text}");
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

/// Files and folders of the data partition, with their contents.
fn tree(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tree(&path, found);
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
}

/// A board whose datastore was kept aside and then written on by a trial.
fn board_with_trial() -> Board {
    let board = Board::new();
    let (data, upgrade) = (board.path("data"), board.places.upgrade());
    let db = board.path("data/server/db");
    fs::create_dir_all(&upgrade).unwrap();
    fs::write(db.join("state.db"), "before").unwrap();
    fs::write(db.join("state.db-wal"), "log before").unwrap();
    keep(&data, &upgrade).unwrap();
    // A restart that did not come to it is made again.
    fs::create_dir_all(upgrade.join("datastore.new")).unwrap();
    fs::write(upgrade.join("datastore.new/state.db"), "bef").unwrap();
    keep(&data, &upgrade).unwrap();
    for name in ["state.db", "state.db-wal", "state.db-shm", "state.db-spare"] {
        fs::write(db.join(name), format!("{name} after")).unwrap();
    }
    board
}

fn is_as_before(board: &Board) {
    let db = board.path("data/server/db");
    assert_eq!(fs::read_to_string(db.join("state.db")).unwrap(), "before");
    assert_eq!(fs::read_to_string(db.join("state.db-wal")).unwrap(), "log before");
    assert!(!db.join("state.db-shm").exists() && was_put_back(&board.path("data")));
}

#[test]
fn the_datastore_comes_back_as_it_was() {
    let board = board_with_trial();
    let (data, upgrade) = (board.path("data"), board.places.upgrade());
    for _ in 0..2 {
        put_back(&data, &upgrade).unwrap();
        is_as_before(&board);
    }
    clear_put_back_mark(&data).unwrap();
    fs::write(board.path("data/server/db/state.db"), "later").unwrap();
    // The journal could not be written: the next start puts back once more.
    for _ in 0..2 {
        put_back(&data, &upgrade).unwrap();
        let found = fs::read_to_string(board.path("data/server/db/state.db")).unwrap();
        assert_eq!(found, "later", "what was put back once stays");
        forget(&upgrade).unwrap();
    }
    assert!(!was_put_back(&data));
}

#[test]
fn putting_back_survives_a_cut_at_each_step() {
    // What lies on the disk after a cut: nothing done, the mark of an earlier time gone, places changed, and the trial's
    // datastore removed in part or whole.
    let cuts: [&dyn Fn(&Board); 5] = [
        &|_| {},
        &|board| fs::write(board.path("data/server/db/put-back"), "").unwrap(),
        &|board| put_back(&board.path("data"), &board.places.upgrade()).unwrap(),
        &|board| {
            put_back(&board.path("data"), &board.places.upgrade()).unwrap();
            fs::remove_file(board.places.upgrade().join("datastore/state.db-wal")).unwrap();
        },
        &|board| {
            put_back(&board.path("data"), &board.places.upgrade()).unwrap();
            forget(&board.places.upgrade()).unwrap();
        },
    ];
    for (number, cut) in cuts.iter().enumerate() {
        let board = board_with_trial();
        cut(&board);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        put_back(&board.path("data"), &board.places.upgrade()).unwrap();
        is_as_before(&board);
        tree(&board.path("data"), &mut before);
        put_back(&board.path("data"), &board.places.upgrade()).unwrap();
        tree(&board.path("data"), &mut after);
        assert_eq!(before, after, "cut {number}");
        forget(&board.places.upgrade()).unwrap();
        is_as_before(&board);
    }
}

#[test]
fn a_node_without_a_datastore_has_nothing_to_put_back() {
    let board = Board::new();
    let (data, upgrade) = (board.path("data"), board.places.upgrade());
    fs::remove_dir_all(board.path("data/server")).unwrap();
    keep(&data, &upgrade).unwrap();
    put_back(&data, &upgrade).unwrap();
    assert!(!board.path("data/server").exists());
}

#[test]
fn the_journal_needs_no_room_after_its_beginning() {
    let board = Board::new();
    let folder = board.places.upgrade();
    let inodes = || {
        let of = |name: &str| fs::metadata(folder.join(name)).unwrap().ino();
        ["journal.json", "journal.copy.json"].map(of)
    };
    let pods = (0..500).map(|n| (format!("default/pod-{n}"), vec!["f".repeat(64)])).collect();
    let staged = Update { before: Before { server: true, pods }, ..update() };
    Journal { state: State::Staged(staged.clone()), last: None }.write(&folder).unwrap();
    let before = inodes();
    let reason = "x".repeat(4096);
    for state in [
        State::Trying { update: staged.clone(), starts: 3 },
        State::FallingBack { update: staged.clone(), reason },
        State::Idle,
        State::Staged(staged),
    ] {
        let journal = Journal { state, last: None };
        journal.write(&folder).unwrap();
        assert_eq!(inodes(), before, "written over in place");
        assert_eq!(Journal::read(&folder).unwrap(), journal);
    }
}

#[test]
fn a_torn_journal_has_a_copy() {
    let journal = |state| Journal { state, last: None };
    let (old, new) = (journal(State::Writing(update())), journal(State::Staged(update())));
    let plain = serde_json::to_vec(&new).unwrap();
    // What lies on the disk after a cut, as texts of the journal and its copy, and what is read.
    let table: [(&str, &str, Option<&Journal>); 8] = [
        ("old", "old", Some(&old)),
        ("old", "torn", Some(&old)),
        ("old", "new", Some(&old)),
        ("torn", "new", Some(&new)),
        ("none", "new", Some(&new)),
        ("plain", "none", Some(&new)),
        ("torn", "torn", None),
        ("torn", "none", None),
    ];
    for (first, second, expected) in table {
        let board = Board::new();
        let folder = board.places.upgrade();
        let image = |journal: &Journal| {
            journal.write(&folder).unwrap();
            fs::read(folder.join("journal.json")).unwrap()
        };
        let (old, new) = (image(&old), image(&new));
        for (name, what) in [("journal.json", first), ("journal.copy.json", second)] {
            let path = folder.join(name);
            match what {
                "old" => fs::write(path, &old).unwrap(),
                "new" => fs::write(path, &new).unwrap(),
                "torn" => fs::write(path, [&new[..30], &old[30..]].concat()).unwrap(),
                "plain" => fs::write(path, &plain).unwrap(),
                _ => fs::remove_file(path).unwrap(),
            }
        }
        let found = Journal::read(&folder);
        assert_eq!(found.ok().as_ref(), expected, "{first}, {second}");
    }
}
