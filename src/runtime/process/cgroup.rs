//! Cgroups of sandboxes and containers, version 2 and 1 alike: make, limit, kill, measure, remove.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use sys::device_filter::Rule;

use crate::protocol::{Resources, Stats};

const MOUNT_POINT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 in which containers get a group.
const V1_CONTROLLERS: &[&str] = &[
    "memory",
    "cpu",
    "cpuacct",
    "cpuset",
    "pids",
    "devices",
    "freezer",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
];
/// How long a killed group's processes may take to end.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long an empty group may stay busy.
const REMOVE_WAIT: Duration = Duration::from_secs(5);
/// The kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// Depth of groups a container may have made inside its own.
const DEPTH_MAX: usize = 16;

/// The hierarchies of this machine.
#[derive(Debug, Clone)]
pub(super) enum Cgroups {
    V2,
    /// Controller name to mount point; several names may share one.
    V1(BTreeMap<&'static str, PathBuf>),
}

impl Cgroups {
    pub(super) fn detect() -> io::Result<Cgroups> {
        let root = nix::sys::statfs::statfs(MOUNT_POINT)?;
        if root.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC {
            return Ok(Cgroups::V2);
        }
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let mut controllers = BTreeMap::new();
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            if right.next() != Some("cgroup") {
                continue;
            }
            let Some(point) = left.split(' ').nth(4) else { continue };
            let options = right.nth(1).unwrap_or_default();
            for controller in V1_CONTROLLERS
                .iter()
                .filter(|name| options.split(',').any(|option| option == **name))
            {
                controllers.entry(*controller).or_insert_with(|| PathBuf::from(point));
            }
        }
        Ok(Cgroups::V1(controllers))
    }

    pub(super) fn version(&self) -> u8 {
        match self {
            Cgroups::V2 => 2,
            Cgroups::V1(_) => 1,
        }
    }

    /// The directories of a group, one per hierarchy.
    fn directories(&self, group: &str) -> Vec<PathBuf> {
        match self {
            Cgroups::V2 => vec![Path::new(MOUNT_POINT).join(group)],
            Cgroups::V1(controllers) => {
                let mut points: Vec<&PathBuf> = controllers.values().collect();
                points.sort();
                points.dedup();
                points.into_iter().map(|point| point.join(group)).collect()
            }
        }
    }

    /// A group's directory in each hierarchy of v1, by controller; nothing with v2.
    pub(super) fn groups_v1(&self, group: &str) -> Vec<(&'static str, PathBuf)> {
        match self {
            Cgroups::V2 => Vec::new(),
            Cgroups::V1(controllers) => {
                controllers.iter().map(|(name, point)| (*name, point.join(group))).collect()
            }
        }
    }

