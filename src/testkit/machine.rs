//! A machine to run a node on: network, mount, process, IPC and host name namespaces of its own, a data directory and a cgroup
//! subtree. Everything is gone when it is dropped.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::holder::Holder;
use crate::image;
use crate::lab::{Fault, Wire};

/// How long a condition may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

const NAME: &str = "board-1";
const ADDRESS: &str = "192.168.77.2";
const NAMESPACES: [&str; 5] = ["--mount", "--net", "--pid", "--ipc", "--uts"];

pub struct Machine {
    /// `None` while the power is off.
    holder: Option<Holder>,
    /// `None` for a machine alone on its network.
    wire: Option<Wire>,
    name: String,
    address: String,
    node: Option<Child>,
    folder: tempfile::TempDir,
    cgroup: String,
}

impl Machine {
    /// A machine alone on its network; the busybox image lies ready to be imported.
    pub fn bare() -> Machine {
        Machine::new(NAME, ADDRESS, None)
    }

    pub(crate) fn plugged(name: &str, address: &str, wire: Wire) -> Machine {
        Machine::new(name, address, Some(wire))
    }

    fn new(name: &str, address: &str, wire: Option<Wire>) -> Machine {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder =
            tempfile::Builder::new().prefix("copepod-test-").tempdir().expect("temporary folder");
        let cgroup =
            format!("copepod-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let images = folder.path().join("data/agent/images");
        fs::create_dir_all(&images).expect("image folder");
        image::busybox_archive(&images.join("busybox.tar"));
        let (name, address) = (name.to_owned(), address.to_owned());
        let mut machine = Machine { holder: None, wire, name, address, node: None, folder, cgroup };
        machine.power_on();
        machine
    }

    /// Makes the namespaces, as a boot makes a kernel's state anew.
    pub fn power_on(&mut self) {
        let boot = self.path("boot_id");
        fs::copy("/proc/sys/kernel/random/uuid", &boot).expect("boot id");
        let script = format!(
            "hostname {} && mount --bind {} /proc/sys/kernel/random/boot_id",
            self.name,
            boot.display()
        );
        let holder = Holder::new(&NAMESPACES, &script);
        match &self.wire {
            Some(wire) => wire.switch.plug(&holder, "eth0", &wire.hardware, &self.address, &wire.gateway),
            None => holder.network(&format!(
                "ip link set lo up && ip link add eth0 type veth peer name wire && ip link set wire up \
                 && ip addr add {}/24 dev eth0 && ip link set eth0 up && ip route add default via 192.168.77.1",
                self.address
            )),
        }
        self.holder = Some(holder);
    }

    /// Ends everything at once, the containers too; only the files stay.
    pub fn cut_power(&mut self) {
        self.holder = None;
        if let Some(mut node) = self.node.take() {
            let _ = node.wait();
        }
        self.remove_cgroups();
    }

    /// Breaks the machine's network, or mends it.
    pub fn fault(&self, fault: Option<Fault>) {
        let rules = fault.map_or_else(|| "delete table inet fault".to_owned(), Fault::rules);
        self.run("nft", &[&rules]).expect("nft, from nftables");
    }

    /// Gives the machine another address of its network in place of the one it has.
    pub fn change_address(&mut self, address: &str) {
        let gateway = self.wire.as_ref().expect("a machine of a lab").gateway.clone();
        self.holder().network(&format!(
            "ip addr del {}/24 dev eth0 && ip addr add {address}/24 dev eth0 && ip route replace default via {gateway}",
            self.address
        ));
        self.address = address.to_owned();
    }

    fn holder(&self) -> &Holder {
        self.holder.as_ref().expect("a machine with power")
    }

    /// A machine with a server that is Ready and a node that is Ready.
    pub fn ready() -> Machine {
        let mut machine = Machine::bare();
        machine.start(&[]);
        machine.wait_node_ready();
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts `copepod server` with these further flags and waits until the API server answers.
    pub fn start(&mut self, flags: &[&str]) {
        self.spawn(flags);
        self.wait("the API server answers", |m| m.kubectl(&["get", "--raw", "/readyz"]).is_ok());
    }

    /// Starts `copepod server` and does not wait.
    pub fn spawn(&mut self, flags: &[&str]) {
        let kubeconfig = self.path("kubeconfig");
        let kubeconfig = kubeconfig.to_str().expect("path in UTF-8");
        self.run_node("server", &[&["--write-kubeconfig", kubeconfig], flags].concat());
    }

    /// Starts `copepod agent`, which joins with the server's token, and does not wait.
    pub fn spawn_agent(&mut self, server: &Machine, flags: &[&str]) {
        let token = server.token();
        let url = format!("https://{}:6443", server.address);
        self.run_node("agent", &[&["--server", &url, "--token", &token], flags].concat());
    }

    /// Starts the binary in this role with these flags.
    pub fn run_node(&mut self, role: &str, flags: &[&str]) {
        assert!(self.node.is_none(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("node.log"))
            .expect("log file");
        let mut command = self.enter(&NAMESPACES);
        command
            .arg(binary())
            .arg(role)
            .arg("--data-dir")
            .arg(self.path("data"))
            .args(["--cgroup-root", &self.cgroup])
            .args(["--config", "/dev/null"])
            .args(flags)
            .stdout(log.try_clone().expect("log file"))
            .stderr(log);
        self.node = Some(command.spawn().expect("nsenter"));
    }

    /// The token with which nodes join this server.
    pub fn token(&self) -> String {
        let file = self.path("data/server/token");
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.trim().to_owned()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the server or agent logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("node.log")).unwrap_or_default()
    }

    /// Ends the server or agent with `signal` and returns its exit status.
    pub fn stop(&mut self, signal: &str) -> std::process::ExitStatus {
        let mut node = self.node.take().expect("a running server or agent");
        let pid = self.node_pid().expect("process of the server or agent");
        assert!(
            Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill").success()
        );
        node.wait().expect("waiting for the server or agent")
    }

    /// Waits for the server or agent to end by itself.
    pub fn wait_end(&mut self) -> std::process::ExitStatus {
        let mut node = self.node.take().expect("a running server or agent");
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = node.try_wait().expect("waiting for the server or agent") {
                return status;
            }
            assert!(Instant::now() < end, "it did not end\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Process of the server or agent as seen from outside its namespace: the child of nsenter.
    pub fn node_pid(&self) -> Option<u32> {
        let role = |line: &str| matches!(line.split('\0').nth(1), Some("server" | "agent"));
        self.processes().into_iter().find(|(_, line)| role(line)).map(|(pid, _)| pid)
    }

    /// Process and command line of everything in this machine's process namespace.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let namespace =
            fs::read_link(format!("/proc/{}/ns/pid", self.holder().init())).expect("namespace");
        let pids = fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|n| n == namespace)
        })
        .filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?)))
        .collect()
    }

    /// Command lines of the containers' processes, which have process namespaces of their own.
    pub fn container_processes(&self) -> Vec<String> {
        self.processes_of_pods().into_iter().map(|(_, line)| line).collect()
    }

    /// How many containers run a process with `word` in its command line. A shell and what it forked count once.
    pub fn containers_running(&self, word: &str) -> usize {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let found = self.processes_of_pods().into_iter().filter(|(_, line)| line.contains(word));
        found.filter_map(|(pid, _)| namespace(&pid)).collect::<BTreeSet<_>>().len()
    }

    /// Process, as seen from outside, of a container that has `word` in its command line.
    pub fn container_process(&self, word: &str) -> Option<u32> {
        let mut found = self.processes_of_pods().into_iter();
        found.find(|(_, line)| line.contains(word)).and_then(|(pid, _)| pid.parse().ok())
    }

    fn processes_of_pods(&self) -> Vec<(String, String)> {
        let pids = fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|e| e.ok()?.file_name().into_string().ok());
        let ours = |pid: &String| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|c| c.contains(&self.cgroup))
        };
        pids.filter(ours)
            .filter_map(|pid| {
                let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
                Some((pid, line))
            })
            .collect()
    }

    pub fn wait_node_ready(&self) {
        self.wait("the node is Ready", |m| {
            m.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=5s"]).is_ok()
        });
    }

    /// Tries until the condition holds; fails with the server's log when that takes too long.
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&Machine) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < end, "waited for: {what}\n{}", self.state());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Runs kubectl as administrator: what it printed, or its message.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        finish(self.kubectl_command(args).output().expect("kubectl"))
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let client = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = self.enter(&["--net"]);
        command.arg(client).arg("--kubeconfig").arg(self.path("kubeconfig")).args(args);
        command.env("HOME", self.folder.path());
        command
    }

    /// As `kubectl`, and it must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        self.kubectl(args)
            .unwrap_or_else(|e| panic!("kubectl {}: {e}\n{}", args.join(" "), self.state()))
    }

    /// As `kubectl`, and it must fail: its message.
    pub fn refused(&self, args: &[&str]) -> String {
        match self.kubectl(args) {
            Ok(out) => panic!("kubectl {} succeeded: {out}", args.join(" ")),
            Err(message) => message,
        }
    }

    /// `kubectl apply -f` of this text.
    pub fn apply(&self, manifest: &str) -> Result<String, String> {
        self.with_file("apply", manifest)
    }

    /// `kubectl VERB -f` of this text.
    pub fn with_file(&self, verb: &str, manifest: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new_in(self.folder.path()).expect("manifest file");
        fs::write(file.path(), manifest).expect("manifest file");
        self.kubectl(&[verb, "-f", file.path().to_str().expect("path")])
    }

    /// Runs a command in this machine's network.
    pub fn run(&self, command: &str, args: &[&str]) -> Result<String, String> {
        finish(self.enter(&["--net"]).arg(command).args(args).output().expect("nsenter"))
    }

    /// A command line that enters this machine's namespaces.
    pub fn enter(&self, namespaces: &[&str]) -> Command {
        self.holder().enter(namespaces)
    }

    fn remove_cgroups(&self) {
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroups(&hierarchy.path().join(&self.cgroup));
        }
        remove_cgroups(&Path::new("/sys/fs/cgroup").join(&self.cgroup));
    }

    /// What a person would look at when a test fails.
    fn state(&self) -> String {
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(60).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        let pods = self.kubectl(&["get", "pods", "-A", "-o", "wide"]).unwrap_or_else(|e| e);
        let events = self.kubectl(&["get", "events", "-A"]).unwrap_or_else(|e| e);
        format!("--- pods\n{pods}\n--- events\n{events}\n--- log\n{tail}")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}

/// The binary under test: `COPEPOD_BIN`, or what `cargo build` leaves.
pub fn binary() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/copepod");
    std::env::var_os("COPEPOD_BIN").map_or_else(built, PathBuf::from)
}

fn finish(output: Output) -> Result<String, String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned() + &text)
    }
}

/// Cgroups are removed from the leaves up; a killed process may hold one for a moment.
fn remove_cgroups(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let end = Instant::now() + Duration::from_secs(5);
    while folder.exists() && fs::remove_dir(folder).is_err() && Instant::now() < end {
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
