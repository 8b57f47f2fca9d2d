//! What the boot loaders find after each step.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use disk::slot::Slot::{A, B};
use disk::state::State;

use super::board::Board;
use crate::{Error, Firmware, Loader, Refusal, Tryboot, Uboot};

#[test]
fn uboot_finds_both_copies_of_the_state() {
    let board = Board::new();
    let loader = Uboot { boot: board.places.boot.clone() };
    let state = || {
        let copies =
            ["boot/st0.env", "boot/st1.env"].map(|name| fs::read(board.path(name)).unwrap());
        assert_eq!(copies[0], copies[1]);
        State::decode(&copies[0]).unwrap()
    };
    loader.reject(B).unwrap();
    assert_eq!(state(), State { first: A, a_left: 3, b_left: 0, good: Some(A) });
    assert_eq!(loader.try_slot(B).unwrap(), None);
    assert_eq!(state(), State { first: B, a_left: 3, b_left: 3, good: Some(A) });
    // The boot script has taken a start, and one copy is torn.
    let taken = State { first: B, a_left: 3, b_left: 2, good: Some(A) }.encode().unwrap();
    fs::write(board.path("boot/st0.env"), &taken[..100]).unwrap();
    fs::write(board.path("boot/st1.env"), &taken).unwrap();
    loader.confirm(B).unwrap();
    assert_eq!(state(), State { first: B, a_left: 3, b_left: 3, good: Some(B) });
    loader.stand_in(A).unwrap();
    assert_eq!(state(), State { first: B, a_left: 3, b_left: 1, good: Some(B) });
    assert_eq!(loader.good(), Some(B));
}

#[test]
fn the_firmware_finds_the_slot_in_its_configuration() {
    let board = Board::new();
    let read = |name: &str| fs::read_to_string(board.path("boot").join(name)).unwrap();
    fs::write(board.path("boot/config.txt"), "os_prefix=a/\n[pi4]\narm_boost=1\n").unwrap();
    static FLAGS: AtomicU32 = AtomicU32::new(0);
    let firmware = Firmware {
        flags: || Ok(FLAGS.load(Ordering::Relaxed)),
        set_flags: |flags| {
            FLAGS.store(flags, Ordering::Relaxed);
            Ok(())
        },
    };
    let loader = Tryboot { boot: board.places.boot.clone(), firmware };
    loader.ready().unwrap();
    assert_eq!(loader.try_slot(B).unwrap(), Some(c"0 tryboot"));
    assert_eq!(FLAGS.load(Ordering::Relaxed), 1);
    assert_eq!(read("config.txt"), "os_prefix=a/\n[pi4]\narm_boost=1\n");
    assert_eq!(read("tryboot.txt"), "os_prefix=b/\n[pi4]\narm_boost=1\n");
    let verity = format!("1,1,{},00", "ab".repeat(32));
    fs::write(board.path("boot/b/slot.env"), format!("verity={verity}\nextra=quiet\n")).unwrap();
    loader.complete(B, 0x10).unwrap();
    let arguments = read("b/cmdline.txt");
    for word in ["quiet", "copepod.slot=b", "copepod.disk=00000010", verity.as_str()] {
        assert!(arguments.contains(word), "{arguments}");
    }
    loader.reject(B).unwrap();
    assert_eq!(loader.good(), Some(A));
    loader.stand_in(B).unwrap();
    assert_eq!(read("config.txt"), "os_prefix=a/\n[pi4]\narm_boost=1\n");
    loader.confirm(B).unwrap();
    assert_eq!(read("config.txt"), "os_prefix=b/\n[pi4]\narm_boost=1\n");
}

#[test]
fn a_firmware_that_cannot_be_asked_takes_no_updates() {
    let board = Board::new();
    fs::write(board.path("boot/config.txt"), "os_prefix=a/\n").unwrap();
    let firmware = Firmware {
        flags: || Err(io::ErrorKind::NotFound.into()),
        set_flags: |_| Err(io::ErrorKind::NotFound.into()),
    };
    let loader = Tryboot { boot: board.places.boot.clone(), firmware };
    let before = board.contents();
    let source = super::board::Memory::new(Vec::new());
    let request = board.request(&source);
    let error = crate::check(&request, &loader).unwrap_err();
    assert!(matches!(error, Error::Refused(Refusal::NoTrials(_))), "{error}");
    assert_eq!(board.contents(), before, "nothing is written");
    assert!(matches!(loader.try_slot(B), Err(Error::Firmware(_))));
}
