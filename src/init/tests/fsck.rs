//! Mending file systems whose superblocks a power cut has torn.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::fsck::{Verdict, mend};

const MIB: u64 = 1024 * 1024;
const GROUP: u64 = 128 * MIB;
/// Where the checksum of a superblock lies in it.
const CHECKSUM: u64 = 0x3fc;
/// Where the first superblock lies; copies begin their group.
const FIRST: u64 = 1024;

fn file_system(path: &Path) {
    File::create(path).unwrap().set_len(640 * MIB).unwrap();
    let made = Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-t", "ext4", "-b", "4096"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}

/// Superblocks whose second half is from another time than the first, as a power cut leaves them.
#[test]
fn torn_superblocks_are_brought_back_by_any_whole_copy() {
    let dir = tempfile::tempdir().unwrap();
    let copies = [FIRST, GROUP, 3 * GROUP];
    let rows: [(&[u64], Verdict); 4] = [
        (&[], Verdict::Sound),
        (&copies[..1], Verdict::Repaired),
        (&copies[..2], Verdict::Repaired),
        (&copies, Verdict::Damaged),
    ];
    for (torn, expected) in rows {
        let path = dir.path().join("disk");
        file_system(&path);
        let file = File::options().write(true).open(&path).unwrap();
        for at in torn {
            file.write_all_at(&[1, 2, 3, 4], at + CHECKSUM).unwrap();
        }
        let mut fed = 0;
        let found = mend(&path, &dir.path().join("log"), &mut || fed += 1).unwrap();
        assert_eq!(found, expected, "{torn:?}");
        if expected != Verdict::Damaged {
            let again = mend(&path, &dir.path().join("log"), &mut || fed += 1).unwrap();
            assert_eq!(again, Verdict::Sound, "{torn:?}");
        }
    }
}
