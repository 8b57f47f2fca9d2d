//! The loop of PID 1: start what is due, wait for something to happen, reap, report.

mod ending;

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::association::{self, Association, News};
use crate::phases::{self, Machine};
use crate::power::{self, Ending};
use crate::service::{Description, Service};
use crate::slots::Slots;
use crate::status::{self, Status};
use crate::supervisor::State;
use crate::{Config, clock, host_port, kubeconfig, network, notices, ssh, wifi};

const SIGNALS: [Signal; 6] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGPWR,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];
const TURN_MAX: Duration = Duration::from_secs(10);
const ACTIVE_CONSOLES: &str = "/sys/class/tty/console/active";
const BUSYBOX: &str = "/usr/bin/busybox";
/// The node waits this long for an address, then starts without one.
const NETWORK_WAIT: Duration = Duration::from_secs(30);
/// With an address and no idea of the time, it waits this long for a time server.
const CLOCK_WAIT: Duration = Duration::from_secs(15);
/// The status is shown when it has changed, and no more often than this.
const SHOW_STEP: Duration = Duration::from_secs(5);
/// How often the time is saved: a file of some bytes.
const SAVE_STEP: Duration = Duration::from_secs(3600);
/// How often the kubeconfig for the owner is looked at, and how long after a failure.
const KUBECONFIG_STEP: Duration = Duration::from_secs(10);
const KUBECONFIG_RETRY: Duration = Duration::from_secs(600);
const HEALTH_STEP: Duration = Duration::from_secs(2);
const HEALTH_CONNECT: Duration = Duration::from_millis(500);
/// The node must have been up this long before its slot counts as good.
const STEADY_SERVER: Duration = Duration::from_secs(10);
const STEADY_AGENT: Duration = Duration::from_secs(60);
/// The node stops its pods in turns of 30, 10, 10 and 10 seconds, each with a little more for killing.
const NODE_GRACE: Duration = Duration::from_secs(80);
const CHILD_GRACE: Duration = Duration::from_secs(2);

struct Pid1 {
    machine: Machine,
    services: Vec<Service>,
    signals: Option<SignalFd>,
    keys: Vec<File>,
    ending: Option<Ending>,
    slots: Slots,
    health_at: Instant,
    /// When the network first had an address.
    online: Option<Instant>,
    kubeconfig_at: Instant,
    save_at: Instant,
    wireless: Association,
    version: String,
    shown: Status,
    show_at: Instant,
}

/// PID 1: brings the machine up, keeps it, takes it down. Never returns.
pub(crate) fn run(config: Config) -> ! {
    let signals = block_signals();
    let mut machine = phases::run();
    machine
        .console
        .say("init", &format!("copepod {} on slot {}", config.version, slot_name(&machine)));
    let slots = Slots::settle(&mut machine);
    let services = services(&config, &mut machine);
    let health_at = Instant::now() + HEALTH_STEP;
    let wireless = Association::new(wifi::names(machine.settings.wifi.as_ref()), Instant::now());
    let mut pid1 = Pid1 {
        machine,
        services,
        signals,
        keys: Vec::new(),
        ending: None,
        slots,
        health_at,
        online: None,
        save_at: Instant::now() + SAVE_STEP,
        kubeconfig_at: Instant::now() + KUBECONFIG_STEP,
        wireless,
        version: config.version,
        shown: Status::default(),
        show_at: Instant::now(),
    };
    loop {
        let now = Instant::now();
        pid1.start_due(now);
        pid1.turn(pid1.until_next(now));
        pid1.check_health(Instant::now());
        pid1.save_clock(Instant::now());
        pid1.publish_kubeconfig(Instant::now());
        let news = pid1.wireless.look(Instant::now());
        pid1.tell_wireless(news);
        pid1.show(Instant::now());
        if let Some(ending) = pid1.ending {
            // Returns only when the kernel refuses; then it is asked again.
            pid1.end(ending);
        }
    }
}

