//! What is refused, and that nothing is written then.

use std::fs;

use disk::slot::Slot;
use minisign::KeyPair;

use super::board::{Board, Maker, Memory, ROOM, release, root};
use crate::{Before, Error, Facts, Journal, Manifest, State, Update, judge};

fn facts() -> Facts {
    Facts {
        running: release("1.0.0", 100),
        target: Slot::B,
        root_room: ROOM as u64,
        boot_room: 8192,
        data_room: 1000,
        datastore: 1000,
        cluster: 4096,
    }
}

#[test]
fn bundles_are_judged_by_board_version_and_size() {
    let plain = Maker::new("1.1.0", &root(&[1]), &[("kernel", b"k"), ("initrd", b"i")]).manifest;
    type Change = fn(&mut Manifest, &mut Facts);
    let cases: [(Change, &str); 12] = [
        (|_, _| {}, ""),
        (|m, _| m.board = "kettle".to_owned(), "is for board kettle, this is toaster"),
        (|m, _| m.version = "0.9.0".parse().unwrap(), "0.9.0 is older than 1.0.0"),
        (|m, _| m.version = "1.0.0-rc.1".parse().unwrap(), "1.0.0-rc.1 is older than 1.0.0"),
        (|m, _| m.version = "1.0.0".parse().unwrap(), "1.0.0, which runs already"),
        (
            |m, f| {
                m.version = "1.0.0".parse().unwrap();
                f.running.build = 101
            },
            "is older",
        ),
        (
            |m, f| {
                m.version = "1.0.0".parse().unwrap();
                f.running.build = 99
            },
            "",
        ),
        (|m, _| m.minimum = Some("1.0.1".parse().unwrap()), "from version 1.0.1 on, 1.0.0 runs"),
        (|m, _| m.minimum = Some("1.0.0".parse().unwrap()), ""),
        (|_, f| f.root_room = 4095, "does not fit into slot b of 4095 bytes"),
        (|_, f| f.boot_room = 8191, "8192 bytes do not fit into the boot partition"),
        (|_, f| f.data_room = 999, "needs 1000 bytes of the data partition, 999 are free"),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let (mut manifest, mut facts) = (plain.clone(), facts());
        change(&mut manifest, &mut facts);
        let text = judge(&manifest, &facts, false)
            .err()
            .map_or(String::new(), |refusal| refusal.to_string());
        assert!(
            text.contains(expected) && text.is_empty() == expected.is_empty(),
            "{number}: {text}"
        );
    }
    let older = Manifest { version: "0.9.0".parse().unwrap(), ..plain };
    assert_eq!(judge(&older, &facts(), true), Ok(()));
}

#[test]
fn manifests_that_make_no_sense_are_refused() {
    let plain = Maker::new("1.1.0", &root(&[1]), &[("kernel", b"k")]).manifest;
    type Change = fn(&mut Manifest);
    let cases: [(Change, &str); 11] = [
        (|m| m.parts[2].name = "../st0.env".to_owned(), "no plain relative path"),
        (|m| m.parts[2].name = "/boot.scr".to_owned(), "no plain relative path"),
        (|m| m.parts[2].name = "root.img".to_owned(), "there twice"),
        (|m| m.parts[2].offset = 3, "overlaps"),
        (|m| m.parts[2].stored = 9, "size and stored differ"),
        (|m| m.parts[2].sha256 = "00".to_owned(), "64 hexadecimal digits"),
        (|m| m.parts[2].size = 1 << 31, "larger than"),
        (|m| drop(m.parts.remove(1)), "\"root.img\" is missing"),
        (|m| drop(m.parts.remove(0)), "\"root.index\" is missing"),
        (|m| m.healthy_within = 5, "expected 30 to 3600 seconds"),
        (|m| m.format = 2, "knows format 1"),
    ];
    for (change, expected) in cases {
        let mut manifest = plain.clone();
        change(&mut manifest);
        let text =
            Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap_err().to_string();
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(Manifest::parse(&plain.encode().unwrap()).unwrap(), plain);
}

#[test]
fn nothing_is_written_by_a_refused_update() {
    let maker = Maker::new("1.1.0", &root(&[1, 2]), &[("kernel", b"k")]);
    type Change = fn(&mut Board, &Maker) -> Vec<u8>;
    let cases: [(Change, &str); 7] = [
        (
            |_, maker| maker.signed(&KeyPair::generate_unencrypted_keypair().unwrap()),
            "not valid for any key",
        ),
        (
            |board, maker| {
                let mut bundle = maker.signed(&board.key);
                // Within the manifest.
                bundle[60] ^= 1;
                bundle
            },
            "signature",
        ),
        (
            |board, maker| {
                fs::remove_file(board.path("keys/one.pub")).unwrap();
                maker.signed(&board.key)
            },
            "trusts no key",
        ),
        (|_, _| b"<html>404 not found, and some more text</html>".to_vec(), "no bundle"),
        (|_, _| b"copepod".to_vec(), "ends within its head"),
        (
            |board, maker| {
                board.facts.confirmed = false;
                maker.signed(&board.key)
            },
            "slot a has not been confirmed",
        ),
        (
            |board, maker| {
                fs::write(board.path("root-b"), [0; 4096]).unwrap();
                maker.signed(&board.key)
            },
            "does not fit into slot b",
        ),
    ];
    for (change, expected) in cases {
        let mut board = Board::new();
        let bundle = change(&mut board, &maker);
        let before = board.contents();
        let error = board.install(&Memory::new(bundle)).unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(board.contents(), before, "{expected}");
        assert_eq!(board.journal(), Journal::default());
    }
}

#[test]
fn any_listed_key_may_have_signed() {
    let board = Board::new();
    let second = KeyPair::generate_unencrypted_keypair().unwrap();
    fs::write(board.path("keys/two.pub"), second.pk.to_box().unwrap().into_string()).unwrap();
    fs::write(board.path("keys/zzz.pub"), "no key").unwrap();
    let maker = Maker::new("1.1.0", &root(&[1, 2]), &[("kernel", b"k")]);
    board.install(&Memory::new(maker.signed(&second))).unwrap();
    assert_eq!(crate::Keys::read(&board.path("keys")).unreadable().len(), 1);
}

#[test]
fn one_update_at_a_time() {
    let board = Board::new();
    let bundle = Maker::new("1.1.0", &root(&[1, 2]), &[("kernel", b"k")]).signed(&board.key);
    let update = board.install(&Memory::new(bundle.clone())).unwrap();
    let refused = |state: State| {
        let journal = Journal { state, last: None };
        journal.write(&board.places.upgrade()).unwrap();
        board.install(&Memory::new(bundle.clone())).unwrap_err().to_string()
    };
    let waiting: Update = Update { before: Before::default(), ..update };
    assert!(refused(State::Staged(waiting.clone())).contains("waits for the restart"));
    assert!(refused(State::Trying { update: waiting, starts: 1 }).contains("is on trial"));
}
