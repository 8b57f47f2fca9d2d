//! Bringing the machine up: a table of phases, run in order; each says on the console when it fails.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use disk::layout;
use sys::machine::Watchdog;

use crate::Error;
use crate::boot_disk;
use crate::cmdline::CommandLine;
use crate::console::Console;
use crate::devices::{Devices, MODULES};
use crate::mounts::{self, EARLY, LATE};
use crate::settings::{Last, Settings};
use crate::time::pause;
use crate::watchdog::{self, Feed};
use crate::{clock, data, fat, node_check, notices, preload, ssh, wifi};

/// Where the boot partition is mounted, read-only but for moments.
pub(crate) const BOOT: &str = "/boot";
/// Where the data partition is mounted.
pub(crate) const DATA: &str = "/var/lib/copepod";
const CGROUPS: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";
/// Long enough to read the console.
const FAILURE_PAUSE: Duration = Duration::from_secs(60);
/// Images of some gigabytes on a slow card.
const PRELOAD_LIMIT: Duration = Duration::from_secs(1800);

/// Kernel settings a container host needs, and a restart instead of a standstill after a kernel panic.
const SYSCTLS: &[(&str, &str)] = &[
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
    ("vm/overcommit_memory", "1"),
    ("fs/inotify/max_user_instances", "512"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
];

/// What the phases find out for those after them.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) console: Console,
    pub(crate) command_line: Option<CommandLine>,
    pub(crate) settings: Settings,
    pub(crate) clock_bounds: clock::Bounds,
    pub(crate) clock_trusted: bool,
    pub(crate) devices: Devices,
    /// What failed last, for people.
    pub(crate) last_error: Option<String>,
    watchdog: Option<Watchdog>,
}

impl Machine {
    pub(crate) fn say(&mut self, text: &str) {
        self.console.say("init", text);
    }

    /// Says it, and shows it until something else fails.
    pub(crate) fn complain(&mut self, text: &str) {
        self.say(text);
        self.last_error = Some(text.to_owned());
    }

    /// Identifier of the disk we booted from.
    pub(crate) fn disk(&self) -> Result<u32, Error> {
        let command_line = self.command_line.as_ref();
        command_line.map(|line| line.disk).ok_or(Error::CommandLine("copepod.disk"))
    }

    pub(crate) fn feed_watchdog(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            Feed::feed(watchdog);
        }
    }

    /// Works on something that may take long but not longer than `limit`, with the watchdog fed.
    pub(crate) fn at_length<T>(&mut self, limit: Duration, work: impl FnOnce() -> T) -> T {
        watchdog::fed(self.watchdog.as_mut(), limit, work)
    }

    /// For switching off: nobody feeds it any more.
    pub(crate) fn disarm_watchdog(&mut self) {
        let _ = self.watchdog.take().map(Watchdog::disarm);
    }

    /// Lets time pass for people to read the console.
    fn linger(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.feed_watchdog();
            pause(Duration::from_secs(1));
        }
    }
}

struct Phase {
    name: &'static str,
    run: fn(&mut Machine) -> Result<(), Error>,
    /// Without it nothing can work: restart, so that the boot loader may come to the other slot.
    required: bool,
}

const fn phase(
    name: &'static str,
    required: bool,
    run: fn(&mut Machine) -> Result<(), Error>,
) -> Phase {
    Phase { name, run, required }
}

const PHASES: &[Phase] = &[
    phase("kernel file systems", true, |_| mounts::apply(EARLY).and_then(|()| mounts::apply(LATE))),
    phase("modules", false, modules),
    phase("watchdog", false, arm_watchdog),
    phase("cgroups", true, |_| cgroups()),
    phase("boot partition", false, boot_partition),
    phase("data partition", true, data::partition),
    phase("settings", false, settings),
    phase("clock", false, clock),
    phase("host name", false, host_name),
    phase("kernel settings", false, sysctls),
    phase("loopback", false, |_| sys::namespace::loopback_up().map_err(Error::call("bring lo up"))),
    phase("machine identity", false, |_| machine_identity()),
    phase("preloaded files", false, preloaded),
    phase("Wi-Fi", false, |machine| wifi::prepare(machine.settings.wifi.as_ref())),
    phase("keys for SSH", false, |machine| ssh::prepare(&machine.settings.ssh_keys)),
];

/// Runs all phases.
pub(crate) fn run() -> Machine {
    // The console exists once devtmpfs is there; stage 1 has mounted it, and opening again does no harm.
    let _ = mounts::apply(EARLY);
    let mut machine = Machine {
        console: Console::open(),
        command_line: CommandLine::read().ok(),
        settings: Settings::none(),
        clock_bounds: clock::Bounds::default(),
        clock_trusted: false,
        devices: Devices::default(),
        last_error: None,
        watchdog: None,
    };
    for phase in PHASES {
        let Err(error) = (phase.run)(&mut machine) else { continue };
        machine.complain(&format!("{} failed: {error}", phase.name));
        if phase.required {
            machine.say("cannot go on without it, restarting");
            machine.linger(FAILURE_PAUSE);
            let result = sys::machine::restart();
            machine.say(&format!("restart failed: {result:?}"));
        }
    }
    machine
}

