//! What the children do for sandboxes: make and pin namespaces, a tiny init where PIDs are shared, remove.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pause, sethostname};

use super::cgroup::Cgroups;
use super::job::{Outcome, Product, chain, failure, internal};
use super::record::Layout;
use super::work::remove_directory;
use crate::protocol::{Failure, FailureKind, SandboxSpec};

/// A folder every system has, for the tiny init's empty root to be mounted on.
const EMPTY_ROOT: &str = "/sys";
/// Size of `/dev/shm`, as Docker's.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";
/// The group of the tiny init inside the sandbox's.
pub(super) const INIT_GROUP: &str = "init";

fn while_doing<'a, E: std::error::Error>(what: &'a str) -> impl FnOnce(E) -> Failure + 'a {
    move |error| internal(format!("{what}: {}", chain(&error)))
}

/// Kinds of namespaces a sandbox has of its own, as `/proc/self/ns` names them.
pub(super) fn own_namespaces(spec: &SandboxSpec) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    if !spec.host_network {
        // With the host's network comes the host's name.
        kinds.extend(["net", "uts"]);
    }
    if !spec.host_ipc {
        kinds.push("ipc");
    }
    if spec.share_pid && !spec.host_pid {
        kinds.push("pid");
    }
    kinds
}

/// How OCI names a kind of `/proc/self/ns`.
pub(super) fn oci_name(kind: &str) -> &'static str {
    match kind {
        "net" => "network",
        "uts" => "uts",
        "ipc" => "ipc",
        _ => "pid",
    }
}

/// The cgroup path of a sandbox below the hierarchies' roots.
pub(super) fn group(root: &str, spec: &SandboxSpec) -> String {
    format!("{root}/{}", spec.cgroup)
}

/// Makes directory, shared memory, cgroup and namespaces. Reports the tiny init's pid, or done.
pub(super) fn create(
    layout: &Layout,
    cgroups: &Cgroups,
    root: &str,
    spec: &SandboxSpec,
) -> Product {
    let made = attempt(layout, cgroups, root, spec);
    if made.is_err() {
        // Back to nothing; the error that matters is the first one.
        let _ = remove(layout, cgroups, &group(root, spec), &spec.id, None);
    }
    made
}

fn attempt(layout: &Layout, cgroups: &Cgroups, root: &str, spec: &SandboxSpec) -> Product {
    let group = group(root, spec);
    let shm = layout.shm(&spec.id);
    fs::create_dir(&shm).map_err(while_doing("make directory"))?;
    if spec.host_ipc {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/dev/shm"), &shm, None::<&str>, flags, None::<&str>)
            .map_err(while_doing("bind /dev/shm"))?;
    } else {
        let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))
            .map_err(while_doing("mount shm"))?;
    }
    cgroups.make_parent(&group).map_err(while_doing("make cgroup"))?;
    if let Some(resources) = &spec.resources {
        cgroups.limit(&group, resources, false).map_err(while_doing("limit resources"))?;
    }
    let kinds = own_namespaces(spec);
    let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | flag(kind));
    unshare(flags).map_err(while_doing("make namespaces"))?;
    if kinds.contains(&"uts") {
        sethostname(&spec.hostname).map_err(while_doing("set host name"))?;
    }
    if kinds.contains(&"net") {
        sys::namespace::loopback_up().map_err(while_doing("set loopback up"))?;
    }
    for (name, value) in &spec.sysctls {
        set_sysctl(&kinds, name, value)?;
    }
    for kind in kinds.iter().filter(|kind| **kind != "pid") {
        sys::namespace::pin(kind, &layout.pin(&spec.id, kind))
            .map_err(while_doing("pin namespace"))?;
    }
    if !kinds.contains(&"pid") {
        return Ok((Outcome::Done, None));
    }
    let last = sys::privileges::last_capability().map_err(while_doing("read capabilities"))?;
    let pid =
        sys::process::fork_child(&[], move || tiny_init(last)).map_err(while_doing("fork init"))?;
    let init_group = format!("{group}/{INIT_GROUP}");
    cgroups
        .make_leaf(&init_group)
        .and_then(|()| cgroups.enter(&init_group, pid))
        .map_err(while_doing("place init"))?;
    pin_pid(pid, &layout.pin(&spec.id, "pid"))?;
    Ok((Outcome::Process { pid: pid.as_raw() }, None))
}