/// Signals come through a descriptor; without one PID 1 still supervises, it just looks less often.
fn block_signals() -> Option<SignalFd> {
    let mask: SigSet = SIGNALS.into_iter().collect();
    let _ = mask.thread_block();
    let _ = set_cad_enabled(false);
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).ok()
}

fn slot_name(machine: &Machine) -> &'static str {
    machine.command_line.as_ref().map_or("?", |line| line.slot.name())
}

fn services(config: &Config, machine: &mut Machine) -> Vec<Service> {
    let now = Instant::now();
    let settings = &machine.settings;
    let describe = |name, arguments: Vec<String>, oom_score, grace| Description {
        name,
        program: config.binary.clone().into(),
        called: if name == "node" { "copepod" } else { "copepod-init" },
        arguments,
        oom_score,
        grace,
        makes_session: false,
    };
    let role = |role: &str, argument: Option<String>| {
        std::iter::once(role.to_owned()).chain(argument).collect::<Vec<_>>()
    };
    let plan = network::Plan { links: settings.links.clone(), dns: settings.dns.clone() };
    let plan = serde_json::to_string(&plan).ok();
    let clock = clock::Plan { servers: settings.ntp.clone(), bounds: machine.clock_bounds };
    let clock = serde_json::to_string(&clock).ok();
    let mut rows = vec![
        (describe("clock", role(clock::ROLE, clock), 0, CHILD_GRACE), now + NETWORK_WAIT),
        (describe("node", settings.node.clone(), -900, NODE_GRACE), now + NETWORK_WAIT),
        (describe("network", role(network::ROLE, plan), -950, CHILD_GRACE), now),
    ];
    if settings.wifi.is_some() {
        rows.push((wifi::supplicant(), now));
    }
    if settings.host_port {
        let path = kubeconfig::OF_NODE.to_owned();
        rows.push((describe("host-port", role(host_port::ROLE, Some(path)), 0, CHILD_GRACE), now));
    }
    if settings.shell {
        rows.push((shell(), now));
    }
    if !settings.ssh_keys.is_empty() {
        rows.push((ssh::server(), now));
    }
    let mut services = Vec::new();
    for (description, at) in rows {
        let name = description.name;
        match Service::new(description, at) {
            Ok(service) => services.push(service),
            Err(error) => {
                machine.console.say("init", &format!("{name} cannot be supervised: {error}"))
            }
        }
    }
    services
}

/// The debug variant's, on the console that was named last.
fn shell() -> Description {
    let active = std::fs::read_to_string(ACTIVE_CONSOLES).unwrap_or_default();
    let terminal = active.split_whitespace().last().unwrap_or("console").to_owned();
    let arguments = ["getty", "-n", "-l", "/bin/sh", "-L", "115200", &terminal, "vt100"];
    Description {
        name: "shell",
        program: BUSYBOX.into(),
        called: "busybox",
        arguments: arguments.map(str::to_owned).into(),
        oom_score: 0,
        grace: CHILD_GRACE,
        makes_session: true,
    }
}

impl Pid1 {
    fn say(&mut self, text: &str) {
        self.machine.say(text);
    }

    /// When the node may start at the earliest: with an address, and the time if it can be had soon.
    fn node_due(&self) -> Option<Instant> {
        let wait = if self.machine.clock_trusted { Duration::ZERO } else { CLOCK_WAIT };
        self.online.map(|since| since + wait)
    }

    /// Shows what has changed since it was last shown.
    fn show(&mut self, now: Instant) {
        if now < self.show_at {
            return;
        }
        self.show_at = now + SHOW_STEP;
        let components =
            self.services.iter().map(|service| (service.description.name, service.state()));
        let status = Status {
            name: self.machine.settings.hostname.clone(),
            version: self.version.clone(),
            slot: slot_name(&self.machine).to_owned(),
            addresses: status::addresses(),
            components: components.collect(),
            last_error: self.machine.last_error.clone(),
        };
        if status == self.shown {
            return;
        }
        for line in status.lines() {
            self.machine.console.say("status", &line);
        }
        status.draw();
        self.shown = status;
    }

