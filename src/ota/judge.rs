//! Which bundles are refused: pure, and decided before a byte is written.

use disk::slot::Slot;

use crate::board::Release;
use crate::error::Refusal;
use crate::manifest::{Manifest, ROOT};

/// What is known of this machine before an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub running: Release,
    /// The slot that would be written.
    pub target: Slot,
    /// Bytes of the target's root partition.
    pub root_room: u64,
    /// Bytes the boot partition has for the target's files, those that are there now counted as free.
    pub boot_room: u64,
    /// Free bytes of the data partition, and what the copy of the datastore takes.
    pub data_room: u64,
    pub datastore: u64,
    /// Bytes a file occupies at least, and in multiples of.
    pub cluster: u64,
}

/// Says why a bundle with a good signature cannot be installed here.
pub fn judge(manifest: &Manifest, facts: &Facts, allow_downgrade: bool) -> Result<(), Refusal> {
    let running = &facts.running;
    if manifest.board != running.board {
        let (wanted, here) = (manifest.board.clone(), running.board.clone());
        return Err(Refusal::Board { wanted, here });
    }
    let (offered_age, running_age) =
        ((&manifest.version, manifest.build), (&running.version, running.build));
    let offered = manifest.version.to_string();
    if offered_age == running_age {
        return Err(Refusal::Same { offered });
    }
    if offered_age < running_age && !allow_downgrade {
        return Err(Refusal::Downgrade { offered, running: running.version.to_string() });
    }
    match &manifest.minimum {
        Some(minimum) if running.version < *minimum => {
            return Err(Refusal::TooOld {
                minimum: minimum.to_string(),
                running: running.version.to_string(),
            });
        }
        _ => {}
    }
    check_room(manifest, facts)
}

fn check_room(manifest: &Manifest, facts: &Facts) -> Result<(), Refusal> {
    let slot = facts.target.name();
    let root = manifest.part(ROOT).map_or(0, |part| part.size);
    if root > facts.root_room {
        return Err(Refusal::SlotTooSmall { slot, need: root, room: facts.root_room });
    }
    let cluster = facts.cluster.max(1);
    let boot = manifest.files().map(|part| part.size.div_ceil(cluster) * cluster).sum();
    if boot > facts.boot_room {
        return Err(Refusal::BootTooSmall { slot, need: boot, room: facts.boot_room });
    }
    if facts.datastore > facts.data_room {
        return Err(Refusal::NoSpace { need: facts.datastore, room: facts.data_room });
    }
    Ok(())
}