/// Those of the list, then those that the devices ask for.
fn modules(machine: &mut Machine) -> Result<(), Error> {
    let path = Path::new(MODULES).join("order");
    let order = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let mut failed = 0;
    for name in order.lines() {
        if let Err(error) = sys::module::load(&Path::new(MODULES).join(name)) {
            machine.say(&format!("module {name}: {error}"));
            failed += 1;
        }
    }
    let (devices, failures) = Devices::start(&order);
    machine.devices = devices;
    for failure in &failures {
        machine.say(failure);
    }
    failed += failures.len();
    if failed == 0 { Ok(()) } else { Err(Error::Several(failed)) }
}

/// Armed as early as its driver is there; a board may have none.
fn arm_watchdog(machine: &mut Machine) -> Result<(), Error> {
    let Some((watchdog, seconds)) = watchdog::arm()? else { return Ok(()) };
    machine.watchdog = Some(watchdog);
    machine.say(&format!("watchdog armed, {seconds} s"));
    Ok(())
}

fn cgroups() -> Result<(), Error> {
    let path = Path::new(CGROUPS).join("cgroup.controllers");
    let available = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let wanted =
        CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|word| word == **name));
    let line = wanted.map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    let path = Path::new(CGROUPS).join("cgroup.subtree_control");
    fs::write(&path, line).map_err(Error::file("write", &path))
}

/// What updates that lost their power have left on the boot partition.
fn free_lost_clusters(device: &Path, machine: &mut Machine) {
    let opened = fs::File::options().read(true).write(true).open(device);
    match opened.and_then(|device| fat::free_lost(&device)) {
        Ok(None | Some(0)) => {}
        Ok(Some(lost)) => {
            let text = format!("the boot partition had {lost} lost clusters, they are free again");
            machine.say(&text);
        }
        Err(error) => machine.say(&format!("the boot partition is not checked: {error}")),
    }
}

fn boot_partition(machine: &mut Machine) -> Result<(), Error> {
    let disk = machine.disk()?;
    let device = boot_disk::partition(disk, layout::BOOT)?;
    let others = boot_disk::others(disk, &device);
    if !others.is_empty() {
        let names = others.join(", ");
        let text =
            format!("{names} holds Copepod too and is left alone; {} is used", device.display());
        machine.complain(&text);
        notices::warn("boot-disk", "SecondBootDisk", &[text])?;
    }
    free_lost_clusters(&device, machine);
    // The owner's token and kubeconfig lie there, and the file system knows no owners.
    mounts::partition(&device, BOOT, "vfat", mounts::BOOT_FLAGS, Some("umask=0077"))
}

/// Also puts what the node must not be told by its arguments where it finds it.
fn settings(machine: &mut Machine) -> Result<(), Error> {
    let (settings, problems) = Settings::read(&mut node_check::judge);
    machine.settings = settings;
    for problem in &problems {
        machine.complain(problem);
    }
    notices::warn("settings", "InvalidSetting", &problems)?;
    node_check::write_secrets(&machine.settings)?;
    Last::keep(&machine.settings)
}

fn clock(machine: &mut Machine) -> Result<(), Error> {
    let (bounds, source) = clock::start(machine.settings.build_epoch)?;
    machine.clock_bounds = bounds;
    machine.clock_trusted = source != clock::Source::Floor;
    if !machine.clock_trusted {
        machine.say("this board does not know the time; it starts from the last time known");
    }
    Ok(())
}

fn host_name(machine: &mut Machine) -> Result<(), Error> {
    nix::unistd::sethostname(&machine.settings.hostname).map_err(Error::call("set the host name"))
}

fn sysctls(machine: &mut Machine) -> Result<(), Error> {
    let mut failed = 0;
    for (name, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(name);
        if let Err(error) = fs::write(&path, value) {
            machine.say(&format!("write {}: {error}", path.display()));
            failed += 1;
        }
    }
    if failed == 0 { Ok(()) } else { Err(Error::Several(failed)) }
}

/// A random number that stays with the data partition; the root's /etc/machine-id leads to the copy below /run.
fn machine_identity() -> Result<(), Error> {
    let kept = Path::new(DATA).join("machine-id");
    let mut text = fs::read_to_string(&kept).unwrap_or_default();
    let valid = |text: &str| {
        text.trim().len() == 32 && text.trim().bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if !valid(&text) {
        let uuid =
            fs::read_to_string(RANDOM_UUID).map_err(Error::file("read", Path::new(RANDOM_UUID)))?;
        text = uuid.replace('-', "");
        sys::atomic_write(&kept, text.as_bytes(), 0o444).map_err(Error::file("write", &kept))?;
    }
    let shown = Path::new("/run/machine-id");
    fs::write(shown, text).map_err(Error::file("write", shown))
}

fn preloaded(machine: &mut Machine) -> Result<(), Error> {
    let failures = machine.at_length(PRELOAD_LIMIT, preload::all);
    for failure in &failures {
        machine.say(failure);
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Several(failures.len())) }
}
