//! What is kept on disk of sandboxes and containers, so that a new runtime process finds what an ended one left.
//!
//! Layout below the state directory: `sandboxes/<id>/{sandbox.json, ns/<kind>, shm}` and
//! `containers/<id>/{container.json, config.json, rootfs, upper, work, *.fifo, lc/}`. Records are replaced by rename, without
//! waiting for the disk: after a reboot they only serve to say what had been there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::protocol::{Container, ContainerSpec, Sandbox};

const ID_MAX: usize = 128;

/// A process that cannot be confused with another: its number, start time and boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessIdentity {
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) boot: String,
}

impl ProcessIdentity {
    pub(super) fn of(pid: i32) -> io::Result<ProcessIdentity> {
        let stat = sys::procfs::process_stat(pid)?;
        Ok(ProcessIdentity { pid, start_time: stat.start_time, boot: sys::procfs::boot_id()? })
    }

    /// Whether that very process is still running.
    pub(super) fn is_alive(&self) -> bool {
        sys::procfs::boot_id().is_ok_and(|boot| boot == self.boot)
            && sys::procfs::process_stat(self.pid).is_ok_and(|stat| {
                stat.start_time == self.start_time && !matches!(stat.state, 'Z' | 'X')
            })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) sandbox: Sandbox,
    /// Kinds of the pinned namespaces, as in `/proc/self/ns`.
    pub(super) pinned: Vec<String>,
    /// The tiny init of a shared PID namespace.
    pub(super) init: Option<ProcessIdentity>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) spec: ContainerSpec,
    pub(super) status: Container,
    pub(super) process: Option<ProcessIdentity>,
    /// The cgroup, relative to the hierarchies' roots.
    pub(super) cgroup: String,
    /// Why it could not be made ready; told, as upstream does, when it is to be started.
    #[serde(default)]
    pub(super) start_failure: Option<String>,
}

/// The paths of the state directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

impl Layout {
    pub(super) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(super) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    pub(super) fn pin(&self, id: &str, kind: &str) -> PathBuf {
        self.sandbox(id).join("ns").join(kind)
    }

    pub(super) fn shm(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("shm")
    }

    pub(super) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Where libcontainer keeps its own state.
    pub(super) fn libcontainer(&self, id: &str) -> PathBuf {
        self.container(id).join("lc")
    }

    pub(super) fn fifo(&self, id: &str, stream: &str) -> PathBuf {
        self.container(id).join(format!("{stream}.fifo"))
    }

    pub(super) fn save_sandbox(&self, record: &SandboxRecord) -> io::Result<()> {
        save(&self.sandbox(&record.sandbox.id).join("sandbox.json"), record)
    }

    pub(super) fn save_container(&self, record: &ContainerRecord) -> io::Result<()> {
        save(&self.container(&record.spec.id).join("container.json"), record)
    }

    /// Every readable record, and the ids of directories without one.
    pub(super) fn load_sandboxes(&self) -> io::Result<(Vec<SandboxRecord>, Vec<String>)> {
        load_all(&self.sandboxes(), "sandbox.json")
    }

    pub(super) fn load_containers(&self) -> io::Result<(Vec<ContainerRecord>, Vec<String>)> {
        load_all(&self.containers(), "container.json")
    }
}

fn save<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    sys::replace_file(path, &serde_json::to_vec(record)?, 0o600)
}

fn load_all<T: DeserializeOwned>(dir: &Path, file: &str) -> io::Result<(Vec<T>, Vec<String>)> {
    let (mut records, mut broken) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let id = entry.file_name().to_string_lossy().into_owned();
        let read = fs::read(entry.path().join(file));
        match read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from)) {
            Ok(record) => records.push(record),
            Err(error) => {
                tracing::warn!(id, file, %error, "unreadable record; removing what is left");
                broken.push(id);
            }
        }
    }
    Ok((records, broken))
}

/// Identifiers become directory and cgroup names.
pub(super) fn valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= ID_MAX
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// A relative path without `.` or `..`.
pub(super) fn valid_cgroup(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|component| matches!(component, std::path::Component::Normal(_)))
}