    fn directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        match self {
            Cgroups::V2 => Some(Path::new(MOUNT_POINT).join(group)),
            Cgroups::V1(controllers) => controllers.get(controller).map(|point| point.join(group)),
        }
    }

    /// Makes a group whose children hold the processes.
    pub(super) fn make_parent(&self, group: &str) -> io::Result<()> {
        match self {
            Cgroups::V2 => make_v2(group, true),
            Cgroups::V1(_) => self.make_v1(group),
        }
    }

    /// Makes a group for processes.
    pub(super) fn make_leaf(&self, group: &str) -> io::Result<()> {
        match self {
            Cgroups::V2 => make_v2(group, false),
            Cgroups::V1(_) => self.make_v1(group),
        }
    }

    fn make_v1(&self, group: &str) -> io::Result<()> {
        for directory in self.directories(group) {
            fs::create_dir_all(directory)?;
        }
        if let Cgroups::V1(controllers) = self
            && let Some(point) = controllers.get("cpuset")
        {
            inherit_cpuset(point, group)?;
        }
        Ok(())
    }

    /// Applies limits; a limit of a controller that is not there is an error only if it was asked for.
    pub(super) fn limit(&self, group: &str, resources: &Resources, leaf: bool) -> io::Result<()> {
        for Setting { controller, file, value, needed } in self.settings(resources, leaf) {
            let Some(directory) = self.directory(controller, group) else {
                if needed {
                    return Err(io::Error::other(format!(
                        "no cgroup controller {controller} for {file}={value}"
                    )));
                }
                continue;
            };
            let path = directory.join(file);
            if let Err(error) = fs::write(&path, value.as_bytes())
                && needed
            {
                return Err(io::Error::new(
                    error.kind(),
                    format!("write {value:?} to {}: {error}", path.display()),
                ));
            }
        }
        Ok(())
    }

    fn settings(&self, resources: &Resources, leaf: bool) -> Vec<Setting> {
        match self {
            Cgroups::V2 => settings_v2(resources, leaf),
            Cgroups::V1(_) => settings_v1(resources),
        }
    }

    /// Lets the group's processes use these devices and no others. Version 1 is left to libcontainer.
    pub(super) fn limit_devices(&self, group: &str, rules: &[Rule]) -> io::Result<()> {
        match self {
            Cgroups::V2 => {
                let directory = fs::File::open(Path::new(MOUNT_POINT).join(group))?;
                sys::device_filter::attach(directory.as_fd(), rules)
            }
            Cgroups::V1(_) => Ok(()),
        }
    }

    /// Moves a process into a group.
    pub(super) fn enter(&self, group: &str, pid: Pid) -> io::Result<()> {
        for directory in self.directories(group) {
            fs::write(directory.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Processes of a group and all groups below it.
    pub(super) fn processes(&self, group: &str) -> Vec<Pid> {
        let mut pids = Vec::new();
        for directory in self.directories(group) {
            pids.extend(tree(&directory).iter().flat_map(|below| members(below)));
        }
        pids.sort();
        pids.dedup();
        pids
    }

    /// SIGKILL to every process of the group, whatever they fork meanwhile; does not wait.
    pub(super) fn kill(&self, group: &str) {
        if let Cgroups::V2 = self
            && let Some(directory) = self.directory("", group)
            && fs::write(directory.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.processes(group) {
            // One that has ended in between is what we want.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Kills what is in the group, waits for its end, and removes the group with all below it.
    pub(super) fn remove(&self, group: &str) -> io::Result<()> {
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            self.kill(group);
            let pids = self.processes(group);
            if pids.is_empty() {
                break;
            }
            if !wait_for_end(&pids, deadline) && Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes of cgroup {group} do not end: {pids:?}"),
                ));
            }
        }
        let deadline = Instant::now() + REMOVE_WAIT;
        for directory in self.directories(group) {
            remove_tree(&directory, deadline)?;
        }
        Ok(())
    }

    /// How often the kernel's out-of-memory killer struck in this group.
    pub(super) fn oom_kills(&self, group: &str) -> u64 {
        let file = match self {
            Cgroups::V2 => "memory.events",
            Cgroups::V1(_) => "memory.oom_control",
        };
        self.directory("memory", group)
            .and_then(|dir| field(&dir.join(file), "oom_kill"))
            .unwrap_or(0)
    }

    pub(super) fn stats(&self, group: &str) -> Stats {
        match self {
            Cgroups::V2 => stats_v2(&Path::new(MOUNT_POINT).join(group)),
            Cgroups::V1(_) => {
                let dir = |controller| self.directory(controller, group).unwrap_or_default();
                stats_v1(&dir("memory"), &dir("cpuacct"), &dir("pids"))
            }
        }
    }
}

/// A cpuset of version 1 takes no process before it has processors and memory nodes: its parent's.
fn inherit_cpuset(point: &Path, group: &str) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut directory = point.to_owned();
        for component in Path::new(group).components() {
            let parent = fs::read_to_string(directory.join(file))?;
            directory.push(component);
            if fs::read_to_string(directory.join(file))?.trim().is_empty() {
                fs::write(directory.join(file), parent.trim())?;
            }
        }
    }
    Ok(())
}

fn make_v2(group: &str, parent: bool) -> io::Result<()> {
    let available = fs::read_to_string(Path::new(MOUNT_POINT).join("cgroup.controllers"))?;
    let mut directory = PathBuf::from(MOUNT_POINT);
    let mut components = Path::new(group).components().peekable();
    enable(&directory, &available);
    while let Some(component) = components.next() {
        directory.push(component);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // A group with controllers for its children may not hold processes.
        if parent || components.peek().is_some() {
            enable(&directory, &available);
        }
    }
    Ok(())
}

fn enable(directory: &Path, controllers: &str) {
    for controller in controllers.split_ascii_whitespace() {
        // Some cannot be enabled everywhere (cpu with real-time tasks); a limit that needs one fails later, by name.
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// One value of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    controller: &'static str,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Failing to set it is an error.
    needed: bool,
}

impl Setting {
    fn needed(controller: &'static str, file: &'static str, value: impl ToString) -> Setting {
        Setting { controller, file, value: value.to_string(), needed: true }
    }

    fn wanted(controller: &'static str, file: &'static str, value: impl ToString) -> Setting {
        Setting { needed: false, ..Setting::needed(controller, file, value) }
    }
}

/// Negative means without limit.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

pub(super) fn settings_v2(resources: &Resources, leaf: bool) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        all.push(Setting::needed("cpu", "cpu.weight", weight(shares)));
    }
    if resources.cpu_quota_us.is_some() || resources.cpu_period_us.is_some() {
        let quota = resources.cpu_quota_us.filter(|quota| *quota > 0).unwrap_or(-1);
        let period = resources.cpu_period_us.unwrap_or(CPU_PERIOD_US);
        all.push(Setting::needed("cpu", "cpu.max", format!("{} {period}", or_max(quota))));
    }
    if let Some(memory) = resources.memory_limit.filter(|limit| *limit != 0) {
        all.push(Setting::needed("memory", "memory.max", or_max(memory)));
        // Pods do not swap.
        all.push(Setting::wanted("memory", "memory.swap.max", 0));
    }
    if leaf {
        // The whole container goes, not one process of it.
        all.push(Setting::wanted("memory", "memory.oom.group", 1));
    }
    if let Some(pids) = resources.pids_limit.filter(|limit| *limit != 0) {
        all.push(Setting::needed("pids", "pids.max", or_max(pids)));
    }
    all
}

