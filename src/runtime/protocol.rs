//! What the runtime process and its clients say to each other: JSON frames over a Unix stream socket.
//!
//! A frame is a little-endian `u32` length followed by that many bytes of JSON. File descriptors travel as `SCM_RIGHTS`
//! beside the frame that mentions them and are matched in order by the frame's `fds` count.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The largest frame either side accepts.
pub const FRAME_MAX: usize = 4 << 20;
/// Bytes of a frame's length prefix.
pub const PREFIX: usize = 4;
/// Version of this protocol; the client refuses a process that speaks another.
pub const PROTOCOL: u32 = 1;

/// Nanoseconds since the Unix epoch.
pub type Nanos = i64;

/// A pod-like group of containers that share namespaces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    pub id: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// One PID namespace for all containers, with a tiny init of ours as its first process.
    pub share_pid: bool,
    /// Relative to the runtime's cgroup root, for example `kubepods/burstable/pod<uid>`.
    pub cgroup: String,
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the group's own cgroup.
    pub resources: Option<Resources>,
    /// Opaque to the runtime, returned on list.
    pub labels: BTreeMap<String, String>,
}

/// A sandbox as the runtime knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    pub id: String,
    /// The pinned network namespace; none with the host's network.
    pub netns: Option<PathBuf>,
    pub spec: SandboxSpec,
    pub created_at: Nanos,
    /// False when its namespaces are gone (after a reboot): remove it and create another.
    pub ready: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    #[default]
    Bind,
    Tmpfs {
        /// Bytes; none is the kernel's default (half the memory).
        size: Option<u64>,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub readonly: bool,
    pub kind: MountKind,
    /// Bind mounts below the source come along.
    pub recursive: bool,
    pub propagation: Propagation,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit: Option<i64>,
    /// Carried for the scheduler of whoever asks; limits nothing.
    pub memory_request: Option<i64>,
    pub pids_limit: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
}

/// Changes to the default set; names with or without `CAP_`, `ALL` is every capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    #[default]
    Default,
    Unconfined,
}

/// A device of the host given to the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub source: PathBuf,
    pub destination: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// For example `RLIMIT_NOFILE`.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

/// Everything needed to make a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
    /// Opaque to the runtime, returned on list.
    pub labels: BTreeMap<String, String>,
    /// Unpacked image layers, topmost first; the runtime mounts an overlay over them.
    pub lower: Vec<PathBuf>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub user: User,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub rlimits: Vec<Rlimit>,
    pub resources: Resources,
    pub oom_score_adj: i32,
    pub capabilities: Capabilities,
    pub privileged: bool,
    pub readonly_rootfs: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// None takes the usual list; an empty list masks nothing (`procMount: Unmasked`).
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub log_path: PathBuf,
    /// Zero: never rotated.
    pub log_max_bytes: u64,
    /// Files kept, the one being written included; at least 2 when rotating.
    pub log_max_files: u32,
}

