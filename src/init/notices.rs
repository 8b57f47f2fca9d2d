//! What PID 1 has to tell the cluster: files below /run that the node's agent reads and makes events and conditions of.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Error;

const DIR: &str = "/run/copepod/notices";
/// Kubernetes cuts the message of an event here.
const MESSAGE_MAX: usize = 1024;

/// Replaces the notice `author`: one event of type Warning per line, all with this reason.
pub(crate) fn warn(author: &str, reason: &str, lines: &[String]) -> Result<(), Error> {
    write(author, &text(reason, lines))
}

/// Replaces the notice `author` by one condition of the Node.
pub(crate) fn condition(
    author: &str,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
) -> Result<(), Error> {
    let condition = json!({"type": kind, "status": status, "reason": reason, "message": message});
    write(author, &json!({"conditions": [condition], "events": []}).to_string())
}

/// Adds a condition, and an event of the same reason, to the notice `author`.
pub(crate) fn add(
    author: &str,
    condition: &str,
    status: &str,
    reason: &str,
    message: &str,
) -> Result<(), Error> {
    let before = std::fs::read_to_string(path(author)).unwrap_or_default();
    write(author, &added(&before, condition, status, reason, message))
}

/// The notice `before` with one condition and one event more.
pub(crate) fn added(
    before: &str,
    condition: &str,
    status: &str,
    reason: &str,
    message: &str,
) -> String {
    let before: Value = serde_json::from_str(before).unwrap_or_default();
    let with = |list: &str, entry: Value| {
        let mut entries = before.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        entries.push(entry);
        entries
    };
    let message: String = message.chars().take(MESSAGE_MAX).collect();
    json!({
        "conditions": with("conditions", json!({
            "type": condition, "status": status, "reason": reason, "message": message,
        })),
        "events": with("events", json!({
            "type": "Warning", "reason": reason, "message": message,
        })),
    })
    .to_string()
}

fn path(author: &str) -> PathBuf {
    Path::new(DIR).join(format!("{author}.json"))
}

fn write(author: &str, text: &str) -> Result<(), Error> {
    let path = path(author);
    std::fs::create_dir_all(DIR).map_err(Error::file("create", Path::new(DIR)))?;
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
