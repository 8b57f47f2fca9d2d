//! Checking and mending the data partition's file system with e2fsck, before it is mounted.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::time::pause;

const CHECKER: &str = "/usr/sbin/e2fsck";
/// A large card on a slow bus may take minutes; without a bound a dying one would take for ever.
const CHECK_LIMIT: Duration = Duration::from_secs(1800);
const CHECK_STEP: Duration = Duration::from_millis(20);
/// The groups of blocks that have a copy of the superblock (ext4 with `sparse_super`: 1 and powers of 3, 5 and 7), as
/// far as e2fsck is asked to try them.
const BACKUP_GROUPS: [u64; 7] = [1, 3, 5, 7, 9, 25, 27];
/// As mke2fs makes file systems of the data partition's size.
const BLOCK_LEN: u64 = 4096;
const BLOCKS_PER_GROUP: u64 = 8 * BLOCK_LEN;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sound,
    Repaired,
    Damaged,
}

/// Of e2fsck's exit code (its manual, "EXIT CODE"); None when it was killed.
pub(crate) fn verdict(code: Option<i32>) -> Verdict {
    match code {
        Some(0) => Verdict::Sound,
        // The 2 asks for a restart because of mounted file systems, and ours is not mounted.
        Some(1..=3) => Verdict::Repaired,
        _ => Verdict::Damaged,
    }
}

/// Has e2fsck mend what is safe to mend, then everything, then by the copies of the superblock.
pub(crate) fn mend(device: &Path, log: &Path, feed: &mut dyn FnMut()) -> Result<Verdict, Error> {
    let mut last = Verdict::Damaged;
    for arguments in attempts() {
        last = verdict(run(&arguments, device, log, feed)?);
        if last != Verdict::Damaged {
            break;
        }
    }
    Ok(last)
}

/// Arguments of e2fsck, one attempt after the other. A power cut may tear the superblock, and with it some of its copies
/// while the file system grows; e2fsck by itself tries the first copy only. With a whole one it replays the journal, which
/// brings the superblock back, and the next attempt mends the rest.
fn attempts() -> Vec<Vec<String>> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    let copies = BACKUP_GROUPS.into_iter().flat_map(|group| {
        let block = group * BLOCKS_PER_GROUP;
        [words(&format!("-y -b {block} -B {BLOCK_LEN}")), words("-fy")]
    });
    [words("-p"), words("-y")].into_iter().chain(copies).collect()
}

fn run(
    arguments: &[String],
    device: &Path,
    log: &Path,
    feed: &mut dyn FnMut(),
) -> Result<Option<i32>, Error> {
    let _ = log.parent().map(fs::create_dir_all);
    let output = File::create(log).map_err(Error::file("create", log))?;
    let mut command = Command::new(CHECKER);
    command.args(arguments).arg(device).env_clear().stdin(Stdio::null());
    command.stderr(output.try_clone().map_err(Error::file("create", log))?).stdout(output);
    let mut child = command.spawn().map_err(Error::file("start", Path::new(CHECKER)))?;
    let end = Instant::now() + CHECK_LIMIT;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::call("wait for e2fsck"))? {
            return Ok(status.code());
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(None);
        }
        feed();
        pause(CHECK_STEP);
    }
}
