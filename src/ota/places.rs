//! Where everything lies that an update reads or writes; tests name other places.

use std::path::PathBuf;

use disk::slot::Slot;

use crate::board::BootFacts;
use crate::boot_partition::BootPartition;

/// The machine's files and devices.
#[derive(Clone, Debug)]
pub struct Places {
    pub boot: BootPartition,
    /// The data partition.
    pub data: PathBuf,
    /// Device of each slot's root.
    pub root_a: PathBuf,
    pub root_b: PathBuf,
    /// Folder of the public keys this image trusts.
    pub keys: PathBuf,
    /// The image's description of itself.
    pub release: PathBuf,
    /// `boot.json`, written by PID 1.
    pub facts: PathBuf,
}

impl Places {
    /// Where PID 1 tells what it found out; not there on a machine that is no board.
    pub const FACTS: &str = "/run/copepod/boot.json";
    /// Where the node tells PID 1 whether it is healthy.
    pub const HEALTH: &str = "/run/copepod/health.json";

    /// The places of a running board.
    #[must_use]
    pub fn of_board(facts: &BootFacts) -> Places {
        Places {
            boot: BootPartition::mounted("/boot".into()),
            data: "/var/lib/copepod".into(),
            root_a: facts.root_a.clone(),
            root_b: facts.root_b.clone(),
            keys: "/etc/copepod/update-keys".into(),
            release: "/etc/copepod/release.json".into(),
            facts: Places::FACTS.into(),
        }
    }

    /// Folder of the journal and of the datastore's copy.
    #[must_use]
    pub fn upgrade(&self) -> PathBuf {
        self.data.join("upgrade")
    }

    #[must_use]
    pub fn root(&self, slot: Slot) -> &PathBuf {
        match slot {
            Slot::A => &self.root_a,
            Slot::B => &self.root_b,
        }
    }
}
