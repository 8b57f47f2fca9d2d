//! A machine to run a node on: network, mount, process, IPC and host name namespaces of its own, a data directory and a cgroup
//! subtree. Everything is gone when it is dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::image;

/// How long a condition may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

const ADDRESS: &str = "192.168.77.2";

pub struct Machine {
    holder: Child,
    init: u32,
    server: Option<Child>,
    folder: tempfile::TempDir,
    cgroup: String,
}

impl Machine {
    /// Makes the namespaces; the busybox image lies ready to be imported.
    pub fn bare() -> Machine {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder =
            tempfile::Builder::new().prefix("copepod-test-").tempdir().expect("temporary folder");
        let cgroup =
            format!("copepod-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let script = format!(
            "ip link set lo up && ip link add eth0 type veth peer name wire && ip link set wire up && ip addr add {ADDRESS}/24 dev eth0 && ip link set eth0 up \
             && ip route add default via 192.168.77.1 && hostname board-1 && echo up && exec sleep infinity"
        );
        let mut holder = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--ipc",
                "--uts",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["--propagation", "private", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare: these tests need root and util-linux");
        let mut line = String::new();
        let out = holder.stdout.take().expect("stdout is piped");
        BufReader::new(out).read_line(&mut line).expect("reading from unshare");
        assert_eq!(line.trim(), "up", "namespaces could not be made: these tests need root");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", holder.id()))
            .expect("children");
        let init = children.trim().parse().expect("one child");
        let images = folder.path().join("data/agent/images");
        fs::create_dir_all(&images).expect("image folder");
        image::busybox_archive(&images.join("busybox.tar"));
        Machine { holder, init, server: None, folder, cgroup }
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
        assert!(self.server.is_none(), "the server is running");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("server.log"))
            .expect("log file");
        let mut command = self.enter(&["--mount", "--net", "--pid", "--ipc", "--uts"]);
        command
            .arg(binary())
            .arg("server")
            .arg("--data-dir")
            .arg(self.path("data"))
            .arg("--write-kubeconfig")
            .arg(self.path("kubeconfig"))
            .args(["--cgroup-root", &self.cgroup])
            .args(["--config", "/dev/null"])
            .args(flags)
            .stdout(log.try_clone().expect("log file"))
            .stderr(log);
        self.server = Some(command.spawn().expect("nsenter"));
    }

    /// Ends the server with `signal` and returns its exit status.
    pub fn stop(&mut self, signal: &str) -> std::process::ExitStatus {
        let mut server = self.server.take().expect("a running server");
        let pid = self.server_pid().expect("process of the server");
        assert!(
            Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill").success()
        );
        server.wait().expect("waiting for the server")
    }

    /// Process of the server as seen from outside its namespace: the child of nsenter.
    pub fn server_pid(&self) -> Option<u32> {
        self.processes()
            .into_iter()
            .find(|(_, line)| line.contains("\0server\0"))
            .map(|(pid, _)| pid)
    }

    /// Process and command line of everything in this machine's process namespace.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.init)).expect("namespace");
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
        let pids = fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|e| e.ok()?.file_name().into_string().ok());
        let ours = |pid: &String| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|c| c.contains(&self.cgroup))
        };
        pids.filter(ours)
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
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
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string()]).args(namespaces).arg("--");
        command
    }

    /// What a person would look at when a test fails.
    fn state(&self) -> String {
        let log = fs::read_to_string(self.path("server.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(60).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        let pods = self.kubectl(&["get", "pods", "-A", "-o", "wide"]).unwrap_or_else(|e| e);
        let events = self.kubectl(&["get", "events", "-A"]).unwrap_or_else(|e| e);
        format!("--- pods\n{pods}\n--- events\n{events}\n--- server log\n{tail}")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroups(&hierarchy.path().join(&self.cgroup));
        }
        remove_cgroups(&Path::new("/sys/fs/cgroup").join(&self.cgroup));
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
