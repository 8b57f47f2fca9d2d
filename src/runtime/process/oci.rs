//! The OCI runtime spec of a container, computed from what was asked for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::protocol::{ContainerSpec, Mount, MountKind, Propagation, Sandbox};

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const CGROUPS: &str = "/sys/fs/cgroup";

/// Where the pieces of a container's surroundings are.
pub(super) struct Surroundings<'a> {
    pub(super) sandbox: &'a Sandbox,
    /// The sandbox's pinned namespaces: kind as OCI names it, and path.
    pub(super) namespaces: &'a [(&'static str, PathBuf)],
    pub(super) shm: PathBuf,
    pub(super) cgroup: String,
    /// The container's group in each hierarchy of cgroup v1, by controller; none with v2.
    pub(super) cgroups_v1: Vec<(&'static str, PathBuf)>,
    /// Soft and hard limit of open files for containers that ask for none.
    pub(super) open_files: (u64, u64),
}

/// A device as found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostDevice {
    pub(super) path: PathBuf,
    pub(super) kind: char,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) mode: u32,
    pub(super) access: String,
}

/// The content of `config.json`; the root file system is `rootfs` beside it.
pub(super) fn spec(
    container: &ContainerSpec,
    around: &Surroundings<'_>,
    devices: &[HostDevice],
) -> Value {
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs", "readonly": container.readonly_rootfs },
        "process": process(container, &container.args, &[], container.tty, Some(around.open_files)),
        "mounts": mounts(container, around),
        "linux": {
            "cgroupsPath": around.cgroup,
            "namespaces": namespaces(container, around),
            "maskedPaths": paths(container, container.masked_paths.as_ref(), MASKED),
            "readonlyPaths": paths(container, container.readonly_paths.as_ref(), READONLY),
            "devices": devices.iter().map(device_node).collect::<Vec<_>>(),
            "resources": { "devices": device_rules(container, devices) },
        },
    });
    let shared =
        container.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional);
    if let (true, Some(linux)) = (shared, spec.get_mut("linux")) {
        linux["rootfsPropagation"] = json!("shared");
    }
    spec
}

/// The `process` part, also used for commands in a running container. Working directory, capabilities and seccomp are
/// applied by our executor.
pub(super) fn process(
    container: &ContainerSpec,
    args: &[String],
    extra_env: &[(String, String)],
    terminal: bool,
    open_files: Option<(u64, u64)>,
) -> Value {
    let user = &container.user;
    json!({
        "terminal": terminal,
        "user": {
            "uid": user.uid,
            "gid": user.gid,
            "additionalGids": user.additional_gids,
            "umask": 0o22,
        },
        "args": args,
        "env": environment(container, extra_env, terminal),
        "cwd": "/",
        "noNewPrivileges": container.no_new_privileges,
        "rlimits": rlimits(container, open_files),
    })
}

fn environment(
    container: &ContainerSpec,
    extra: &[(String, String)],
    terminal: bool,
) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let has = |name: &str| container.env.iter().chain(extra).any(|(key, _)| key == name);
    if !has("PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if terminal && !has("TERM") {
        env.push("TERM=xterm".to_owned());
    }
    env.extend(container.env.iter().chain(extra).map(|(key, value)| format!("{key}={value}")));
    env
}

fn rlimits(container: &ContainerSpec, open_files: Option<(u64, u64)>) -> Vec<Value> {
    let mut limits: Vec<Value> = container
        .rlimits
        .iter()
        .map(|limit| json!({ "type": limit.name, "soft": limit.soft, "hard": limit.hard }))
        .collect();
    if let Some((soft, hard)) = open_files
        && !container.rlimits.iter().any(|limit| limit.name == "RLIMIT_NOFILE")
    {
        limits.push(json!({ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard }));
    }
    limits
}