    fn save_clock(&mut self, now: Instant) {
        if now < self.save_at {
            return;
        }
        self.save_at = now + SAVE_STEP;
        if let Err(error) = clock::save() {
            self.say(&format!("the time is not saved: {error}"));
        }
    }

    /// Keeps the owner's copy of the kubeconfig what the node's is, if he wants one.
    fn publish_kubeconfig(&mut self, now: Instant) {
        if now < self.kubeconfig_at || !self.machine.settings.kubeconfig_for_owner {
            return;
        }
        self.kubeconfig_at = now + KUBECONFIG_STEP;
        let addresses: Vec<IpAddr> =
            status::addresses().iter().filter_map(|address| address.parse().ok()).collect();
        // The server's certificate has the node's address, which is the IPv4 one if there is one.
        let address = addresses.iter().find(|one| one.is_ipv4()).or(addresses.first()).copied();
        match address.map(kubeconfig::publish) {
            Some(Ok(true)) => {
                self.say(&format!("{} is on the boot partition", kubeconfig::FOR_OWNER));
            }
            Some(Err(error)) => {
                self.kubeconfig_at = now + KUBECONFIG_RETRY;
                self.machine.complain(&format!("no kubeconfig on the boot partition: {error}"));
            }
            Some(Ok(false)) | None => {}
        }
    }

    /// Starts every service whose time has come.
    fn start_due(&mut self, now: Instant) {
        let ready = |name: &str| {
            self.services.iter().any(|service| service.description.name == name && service.ready)
        };
        if ready("network") {
            self.online.get_or_insert(now);
        }
        self.machine.clock_trusted |= ready("clock");
        let online = self.online.is_some();
        let node_may_start = self.node_due().is_some_and(|due| due <= now);
        for service in &mut self.services {
            let name = service.description.name;
            if (online && name == "clock") || (node_may_start && name == "node") {
                service.supervisor.release(now);
            }
            if service.supervisor.start_at().is_none_or(|at| at > now) {
                continue;
            }
            match service.start(now) {
                Ok(pid) => {
                    self.machine.console.say("init", &format!("{name} started as process {pid}"))
                }
                Err(error) => {
                    let delay = service.supervisor.ended(now).unwrap_or_default();
                    let how = format!("cannot be started: {error}");
                    let text = format!("{name} {how}; next try in {} s", delay.as_secs());
                    self.machine.console.say("init", &text);
                    if name == "node" {
                        self.slots.node_ended(&how);
                    }
                }
            }
        }
    }

    fn until_next(&self, now: Instant) -> Duration {
        let starts = self.services.iter().filter_map(|service| service.supervisor.start_at());
        let health = (!self.slots.is_confirmed()).then_some(self.health_at);
        let node = self.node_due().filter(|due| *due > now);
        let next = starts.chain(health).chain(node).min();
        next.map_or(TURN_MAX, |next| next.saturating_duration_since(now)).min(TURN_MAX)
    }

    /// Waits until something happens or `limit` has passed, and deals with it.
    fn turn(&mut self, limit: Duration) {
        self.machine.feed_watchdog();
        if self.keys.is_empty() && self.ending.is_none() {
            // Drivers may find their keys some time after they are loaded.
            self.keys = power::key_devices();
        }
        let sources = self.signals.iter().map(AsFd::as_fd);
        let outputs = self.services.iter().map(|service| service.output().as_fd());
        let sources = sources.chain(self.machine.devices.events());
        let sources = sources.chain(outputs).chain(self.keys.iter().map(AsFd::as_fd));
        let mut fds: Vec<PollFd<'_>> =
            sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // One millisecond more than asked for: a timeout rounded down would spin until the deadline.
        let limit = limit + Duration::from_millis(1);
        let _ = poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        self.read_outputs();
        for failure in self.machine.devices.follow() {
            self.machine.say(&failure);
        }
        self.read_keys();
        self.read_signals();
        self.reap();
    }

