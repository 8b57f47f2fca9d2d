//! Bundles that go into a slot, or stop half way.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use disk::slot::Slot;

use super::board::{Board, Maker, Memory, root};
use crate::{BLOCK_LEN, Error, Refusal, State, Verdict};

const KERNEL: &[u8] = b"a kernel";

fn maker() -> Maker {
    let blocks: Vec<u8> = (1..=40).collect();
    Maker::new("1.1.0", &root(&blocks), &[("kernel", KERNEL), ("overlays/x.dtbo", b"x")])
}

fn is_complete(board: &Board, maker: &Maker) {
    let length = maker.manifest.parts[1].size as usize;
    let start = maker.manifest.parts[1].offset as usize;
    let written = fs::read(board.path("root-b")).unwrap();
    assert!(written[..length] == maker.payload[start..start + length]);
    assert_eq!(fs::read(board.path("boot/b/kernel")).unwrap(), KERNEL);
    assert_eq!(fs::read(board.path("boot/b/overlays/x.dtbo")).unwrap(), b"x");
}

#[test]
fn a_bundle_goes_into_the_other_slot_and_is_staged() {
    let board = Board::new();
    fs::write(board.path("boot/b/left-over"), "old").unwrap();
    let maker = maker();
    let update = board.install(&Memory::new(maker.signed(&board.key))).unwrap();
    assert_eq!((update.from, update.to, update.healthy_within), (Slot::A, Slot::B, 60));
    is_complete(&board, &maker);
    assert!(!board.path("boot/b/left-over").exists());
    assert_eq!(board.journal().state, State::Staged(update));
    assert!(
        fs::read(board.path("root-a")).unwrap().iter().all(|byte| *byte == 0),
        "the running slot"
    );
}

#[test]
fn only_what_differs_is_fetched() {
    let board = Board::new();
    let mut running = root(&(1..=40).collect::<Vec<_>>());
    // The same blocks elsewhere, and one that is not there.
    running.rotate_left(2 * BLOCK_LEN);
    running[20 * BLOCK_LEN..21 * BLOCK_LEN].fill(0);
    fs::write(board.path("root-a"), running).unwrap();
    fs::write(board.path("boot/a/kernel"), KERNEL).unwrap();
    let maker = maker();
    let source = Memory::new(maker.signed(&board.key));
    board.install(&source).unwrap();
    is_complete(&board, &maker);
    let taken = source.taken.load(Ordering::Relaxed);
    let head = source.bytes.len() as u64 - maker.manifest.payload();
    let index = 40 * 32;
    assert_eq!(taken, head + index + BLOCK_LEN as u64 + 1, "head, index, one block, one file");
}

#[test]
fn a_source_without_ranges_is_read_once() {
    let board = Board::new();
    let maker = maker();
    let mut source = Memory::new(maker.signed(&board.key));
    source.ranges = false;
    board.install(&source).unwrap();
    is_complete(&board, &maker);
    assert_eq!(source.requests.load(Ordering::Relaxed), 3, "prefix, head, all parts");
}

#[test]
fn an_update_that_is_cut_off_goes_on_where_it_was() {
    for stop_at in [1, 5 * BLOCK_LEN as u64, 40 * (BLOCK_LEN + 32) as u64] {
        let board = Board::new();
        let maker = maker();
        let bundle = maker.signed(&board.key);
        let error = board.install_until(&Memory::new(bundle.clone()), &mut |progress| {
            if progress.done >= stop_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(error, Err(Error::Stopped)), "{stop_at}");
        assert!(matches!(board.journal().state, State::Writing(_)));
        let state =
            disk::state::State::decode(&fs::read(board.path("boot/st0.env")).unwrap()).unwrap();
        assert_eq!((state.first, state.b_left), (Slot::A, 0), "an incomplete slot is not started");
        board.install(&Memory::new(bundle)).unwrap();
        is_complete(&board, &maker);
    }
}

#[test]
fn blocks_in_place_are_not_fetched_again() {
    let board = Board::new();
    let maker = maker();
    let bundle = maker.signed(&board.key);
    let mut begun = root(&(1..=30).collect::<Vec<_>>());
    begun.resize(super::board::ROOM, 0xff);
    fs::write(board.path("root-b"), begun).unwrap();
    let source = Memory::new(bundle);
    board.install(&source).unwrap();
    is_complete(&board, &maker);
    assert!(source.taken.load(Ordering::Relaxed) < 12 * BLOCK_LEN as u64);
}

#[test]
fn damage_on_the_way_is_found_and_told() {
    // What is changed, and which part is named.
    let cases = [
        (0, "root.index"),
        (40 * 32 + 7 * BLOCK_LEN, "root.img (block 7)"),
        (40 * 32 + 40 * BLOCK_LEN, "kernel"),
    ];
    for (at, part) in cases {
        let board = Board::new();
        let maker = maker();
        let mut bundle = maker.signed(&board.key);
        let payload = bundle.len() - maker.payload.len();
        bundle[payload + at] ^= 1;
        let error = board.install(&Memory::new(bundle)).unwrap_err();
        assert!(matches!(&error, Error::Damaged { part: named, .. } if named == part), "{error}");
        let journal = board.journal();
        assert_eq!(journal.state, State::Idle);
        assert_eq!(journal.last.unwrap().verdict, Verdict::Failed);
    }
}

#[test]
fn a_bundle_that_ends_early_is_refused_at_once() {
    let board = Board::new();
    let mut bundle = maker().signed(&board.key);
    bundle.truncate(bundle.len() - 1);
    let before = board.contents();
    let error = board.install(&Memory::new(bundle)).unwrap_err();
    assert!(matches!(error, Error::Refused(Refusal::Truncated { .. })), "{error}");
    assert_eq!(board.contents(), before);
}

#[test]
fn nothing_is_tried_when_nobody_knows_what_works() {
    let board = Board::new();
    let source = Memory::new(maker().signed(&board.key));
    let loader = crate::Uboot { boot: board.places.boot.clone() };
    let request = board.request(&source);
    let mut before = || Err(Error::Before("within 60 s: refused".to_owned()));
    let error = crate::install(&request, &loader, &mut before, &mut |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().ends_with("nothing is tried: within 60 s: refused"));
    assert_eq!(board.journal().state, State::Idle);
    assert_eq!(board.journal().last.unwrap().verdict, Verdict::Failed);
}

#[test]
fn an_update_whose_source_is_gone_is_given_up_once() {
    let board = Board::new();
    let source = Memory::new(maker().signed(&board.key));
    let stopped = board.install_until(&source, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Stopped)));
    // Another bundle lies there now: the check fails, and the journal still says "being written".
    let error = board.install(&Memory::new(vec![0; 4096])).unwrap_err();
    assert!(matches!(error, Error::Refused(Refusal::NotABundle(_))), "{error}");
    assert!(matches!(board.journal().state, State::Writing(_)));
    let folder = board.places.upgrade();
    for _ in 0..2 {
        board.journal().give_up(&folder, Verdict::Refused, error.to_string()).unwrap();
        assert_eq!(board.journal().state, State::Idle);
        assert_eq!(board.journal().last.unwrap().reason, error.to_string());
    }
}

#[test]
fn only_a_file_is_a_source() {
    let board = Board::new();
    let fifo = board.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(board.path("bundle"), "x").unwrap();
    for (name, is_source) in [("fifo", false), ("boot", false), ("bundle", true), ("none", false)] {
        assert_eq!(crate::FileSource::open(&board.path(name)).is_ok(), is_source, "{name}");
    }
}
