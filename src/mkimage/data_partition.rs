//! The kubeconfig of an emulated board without a port to the host: read from its card while it runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use disk::layout;
use disk::mbr::SECTOR_LEN;

use crate::board::Board;
use crate::tools::{run, tool};

/// The node's kubeconfig on the data partition.
const KUBECONFIG: &str = "/kubeconfig.yaml";
/// Ends every kubeconfig our node writes; what is cut off is still being written.
const LAST_KEY: &str = "client-key-data:";

pub(crate) struct DataPartition {
    disk: PathBuf,
    /// Byte at which the data partition begins.
    start: u64,
}

impl DataPartition {
    pub(crate) fn new(board: &Board, disk: &Path) -> Result<DataPartition> {
        let table = board.disk.sizes().table(board.disk.id()?)?;
        let data = table.partitions.get(layout::DATA - 1).copied().flatten();
        let data = data.context("the disk has no data partition")?;
        Ok(DataPartition {
            disk: disk.to_owned(),
            start: u64::from(data.start) * SECTOR_LEN as u64,
        })
    }

    /// What the card holds so far; the board's kernel may not have written it yet.
    pub(crate) fn kubeconfig(&self) -> Result<Option<String>> {
        let partition = format!("{}?offset={}", self.disk.display(), self.start);
        let text = run(tool("debugfs", 0)
            .args(["-c", "-R", &format!("cat {KUBECONFIG}")])
            .arg(partition))?;
        Ok(text.contains(LAST_KEY).then_some(text))
    }
}
