//! What other parts of the machine want the node to say: conditions and events out of `/run/copepod/notices`.
//!
//! Each author has one file, replaced as a whole. A file that cannot be read as notices is named in the log and left out.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use runtime::client::FdStream;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use crate::status::whole_seconds;

pub(super) const FOLDER: &str = "/run/copepod/notices";
/// Files that are read, and bytes of each.
const FILES_MAX: usize = 16;
const BYTES_MAX: u64 = 64 * 1024;
/// Conditions and events taken from one file.
const ENTRIES_MAX: usize = 32;
/// Conditions that are the agent's own to judge.
const OWN: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Notices {
    conditions: Vec<Condition>,
    events: Vec<Event>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: Status,
    reason: String,
    message: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum Status {
    True,
    False,
    Unknown,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    #[serde(rename = "type")]
    kind: Kind,
    pub(super) reason: String,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Normal,
    Warning,
}

impl Event {
    pub(super) fn kind(&self) -> EventType {
        match self.kind {
            Kind::Normal => EventType::Normal,
            Kind::Warning => EventType::Warning,
        }
    }
}

/// The folder, what it says, and what of it has been told.
pub(super) struct Board {
    folder: PathBuf,
    watch: Option<FdStream>,
    conditions: Vec<Condition>,
    told: BTreeSet<Event>,
}

impl Board {
    /// Watches the folder; on a machine without one there are no notices.
    pub(super) fn open(folder: &Path) -> Board {
        let watch = sys::notify::watch_folder(folder).and_then(FdStream::new).ok();
        Board { folder: folder.to_owned(), watch, conditions: Vec::new(), told: BTreeSet::new() }
    }

    /// Waits until a file has changed.
    pub(super) async fn changed(&mut self) {
        if let Some(watch) = &mut self.watch
            && watch.read(&mut [0; sys::notify::MESSAGE_LEN]).await.is_ok_and(|read| read > 0)
        {
            return;
        }
        std::future::pending().await
    }

    /// Reads all files. Returns the events that were not there before.
    pub(super) fn read(&mut self) -> Vec<Event> {
        self.conditions.clear();
        let mut news = Vec::new();
        for path in files(&self.folder) {
            match read(&path) {
                Ok(notices) => {
                    let events = notices.events.into_iter().take(ENTRIES_MAX);
                    news.extend(events.filter(|event| self.told.insert(event.clone())));
                    let conditions = notices.conditions.into_iter().take(ENTRIES_MAX);
                    self.conditions.extend(conditions.filter(|c| !OWN.contains(&c.kind.as_str())));
                }
                Err(error) => tracing::warn!(path = %path.display(), error, "notices left out"),
            }
        }
        // Bounded by what authors may write; all is told again only when somebody writes ever new events.
        if self.told.len() > FILES_MAX * ENTRIES_MAX {
            self.told.clear();
        }
        news
    }

    /// The conditions for the node's status; one that did not change keeps its transition time.
    pub(super) fn conditions(&self, given: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
        let time = Time(whole_seconds(now));
        let make = |condition: &Condition| {
            let Condition { kind, status, reason, message } = condition;
            let status = format!("{status:?}");
            let before = given
                .conditions
                .iter()
                .flatten()
                .find(|before| before.type_ == *kind && before.status == status);
            let since = before.and_then(|before| before.last_transition_time.clone());
            NodeCondition {
                type_: kind.clone(),
                status,
                reason: Some(reason.clone()),
                message: Some(message.clone()),
                last_heartbeat_time: Some(time.clone()),
                last_transition_time: since.or(Some(time.clone())),
            }
        };
        self.conditions.iter().map(make).collect()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files.truncate(FILES_MAX);
    files
}

fn read(path: &Path) -> Result<Notices, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("it is longer than {BYTES_MAX} bytes"));
    }
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), text).expect("notices");
    }

    #[tokio::test]
    async fn notices_become_conditions_and_events_once() {
        let folder = tempfile::tempdir().expect("folder");
        let mut board = Board::open(folder.path());
        let notice = |message: &str| {
            json!({
                "conditions": [
                    {"type": "UpgradeSucceeded", "status": "False", "reason": "FellBack", "message": message},
                    {"type": "Ready", "status": "True", "reason": "Mine", "message": ""},
                ],
                "events": [{"type": "Warning", "reason": "UpgradeFellBack", "message": message}],
            })
            .to_string()
        };
        write(folder.path(), "update.json", &notice("first"));
        write(folder.path(), "broken.json", "{");
        write(folder.path(), ".hidden", &notice("hidden"));
        write(folder.path(), "long.json", &" ".repeat(70_000));
        board.changed().await;
        let events = board.read();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].kind(), events[0].message.as_str()), (EventType::Warning, "first"));
        assert!(board.read().is_empty(), "each event once");
        write(folder.path(), "update.json", &notice("second"));
        assert_eq!(board.read()[0].message, "second");
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time");
        let first = board.conditions(&NodeStatus::default(), now);
        assert_eq!(first.len(), 1, "Ready is the agent's own");
        assert_eq!(
            (first[0].status.as_str(), first[0].reason.as_deref()),
            ("False", Some("FellBack"))
        );
        let given = NodeStatus { conditions: Some(first.clone()), ..NodeStatus::default() };
        let later = board.conditions(&given, "2026-11-22T11:00:00Z".parse().expect("a time"));
        assert_eq!(later[0].last_transition_time, first[0].last_transition_time);
    }

    #[test]
    fn without_a_folder_there_are_none() {
        let mut board = Board::open(Path::new("/no/such/folder"));
        assert!(board.read().is_empty());
    }
}