impl Default for ContainerSpec {
    fn default() -> Self {
        ContainerSpec {
            id: String::new(),
            sandbox: String::new(),
            name: String::new(),
            attempt: 0,
            labels: BTreeMap::new(),
            lower: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: User::default(),
            mounts: Vec::new(),
            devices: Vec::new(),
            rlimits: Vec::new(),
            resources: Resources::default(),
            oom_score_adj: 0,
            capabilities: Capabilities::default(),
            privileged: false,
            readonly_rootfs: false,
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            masked_paths: None,
            readonly_paths: None,
            tty: false,
            stdin: false,
            stdin_once: false,
            log_path: PathBuf::new(),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Created,
    Running,
    Exited,
}

/// A container as the runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
    pub labels: BTreeMap<String, String>,
    pub state: State,
    pub pid: Option<i32>,
    pub created_at: Nanos,
    pub started_at: Option<Nanos>,
    pub finished_at: Option<Nanos>,
    /// As upstream: `128 + signal` after a signal, 128 when it could not be started; 255 when the code
    /// could not be learnt.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    /// Why it ended or could not be started, for people.
    pub message: String,
    pub log_path: PathBuf,
    /// It is being removed, which kills it: its end is not one of its own.
    #[serde(default)]
    pub removing: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    pub args: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<(String, String)>,
    pub tty: bool,
    pub stdin: bool,
    /// Columns and rows of the terminal.
    pub size: Option<(u16, u16)>,
}

/// Which descriptors come with a session, in the order stdin, stdout, stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFds {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub taken_at: Nanos,
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    /// Usage less the inactive file cache, as upstream computes it.
    pub working_set: u64,
    pub rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
    /// Bytes of the writable layer; computed on request by walking it.
    pub writable_bytes: u64,
    pub writable_inodes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub protocol: u32,
    pub version: String,
    pub pid: i32,
    pub started_at: Nanos,
    /// 1 or 2.
    pub cgroup: u8,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Version,
    List,
    CreateSandbox(Box<SandboxSpec>),
    RemoveSandbox {
        id: String,
    },
    CreateContainer(Box<ContainerSpec>),
    StartContainer {
        id: String,
    },
    Container {
        id: String,
    },
    /// To the container's first process.
    Signal {
        id: String,
        signal: i32,
    },
    /// SIGKILL to everything in the container's cgroup.
    KillAll {
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    Exec {
        id: String,
        spec: Box<ExecSpec>,
    },
    ExecWait {
        session: u64,
    },
    ExecSignal {
        session: u64,
        signal: i32,
    },
    ResizeExec {
        session: u64,
        columns: u16,
        rows: u16,
    },
    Resize {
        id: String,
        columns: u16,
        rows: u16,
    },
    Attach {
        id: String,
        stdin: bool,
    },
    Stats {
        id: String,
    },
    /// Limits of a sandbox's cgroup, its containers included.
    SandboxStats {
        id: String,
    },
    UpdateResources {
        id: String,
        resources: Resources,
    },
    /// Close and reopen the log file, after someone else moved it away.
    ReopenLog {
        id: String,
    },
    /// Send events on this connection from now on.
    Subscribe,
    /// Re-execute `exe` (none: its own), keeping pid, children and descriptors.
    Upgrade {
        exe: Option<PathBuf>,
    },
    /// End the process; containers go on.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    Version(Version),
    List(Snapshot),
    Sandbox(Box<Sandbox>),
    Container(Box<Container>),
    Session { session: u64, fds: SessionFds },
    Exit { code: i32 },
    Stats(Stats),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    NotFound,
    AlreadyExists,
    /// The state of the thing does not allow it, for example exec in an exited container.
    State,
    Invalid,
    /// The program of the container cannot be run; the container has exited with code 128.
    Start,
    /// A bound of the runtime (connections, sessions, containers) is reached.
    Limit,
    Internal,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    ContainerStarted {
        id: String,
    },
    ContainerExited {
        id: String,
    },
    /// Made by the client after a reconnect or an overrun: list again.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub id: u64,
    pub request: Request,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Reply { id: u64, fds: usize, result: Result<Reply, Failure> },
    Event(Event),
}

/// A value as a frame; none when it would be larger than [`FRAME_MAX`].
pub(crate) fn encode<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    let mut frame = vec![0; PREFIX];
    serde_json::to_writer(&mut frame, value).ok()?;
    let length = frame.len() - PREFIX;
    if length > FRAME_MAX {
        return None;
    }
    let prefix = u32::try_from(length).ok()?.to_le_bytes();
    frame.get_mut(..PREFIX)?.copy_from_slice(&prefix);
    Some(frame)
}

/// The length of the first frame's body once its prefix is there; an error when it is longer than allowed.
pub(crate) fn frame_length(bytes: &[u8]) -> std::io::Result<Option<usize>> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
    match usize::try_from(u32::from_le_bytes(*prefix)) {
        Ok(length) if length <= FRAME_MAX => Ok(Some(length)),
        _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame is too large")),
    }
}
