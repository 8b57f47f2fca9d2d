//! What PID 1 has to tell the cluster: files below /run that the node's agent reads and makes events and conditions of.

use std::path::Path;

use serde_json::json;

use crate::Error;

const DIR: &str = "/run/copepod/notices";
/// Kubernetes cuts the message of an event here.
const MESSAGE_MAX: usize = 1024;

/// Replaces the notice `author`: one event of type Warning per line, all with this reason.
pub(crate) fn warn(author: &str, reason: &str, lines: &[String]) -> Result<(), Error> {
    let path = Path::new(DIR).join(format!("{author}.json"));
    std::fs::create_dir_all(DIR).map_err(Error::file("create", Path::new(DIR)))?;
    let text = text(reason, lines);
    sys::atomic_write(&path, text.as_bytes(), 0o644).map_err(Error::file("write", &path))
}

pub(crate) fn text(reason: &str, lines: &[String]) -> String {
    let events: Vec<_> = lines
        .iter()
        .map(|line| {
            let message: String = line.chars().take(MESSAGE_MAX).collect();
            json!({"type": "Warning", "reason": reason, "message": message})
        })
        .collect();
    json!({"conditions": [], "events": events}).to_string()
}