fn flag(kind: &str) -> CloneFlags {
    match kind {
        "net" => CloneFlags::CLONE_NEWNET,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        // Takes effect for the next child: the tiny init.
        _ => CloneFlags::CLONE_NEWPID,
    }
}

fn pin_pid(pid: Pid, path: &Path) -> Result<(), Failure> {
    fs::write(path, "").map_err(while_doing("pin namespace"))?;
    let source = format!("/proc/{pid}/ns/pid");
    mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(while_doing("pin namespace"))
}

/// The first process of a shared PID namespace: collects orphans until it is killed.
fn tiny_init(last_capability: u32) -> i32 {
    // Renamed so that a process list does not show a second runtime.
    let _ = nix::sys::prctl::set_name(c"pause");
    let _ = nix::unistd::setsid();
    if let Err(error) = leave_host(last_capability) {
        eprintln!("tiny init: {error}");
        return 1;
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None).is_err() {
        return 1;
    }
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        if signals.wait().is_err() {
            pause();
        }
    }
}

/// Containers may look at this process and, with SYS_PTRACE, into it: it keeps nothing of the host's but its own memory.
fn leave_host(last_capability: u32) -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("none"), EMPTY_ROOT, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=4k,mode=0"))?;
    nix::unistd::chdir(EMPTY_ROOT)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    nix::sys::prctl::set_dumpable(false)?;
    sys::privileges::limit_capabilities(0, last_capability)
}

/// A sysctl is set only if it belongs to a namespace the sandbox has of its own.
fn set_sysctl(kinds: &[&str], name: &str, value: &str) -> Result<(), Failure> {
    let refused = |why: &str| failure(FailureKind::Invalid, format!("sysctl {name}: {why}"));
    let needs = namespace_of(name).ok_or_else(|| refused("it belongs to no namespace"))?;
    if !kinds.contains(&needs) {
        return Err(refused("the sandbox uses the host's namespace"));
    }
    // Dots separate, slashes in the name stand for dots in interface names.
    let path: String = name
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    if Path::new(&path).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(refused("bad name"));
    }
    fs::write(Path::new("/proc/sys").join(path), value).map_err(|error| refused(&error.to_string()))
}

fn namespace_of(name: &str) -> Option<&'static str> {
    let ipc =
        ["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shm_rmid_forced"];
    if name.starts_with("net.") {
        Some("net")
    } else if name.starts_with("fs.mqueue.")
        || name.starts_with("kernel.shm")
        || ipc.contains(&name)
    {
        Some("ipc")
    } else if name == "kernel.domainname" {
        Some("uts")
    } else {
        None
    }
}

/// The directories a sandbox's child needs.
pub(super) fn make_directories(layout: &Layout, id: &str) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(layout.sandbox(id))?;
    builder.create(layout.sandbox(id).join("ns"))
}

/// Removes all a sandbox has.
pub(super) fn remove(
    layout: &Layout,
    cgroups: &Cgroups,
    group: &str,
    id: &str,
    init: Option<Pid>,
) -> Product {
    if let Some(pid) = init {
        // Verified by the caller to be ours; its end ends the namespace.
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
    }
    if !group.is_empty() {
        cgroups.remove(group).map_err(while_doing("remove cgroup"))?;
    }
    for kind in ["net", "uts", "ipc", "pid"] {
        sys::namespace::unpin(&layout.pin(id, kind)).map_err(while_doing("unpin namespace"))?;
    }
    remove_directory(&layout.sandbox(id))?;
    Ok((Outcome::Done, None))
}

/// The pinned namespaces of a sandbox as OCI wants them.
pub(super) fn pins(layout: &Layout, id: &str, kinds: &[String]) -> Vec<(&'static str, PathBuf)> {
    kinds.iter().map(|kind| (oci_name(kind), layout.pin(id, kind))).collect()
}