pub(super) fn settings_v1(resources: &Resources) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        all.push(Setting::needed("cpu", "cpu.shares", shares));
    }
    if let Some(period) = resources.cpu_period_us {
        all.push(Setting::wanted("cpu", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = resources.cpu_quota_us {
        // A kernel without bandwidth control has no such file.
        let needed = quota > 0;
        all.push(Setting { needed, ..Setting::needed("cpu", "cpu.cfs_quota_us", quota) });
    }
    if let Some(memory) = resources.memory_limit.filter(|limit| *limit != 0) {
        // The second limit may never be below the first, so it goes first when raising and last when lowering.
        all.push(Setting::wanted("memory", "memory.memsw.limit_in_bytes", memory));
        all.push(Setting::needed("memory", "memory.limit_in_bytes", memory));
        all.push(Setting::wanted("memory", "memory.memsw.limit_in_bytes", memory));
    }
    if let Some(pids) = resources.pids_limit.filter(|limit| *limit != 0) {
        all.push(Setting::needed("pids", "pids.max", or_max(pids)));
    }
    all
}

/// Shares (2 to 262144) as a weight (1 to 10000), upstream's linear formula.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The directory and all below it, deepest last.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(directory.to_owned(), 0)];
    while let Some((next, depth)) = open.pop() {
        if let Ok(entries) = fs::read_dir(&next) {
            if depth < DEPTH_MAX {
                let below = entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                open.extend(below.map(|entry| (entry.path(), depth + 1)));
            }
            found.push(next);
        }
    }
    found
}

/// Waits until all of these processes have ended; false at the deadline.
fn wait_for_end(pids: &[Pid], deadline: Instant) -> bool {
    for pid in pids {
        // A process that is gone needs no waiting; a zombie's descriptor is readable.
        let Ok(pidfd) = sys::process::pidfd_open(*pid) else { continue };
        if !wait_readable(&pidfd, deadline) {
            return false;
        }
    }
    true
}

fn wait_readable(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Processes of one group in one hierarchy. Those of another process namespace have no number here, which reads as 0.
fn members(directory: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let numbers = text.lines().filter_map(|line| line.parse().ok());
    numbers.filter(|number| *number > 0).map(Pid::from_raw).collect()
}

fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    for path in tree(directory).into_iter().rev() {
        loop {
            match fs::remove_dir(&path) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                // A zombie that its parent has not collected yet keeps the group busy, or a process that an interrupted
                // creation put into this hierarchy only, and late.
                Err(error)
                    if error.raw_os_error() == Some(nix::libc::EBUSY)
                        && Instant::now() < deadline =>
                {
                    for pid in members(&path) {
                        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    }
                    let _ = poll(&mut [], PollTimeout::from(5u8));
                }
                Err(error) => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("remove {}: {error}", path.display()),
                    ));
                }
            }
        }
    }
    Ok(())
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A `name value` line of a file.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(' ')))?;
    line.trim().parse().ok()
}

fn stats_v2(dir: &Path) -> Stats {
    let memory_bytes = number(&dir.join("memory.current"));
    let stat = |name| field(&dir.join("memory.stat"), name).unwrap_or(0);
    Stats {
        taken_at: super::clock::now(),
        cpu_ns: field(&dir.join("cpu.stat"), "usage_usec").unwrap_or(0).saturating_mul(1000),
        memory_bytes,
        working_set: memory_bytes.saturating_sub(stat("inactive_file")),
        rss: stat("anon"),
        page_faults: stat("pgfault"),
        major_page_faults: stat("pgmajfault"),
        pids: number(&dir.join("pids.current")),
        ..Stats::default()
    }
}

fn stats_v1(memory: &Path, cpu: &Path, pids: &Path) -> Stats {
    let memory_bytes = number(&memory.join("memory.usage_in_bytes"));
    let stat = |name| field(&memory.join("memory.stat"), name).unwrap_or(0);
    Stats {
        taken_at: super::clock::now(),
        cpu_ns: number(&cpu.join("cpuacct.usage")),
        memory_bytes,
        working_set: memory_bytes.saturating_sub(stat("total_inactive_file")),
        rss: stat("total_rss"),
        page_faults: stat("total_pgfault"),
        major_page_faults: stat("total_pgmajfault"),
        pids: number(&pids.join("pids.current")),
        ..Stats::default()
    }
}
