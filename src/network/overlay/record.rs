//! What a node remembers of the cluster, so that after a reboot it reaches the other nodes before it reaches the server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::topology::Topology;
use crate::error::Error;

const FILE: &str = "overlay.json";
/// A cluster of thousands of nodes; more is no record of ours.
const BYTES_MAX: u64 = 4 << 20;

pub(crate) struct Record {
    path: PathBuf,
    saved: Option<Topology>,
}

impl Record {
    pub(crate) fn open(folder: &Path) -> Self {
        Self { path: folder.join(FILE), saved: None }
    }

    /// What was saved last; nothing when there is no record or it cannot be read.
    pub(crate) fn load(&mut self) -> Option<Topology> {
        let read = || {
            let length = fs::metadata(&self.path)?.len();
            if length > BYTES_MAX {
                return Err(io::Error::other(format!("{length} bytes are too many")));
            }
            serde_json::from_slice(&fs::read(&self.path)?).map_err(io::Error::from)
        };
        match read() {
            Ok(topology) => self.saved = Some(topology),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the overlay's record cannot be read");
            }
        }
        self.saved.clone()
    }

    /// Writes only what differs from what is there: seldom, because nodes seldom come and go.
    pub(crate) fn save(&mut self, topology: &Topology) -> Result<(), Error> {
        let same = |saved: &Topology| saved.own == topology.own && saved.peers == topology.peers;
        if self.saved.as_ref().is_some_and(same) {
            return Ok(());
        }
        let failed = |error| Error::file("write", self.path.clone())(error);
        let bytes = serde_json::to_vec(topology).map_err(|error| failed(error.into()))?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        sys::atomic_write(&self.path, &bytes, 0o600).map_err(failed)?;
        self.saved = Some(topology.clone());
        Ok(())
    }
}
