//! What the node tells PID 1 about itself while an update is on trial.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;

const BYTES_MAX: u64 = 64 * 1024;
/// Things waited for that are named in a reason.
const NAMED_MAX: usize = 5;

/// Whether the node is as it was before the update.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Health {
    pub healthy: bool,
    /// What is still missing, each as a short sentence.
    pub waiting: Vec<String>,
}

impl Health {
    /// What the node said last; nothing when it has said nothing that can be read.
    #[must_use]
    pub fn read(path: &Path) -> Option<Health> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self)
            .map_err(|source| Error::Format { path: path.to_owned(), source })?;
        sys::replace_file(path, &bytes, 0o644).map_err(Error::file("write", path))
    }

    /// What is missing, as one text.
    #[must_use]
    pub fn missing(&self) -> String {
        let mut text = self.waiting.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
        if let Some(more @ 1..) = self.waiting.len().checked_sub(NAMED_MAX) {
            text.push_str(&format!("; and {more} more"));
        }
        text
    }
}
