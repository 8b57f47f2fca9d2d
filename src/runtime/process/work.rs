//! What the children do for containers: make, start, execute in, measure, remove.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::Container as OciContainer;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, fchown};

use super::cgroup::Cgroups;
use super::job::{Outcome, Product, chain, failure, internal};
use super::oci::{self, Surroundings};
use super::payload::{Payload, REFUSAL};
use super::record::Layout;
use super::{capabilities, devices, seccomp};
use crate::protocol::{
    ContainerSpec, ExecSpec, Failure, FailureKind, Mount, MountKind, Propagation, Seccomp, Stats,
};

/// Directory entries looked at when measuring a writable layer.
const WALK_MAX: u64 = 2_000_000;

/// The container's ends of its standard streams; none with a terminal.
#[derive(Debug, Default)]
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Stdio {
    /// What the child must keep.
    pub(super) fn numbers(&self) -> Vec<RawFd> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(AsRawFd::as_raw_fd)
            .collect()
    }
}

fn while_doing<'a, E: std::error::Error>(what: &'a str) -> impl FnOnce(E) -> Failure + 'a {
    move |error| internal(format!("{what}: {}", chain(&error)))
}

/// Makes the container up to the point where it only waits to be started.
pub(super) fn create(
    layout: &Layout,
    cgroups: &Cgroups,
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
    stdio: Stdio,
) -> Product {
    let dir = layout.container(&spec.id);
    let devices = devices::of_host(spec)?;
    let mut payload = payload(spec)?;
    payload.propagation = spec.mounts.iter().filter_map(propagation).collect();
    mount_root(&dir, spec)?;
    let config = oci::spec(spec, around, &devices);
    write_json(&dir.join("config.json"), &config)?;
    cgroups.make_leaf(&around.cgroup).map_err(while_doing("make cgroup"))?;
    cgroups.limit(&around.cgroup, &spec.resources, true).map_err(while_doing("limit resources"))?;
    if !spec.privileged && cgroups.limit_devices(&around.cgroup, &devices::rules(&devices)).is_err()
    {
        // The kernel cannot filter: then no device may be made at all. The loop has said so at its start.
        payload.capabilities &= !capabilities::MKNOD;
    }
    adjust_oom_score(spec.oom_score_adj)?;
    hand_over(&stdio, spec)?;
    let console = spec.tty.then(|| Console::listen(&dir)).transpose()?;
    let builder = ContainerBuilder::new(spec.id.clone(), SyscallType::default())
        .with_root_path(layout.libcontainer(&spec.id))
        .and_then(ContainerBuilder::validate_id)
        .map_err(while_doing("prepare container"))?
        .with_executor(payload)
        .with_console_socket(console.as_ref().map(|console| console.path.clone()));
    let made = with_stdio(builder, stdio)
        .as_init(&dir)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| failure(FailureKind::Start, refusal(&chain(&error))))?;
    let pid = made.pid().ok_or_else(|| internal("create container: it has no process"))?;
    let master = console.map(Console::accept).transpose()?;
    Ok((Outcome::Process { pid: pid.as_raw() }, master))
}

/// Lets the waiting container run its program.
pub(super) fn start(layout: &Layout, id: &str) -> Product {
    let dir = layout.libcontainer(id).join(id);
    let mut container = OciContainer::load(dir).map_err(while_doing("load container"))?;
    container.start().map_err(while_doing("start container"))?;
    Ok((Outcome::Done, None))
}