fn namespaces(_: &ContainerSpec, around: &Surroundings<'_>) -> Vec<Value> {
    let sandbox = &around.sandbox.spec;
    let mut all = vec![json!({ "type": "mount" })];
    all.extend(around.namespaces.iter().map(|(kind, path)| json!({ "type": kind, "path": path })));
    if !sandbox.host_pid && !sandbox.share_pid {
        all.push(json!({ "type": "pid" }));
    }
    if around.cgroups_v1.is_empty() {
        all.push(json!({ "type": "cgroup" }));
    }
    all
}

fn paths(container: &ContainerSpec, given: Option<&Vec<String>>, default: &[&str]) -> Vec<String> {
    match given {
        Some(paths) => paths.clone(),
        None if container.privileged => Vec::new(),
        None => default.iter().map(|path| (*path).to_owned()).collect(),
    }
}

fn mounts(container: &ContainerSpec, around: &Surroundings<'_>) -> Vec<Value> {
    let writable = container.privileged;
    let access = if writable { "rw" } else { "ro" };
    let row = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let mut all = vec![
        row("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        row("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        row(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        row("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        row("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    all.extend(cgroups(&around.cgroups_v1, access));
    if !container.mounts.iter().any(|mount| mount.destination == Path::new("/dev/shm")) {
        all.push(json!({
            "destination": "/dev/shm", "type": "bind", "source": around.shm,
            "options": ["rbind", "nosuid", "noexec", "nodev", "rw"],
        }));
    }
    // Parents before what is mounted inside them.
    let mut own: Vec<&Mount> = container.mounts.iter().collect();
    own.sort_by_key(|mount| mount.destination.components().count());
    all.extend(own.into_iter().map(mount));
    all
}

/// What a container sees at `/sys/fs/cgroup`: its own group. libcontainer's mount of v1 asks the node's `/proc` for a
/// process identifier of the container's namespace, which is another process or none.
fn cgroups(groups_v1: &[(&str, PathBuf)], access: &str) -> Vec<Value> {
    const OPTIONS: [&str; 3] = ["nosuid", "noexec", "nodev"];
    if groups_v1.is_empty() {
        let options = OPTIONS.into_iter().chain(["relatime", access]).collect::<Vec<_>>();
        return vec![
            json!({ "destination": CGROUPS, "type": "cgroup", "source": "cgroup", "options": options }),
        ];
    }
    let options = OPTIONS.into_iter().chain(["mode=755", "size=64k"]).collect::<Vec<_>>();
    let folder =
        json!({ "destination": CGROUPS, "type": "tmpfs", "source": "tmpfs", "options": options });
    let group = |(controller, group): &(&str, PathBuf)| {
        let options = OPTIONS.into_iter().chain(["bind", "relatime", access]).collect::<Vec<_>>();
        json!({ "destination": Path::new(CGROUPS).join(controller), "type": "bind", "source": group, "options": options })
    };
    std::iter::once(folder).chain(groups_v1.iter().map(group)).collect()
}

fn mount(mount: &Mount) -> Value {
    let access = if mount.readonly { "ro" } else { "rw" };
    match mount.kind {
        MountKind::Tmpfs { size } => {
            let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), access.to_owned()];
            options.extend(size.map(|size| format!("size={size}")));
            json!({ "destination": mount.destination, "type": "tmpfs", "source": "tmpfs", "options": options })
        }
        MountKind::Bind => {
            let bind = if mount.recursive { "rbind" } else { "bind" };
            let propagation = match mount.propagation {
                Propagation::Private => "rprivate",
                Propagation::HostToContainer => "rslave",
                Propagation::Bidirectional => "rshared",
            };
            json!({
                "destination": mount.destination, "type": "bind", "source": mount.source,
                "options": [bind, propagation, access],
            })
        }
    }
}

fn device_node(device: &HostDevice) -> Value {
    json!({
        "path": device.path, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": 0, "gid": 0,
    })
}

fn device_rules(container: &ContainerSpec, devices: &[HostDevice]) -> Vec<Value> {
    if container.privileged {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    rules.extend(devices.iter().map(|device| {
        json!({
            "allow": true, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
            "access": device.access,
        })
    }));
    rules
}