    fn read_outputs(&mut self) {
        let now = Instant::now();
        let mut heard = Vec::new();
        for service in &mut self.services {
            let name = service.description.name;
            for line in service.drain() {
                self.machine.console.say(name, &line);
                if name == wifi::NAME {
                    heard.push(self.wireless.hear(&line, now));
                }
            }
        }
        for news in heard {
            self.tell_wireless(news);
        }
    }

    /// Says it on the console, and what is wrong also to the cluster.
    fn tell_wireless(&mut self, news: Option<News>) {
        let Some(news) = news else { return };
        let service = self.services.iter_mut().find(|it| it.description.name == wifi::NAME);
        if let Some(service) = service {
            service.ready = matches!(news, News::Joined(_));
        }
        match news {
            News::Joined(text) | News::Left(text) => self.say(&format!("wifi: {text}")),
            News::Trouble(text) => self.machine.complain(&format!("wifi: {text}")),
        }
        let told = notices::warn(wifi::NAME, association::REASON, self.wireless.troubles());
        if let Err(error) = told {
            self.say(&format!("the cluster is not told: {error}"));
        }
    }

    fn read_keys(&mut self) {
        let mut pressed = false;
        // A device that fails is gone: keeping it would end every poll at once.
        self.keys.retain_mut(|key| {
            let mut events = [0; 16 * power::EVENT_LEN];
            match key.read(&mut events) {
                Ok(0) => false,
                Ok(read) => {
                    pressed |= power::has_power_key(events.get(..read).unwrap_or_default());
                    true
                }
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            }
        });
        if pressed {
            self.ending = Some(Ending::PowerOff);
        }
    }

    fn read_signals(&mut self) {
        let Some(signals) = &self.signals else { return };
        while let Ok(Some(info)) = signals.read_signal() {
            let signal =
                i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            self.ending = signal.and_then(Ending::of_signal).or(self.ending);
        }
    }

    /// Collects every process that ended, ours and orphans. Returns false when there is none left at all.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.ended(pid, &format!("ended with code {code}"))
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.ended(pid, &format!("was killed by {signal}"))
                }
                Ok(WaitStatus::StillAlive) => return true,
                Err(Errno::ECHILD) => return false,
                Err(Errno::EINTR) | Ok(_) => {}
                Err(_) => return true,
            }
        }
    }

    fn ended(&mut self, pid: Pid, how: &str) {
        let now = Instant::now();
        let mut services = self.services.iter_mut();
        let Some(service) = services.find(|service| service.supervisor.pid() == Some(pid.as_raw()))
        else {
            return;
        };
        service.ready = false;
        let name = service.description.name;
        if name == "node" {
            self.slots.node_ended(how);
        }
        let next = service.supervisor.ended(now);
        let next =
            next.map_or(String::new(), |delay| format!("; next start in {} s", delay.as_secs()));
        self.machine.complain(&format!("{name} {how}{next}"));
        if name == wifi::NAME {
            self.wireless.leave(now);
        }
    }

    /// Once the node is healthy, tells the boot loader that this slot is good; gives up a slot on trial in time.
    fn check_health(&mut self, now: Instant) {
        if self.slots.is_confirmed() || self.ending.is_some() || now < self.health_at {
            return;
        }
        self.health_at = now + HEALTH_STEP;
        let is_up = self.is_healthy(now);
        if let Some(text) = self.slots.look(is_up, now) {
            self.say(&text);
        }
        if self.slots.is_given_up() {
            self.ending = Some(Ending::Restart);
        }
    }

    fn is_healthy(&self, now: Instant) -> bool {
        let port = self.machine.settings.health_port;
        let steady = if port.is_some() { STEADY_SERVER } else { STEADY_AGENT };
        let node = self.services.iter().find(|service| service.description.name == "node");
        let up = node.is_some_and(|node| match node.supervisor.state() {
            State::Running { since, .. } => now.saturating_duration_since(since) >= steady,
            State::Waiting(_) | State::Stopped => false,
        });
        let accepts = |port: u16| {
            TcpStream::connect_timeout(
                &SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                HEALTH_CONNECT,
            )
            .is_ok()
        };
        up && port.is_none_or(accepts)
    }
}