/// Runs one more program in a running container.
pub(super) fn execute(
    layout: &Layout,
    spec: &ContainerSpec,
    exec: &ExecSpec,
    stdio: Stdio,
) -> Product {
    let payload = Payload { terminal: exec.size, ..payload(spec)? };
    let place = private_directory(layout, &spec.id)?;
    let state = layout.libcontainer(&spec.id).join(&spec.id).join("state.json");
    fs::create_dir(place.join(&spec.id)).map_err(while_doing("make directory"))?;
    fs::copy(&state, place.join(&spec.id).join("state.json"))
        .map_err(while_doing("copy container state"))?;
    let process = place.join("process.json");
    write_json(&process, &oci::process(spec, &exec.args, &exec.env, exec.tty, None))?;
    adjust_oom_score(spec.oom_score_adj)?;
    hand_over(&stdio, spec)?;
    let console = exec.tty.then(|| Console::listen(&place)).transpose()?;
    let builder = ContainerBuilder::new(spec.id.clone(), SyscallType::default())
        .with_root_path(&place)
        .map_err(while_doing("prepare exec"))?
        .with_executor(payload)
        .with_console_socket(console.as_ref().map(|console| console.path.clone()));
    let pid = with_stdio(builder, stdio)
        .as_tenant()
        .with_detach(true)
        .with_process(Some(process))
        .build()
        .map_err(|error| failure(FailureKind::Start, refusal(&chain(&error))))?;
    let master = console.map(Console::accept).transpose()?;
    Ok((Outcome::Process { pid: pid.as_raw() }, master))
}

/// Removes all a container has.
pub(super) fn remove(layout: &Layout, cgroups: &Cgroups, id: &str, cgroup: &str) -> Product {
    if !cgroup.is_empty() {
        cgroups.remove(cgroup).map_err(while_doing("remove cgroup"))?;
    }
    remove_directory(&layout.container(id))?;
    Ok((Outcome::Done, None))
}

/// Unmounts what is mounted at or below the directory, then removes it; never follows a mount.
pub(super) fn remove_directory(dir: &Path) -> Result<(), Failure> {
    for point in sys::mount::below(dir).map_err(while_doing("read mounts"))? {
        sys::mount::detach(&point).map_err(while_doing("unmount"))?;
    }
    let left = sys::mount::below(dir).map_err(while_doing("read mounts"))?;
    if !left.is_empty() {
        return Err(internal(format!("still mounted: {left:?}")));
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(internal(format!("remove {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

pub(super) fn stats(layout: &Layout, cgroups: &Cgroups, id: &str, cgroup: &str) -> Product {
    let mut stats = cgroups.stats(cgroup);
    measure(&layout.container(id).join("upper"), &mut stats);
    Ok((Outcome::Stats(stats), None))
}

pub(super) fn sandbox_stats(cgroups: &Cgroups, cgroup: &str) -> Product {
    Ok((Outcome::Stats(cgroups.stats(cgroup)), None))
}

/// Disk use of a tree, without following links.
fn measure(root: &Path, stats: &mut Stats) {
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if stats.writable_inodes >= WALK_MAX {
                return;
            }
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            stats.writable_inodes += 1;
            stats.writable_bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
}

fn payload(spec: &ContainerSpec) -> Result<Payload, Failure> {
    let (mask, names) =
        capabilities::resolve(spec).map_err(|error| failure(FailureKind::Invalid, error))?;
    let confined = spec.seccomp == Seccomp::Default && !spec.privileged;
    Ok(Payload {
        seccomp: confined.then(|| Rc::new(seccomp::compile(&names))),
        capabilities: mask,
        last_capability: sys::privileges::last_capability()
            .map_err(while_doing("read last capability"))?,
        cwd: PathBuf::from(if spec.cwd.is_empty() { "/" } else { &spec.cwd }),
        propagation: Vec::new(),
        terminal: None,
    })
}

/// Our own reason if there is one, else all that libcontainer says.
fn refusal(text: &str) -> String {
    match text.rfind(REFUSAL) {
        Some(start) => text.get(start..).unwrap_or(text).to_owned(),
        None => format!("{REFUSAL}{text}"),
    }
}

fn propagation(mount: &Mount) -> Option<(PathBuf, MsFlags)> {
    let flags = match mount.propagation {
        Propagation::Private => MsFlags::MS_PRIVATE,
        Propagation::HostToContainer => MsFlags::MS_SLAVE,
        Propagation::Bidirectional => return None,
    };
    (mount.kind == MountKind::Bind).then(|| (mount.destination.clone(), flags | MsFlags::MS_REC))
}

/// The overlay lives in a mount namespace that ends with the container, so it cannot be left behind. Only where mounts
/// must travel from the container to the host is it made in the host's.
fn mount_root(dir: &Path, spec: &ContainerSpec) -> Result<(), Failure> {
    if !spec.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        own_mount_namespace()?;
    }
    let target = dir.join("rootfs");
    if spec.lower.is_empty() {
        return Err(failure(FailureKind::Invalid, "the container has no image layers"));
    }
    sys::mount::overlay(&target, &spec.lower, &dir.join("upper"), &dir.join("work"))
        .map_err(|error| internal(format!("mount overlay at {}: {error}", target.display())))
}

fn own_mount_namespace() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(while_doing("make mount namespace"))?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(while_doing("make mounts private"))
}

/// The directories a container needs before its child is started.
pub(super) fn make_directories(layout: &Layout, id: &str) -> io::Result<()> {
    let dir = layout.container(id);
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(&dir)?;
    for name in ["rootfs", "work", "lc"] {
        builder.create(dir.join(name))?;
    }
    // The upper directory's mode is the root directory's in the container.
    fs::DirBuilder::new().mode(0o755).create(dir.join("upper"))
}

/// A small file system in memory, seen by this child only and gone with it.
fn private_directory(layout: &Layout, id: &str) -> Result<PathBuf, Failure> {
    own_mount_namespace()?;
    let place = layout.libcontainer(id);
    let state = place.join(id).join("state.json");
    // Mounted over another directory than the one whose state is copied.
    let over = layout.container(id).join("work");
    debug_assert!(!state.starts_with(&over));
    mount(Some("tmpfs"), &over, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=700"))
        .map_err(while_doing("mount private directory"))?;
    Ok(over)
}

fn with_stdio(mut builder: ContainerBuilder, stdio: Stdio) -> ContainerBuilder {
    if let Some(stdin) = stdio.stdin {
        builder = builder.with_stdin(stdin);
    }
    if let Some(stdout) = stdio.stdout {
        builder = builder.with_stdout(stdout);
    }
    if let Some(stderr) = stdio.stderr {
        builder = builder.with_stderr(stderr);
    }
    builder
}

/// The container's user may reopen its streams (`/dev/stdout`).
fn hand_over(stdio: &Stdio, spec: &ContainerSpec) -> Result<(), Failure> {
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        let stat = nix::sys::stat::fstat(fd).map_err(while_doing("look at stream"))?;
        if stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFIFO {
            fchown(fd, Some(Uid::from_raw(spec.user.uid)), Some(Gid::from_raw(spec.user.gid)))
                .map_err(while_doing("hand over stream"))?;
        }
    }
    Ok(())
}

/// Lowering may be withheld from us; the container then keeps what we have.
fn adjust_oom_score(score: i32) -> Result<(), Failure> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(while_doing("adjust oom score")),
    }
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(value).map_err(while_doing("encode"))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(while_doing("write spec"))?;
    io::Write::write_all(&mut file, &bytes).map_err(while_doing("write spec"))
}

/// Where libcontainer delivers the terminal.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn listen(dir: &Path) -> Result<Console, Failure> {
        // Relative, because socket addresses are short; this child's directory is its own.
        std::env::set_current_dir(dir).map_err(while_doing("enter directory"))?;
        let _ = fs::remove_file("console.sock");
        let listener =
            UnixListener::bind("console.sock").map_err(while_doing("listen for terminal"))?;
        std::env::set_current_dir("/").map_err(while_doing("enter directory"))?;
        Ok(Console { listener, path: dir.join("console.sock") })
    }

    fn accept(self) -> Result<OwnedFd, Failure> {
        // It has been sent by now, or never will be.
        self.listener.set_nonblocking(true).map_err(while_doing("accept terminal"))?;
        let (stream, _) = self.listener.accept().map_err(while_doing("accept terminal"))?;
        let mut buffer = [0; 64];
        let (_, fds) = sys::fds::receive(stream.as_fd(), &mut buffer)
            .map_err(while_doing("receive terminal"))?;
        let _ = fs::remove_file(&self.path);
        fds.into_iter().next().ok_or_else(|| internal("the terminal did not come"))
    }
}
