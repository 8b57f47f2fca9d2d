//! A runtime process for one test.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime::client::{Events, Program, Runtime, spawn};
use runtime::process::Config;
use runtime::protocol::{Container, ContainerSpec, Event, SandboxSpec, State};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

static SEQUENCE: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    pub(crate) runtime: Runtime,
    pub(crate) layer: PathBuf,
    holder: Child,
}

/// On a machine with both versions, this variable makes the tests use the second, without its controllers.
pub(crate) fn version_2() -> bool {
    std::env::var_os("COPEPOD_TEST_CGROUP2").is_some()
}

/// Checks something again and again until it is so.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Node {
    pub(crate) async fn start() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let number = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let config = Config {
            socket: dir.path().join("run/runtime.sock"),
            state_dir: dir.path().join("state"),
            cgroup_root: format!("copepod-test-{}-{number}", std::process::id()),
        };
        // Keeps the mount namespace when the runtime process is killed.
        let cgroups = if version_2() { "mount -t cgroup2 none /sys/fs/cgroup && " } else { "" };
        let script = format!("{cgroups}echo && exec sleep 600");
        let mut holder = Command::new("unshare")
            .args(["-m", "--propagation", "slave", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 1];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        let layer = busybox(dir.path());
        let runtime = spawn(&program(&holder), &config).await.unwrap();
        Node { dir, config, runtime, layer, holder }
    }

    /// Another connection, or the first one to another process.
    pub(crate) async fn connect(&self) -> Runtime {
        spawn(&program(&self.holder), &self.config).await.unwrap()
    }

    pub(crate) async fn sandbox(&self, id: &str) -> SandboxSpec {
        let spec = self.sandbox_spec(id);
        let sandbox = self.runtime.create_sandbox(&spec).await.unwrap();
        assert!(sandbox.ready);
        spec
    }

    pub(crate) fn sandbox_spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.to_owned(),
            hostname: format!("host-{id}"),
            cgroup: format!("kubepods/besteffort/pod-{id}"),
            ..SandboxSpec::default()
        }
    }

    pub(crate) fn spec(&self, sandbox: &str, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            sandbox: sandbox.to_owned(),
            name: id.to_owned(),
            lower: vec![self.layer.clone()],
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: self.log_path(id),
            ..ContainerSpec::default()
        }
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("logs/{id}/0.log"))
    }

    pub(crate) async fn run(&self, spec: &ContainerSpec) {
        self.runtime.create_container(spec).await.unwrap();
        self.runtime.start_container(&spec.id).await.unwrap();
    }

    /// Creates, starts, and waits for the end.
    pub(crate) async fn run_to_end(&self, spec: &ContainerSpec) -> Container {
        let mut events = self.runtime.events();
        self.run(spec).await;
        self.wait(&mut events, &spec.id).await
    }

    /// Waits until the container has exited; `events` must be from before it could.
    pub(crate) async fn wait(&self, events: &mut Events, id: &str) -> Container {
        let waiting = async {
            loop {
                let container = self.runtime.container(id).await.unwrap();
                if container.state == State::Exited {
                    return container;
                }
                match events.next().await {
                    Some(
                        Event::ContainerExited { .. }
                        | Event::Lost
                        | Event::ContainerStarted { .. },
                    ) => {}
                    None => panic!("no more events"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{id} did not end"))
    }

    pub(crate) fn log(&self, id: &str) -> Vec<(String, char, String)> {
        log_lines(&self.log_path(id))
    }

    /// The text of a container's log, both streams as they came.
    pub(crate) fn text(&self, id: &str) -> String {
        self.log(id)
            .into_iter()
            .map(|(_, tag, text)| if tag == 'P' { text } else { text + "\n" })
            .collect()
    }

    /// Runs a script in the node's mount namespace.
    pub(crate) fn on_node(&self, script: &str) -> String {
        let pid = self.holder.id().to_string();
        let output =
            Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) async fn log_contains(&self, id: &str, text: &str) {
        let what = format!("log of {id} has {text:?}");
        eventually(&what, || self.log_path(id).exists() && self.text(id).contains(text)).await;
    }

    /// The pid the state directory records for a container.
    pub(crate) fn init_pid(&self, id: &str) -> i32 {
        let record =
            fs::read(self.config.state_dir.join(format!("containers/{id}/container.json")))
                .unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        i32::try_from(record["status"]["pid"].as_i64().unwrap()).unwrap()
    }

    /// Processes in a container's cgroup.
    pub(crate) fn processes(&self, id: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        for pod in self
            .groups()
            .iter()
            .flat_map(|group| fs::read_dir(group.join("kubepods/besteffort")).into_iter().flatten())
        {
            let text = fs::read_to_string(pod.unwrap().path().join(id).join("cgroup.procs"))
                .unwrap_or_default();
            pids.extend(text.lines().map(|line| line.parse::<i32>().unwrap()));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    pub(crate) fn memory_limit(&self, sandbox: &str, id: &str) -> String {
        let group = format!("{}/kubepods/besteffort/pod-{sandbox}/{id}", self.config.cgroup_root);
        let v1 = Path::new("/sys/fs/cgroup/memory").join(&group).join("memory.limit_in_bytes");
        let v2 = Path::new("/sys/fs/cgroup").join(&group).join("memory.max");
        fs::read_to_string(v1).or_else(|_| fs::read_to_string(v2)).unwrap().trim().to_owned()
    }

    /// Ends our connection, then makes another.
    pub(crate) async fn disconnect_and_connect(&mut self) {
        let other = self.connect().await;
        self.runtime = other;
    }

    /// Kills the process; nobody starts it again until [`Node::reconnect`].
    pub(crate) async fn kill_runtime(&mut self) {
        let pid = self.runtime.version().await.unwrap().pid;
        self.runtime = Runtime::connect(&self.config.socket).await.unwrap();
        kill(pid);
        self.gone(pid).await;
    }

    pub(crate) async fn gone(&self, pid: i32) {
        eventually("the process has ended", || {
            !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid)
        })
        .await;
    }

    /// Starts another runtime process if none is there.
    pub(crate) async fn reconnect(&mut self) {
        self.runtime = self.connect().await;
    }

    /// Removes everything. As the agent does, it asks again after a failure: what a killed process began may still be at work.
    pub(crate) async fn remove_all(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.try_to_remove_all().await {
            assert!(Instant::now() < deadline, "not removed in time: {error}");
        }
        assert_eq!(self.runtime.list().await.unwrap(), Default::default());
    }

    async fn try_to_remove_all(&self) -> Result<(), runtime::client::Error> {
        let snapshot = self.runtime.list().await?;
        for container in &snapshot.containers {
            self.runtime.remove_container(&container.id).await?;
        }
        for sandbox in &snapshot.sandboxes {
            self.runtime.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// The process's pid without asking it.
    pub(crate) fn runtime_pid(&self) -> i32 {
        let own = self.config.socket.to_str().unwrap();
        let is_ours = |pid: &i32| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("runtime-process") && words.contains(own)
        };
        // Its children have the same words and later numbers.
        pids().into_iter().filter(is_ours).min().unwrap()
    }

    /// Ends everything through the runtime and looks for what is left.
    pub(crate) async fn finish(mut self) {
        self.remove_all().await;
        let state = &self.config.state_dir;
        for dir in ["containers", "sandboxes"] {
            assert_eq!(fs::read_dir(state.join(dir)).unwrap().count(), 0, "left in {dir}");
        }
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        let ours = state.to_str().unwrap();
        assert!(!mounts.contains(ours), "left mounted: {mounts}");
        for group in self.groups() {
            assert_eq!(
                fs::read_to_string(group.join("cgroup.procs")).unwrap(),
                "",
                "left in {}",
                group.display()
            );
            let pods = group.join("kubepods/besteffort");
            let left = fs::read_dir(pods)
                .map(|entries| entries.flatten().filter(|e| e.path().is_dir()).count());
            assert_eq!(left.unwrap_or(0), 0, "groups left in {}", group.display());
        }
        let pid = self.runtime.version().await.unwrap().pid;
        self.runtime.stop().await.unwrap();
        eventually("the runtime process ends", || {
            !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid)
        })
        .await;
        self.clean();
    }

    fn groups(&self) -> Vec<PathBuf> {
        let controllers =
            fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        std::iter::once(PathBuf::from("/sys/fs/cgroup"))
            .chain(controllers)
            .map(|point| point.join(&self.config.cgroup_root))
            .filter(|group| group.join("cgroup.procs").exists())
            .collect()
    }

    fn clean(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for group in self.groups() {
            remove_groups(&group);
        }
    }
}

impl Drop for Node {
    /// After a failed test: kills what it left, by the numbers in its own groups and its lock.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "runtime.log: {}",
                fs::read_to_string(self.config.state_dir.join("runtime.log")).unwrap_or_default()
            );
            let own = self.config.socket.to_str().unwrap_or_default().to_owned();
            for pid in pids() {
                if fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .unwrap_or_default()
                    .contains(&own)
                {
                    kill(pid);
                }
            }
        }
        self.clean();
    }
}

fn pids() -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

pub(crate) fn kill(pid: i32) {
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

fn zombie(pid: i32) -> bool {
    sys::procfs::process_stat(pid).is_ok_and(|stat| stat.state == 'Z')
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        kill(pid.parse().unwrap());
    }
    let _ = fs::remove_dir(group);
}

fn program(holder: &Child) -> Program {
    let pid = holder.id().to_string();
    let arguments =
        ["-t", &pid, "-m", env!("CARGO_BIN_EXE_runtime-process")].iter().map(Into::into).collect();
    Program { exe: "/usr/bin/nsenter".into(), arguments }
}

fn busybox(dir: &Path) -> PathBuf {
    let layer = dir.join("layer");
    for name in ["bin", "etc", "tmp", "root", "usr/bin"] {
        fs::create_dir_all(layer.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in
        String::from_utf8(applets.stdout).unwrap().lines().filter(|name| *name != "busybox")
    {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    fs::write(
        layer.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
    )
    .unwrap();
    layer
}

/// Stream, tag and text of each line; the time is checked on the way.
pub(crate) fn log_lines(path: &Path) -> Vec<(String, char, String)> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ');
            let time = parts.next().unwrap();
            assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
            let stream = parts.next().unwrap().to_owned();
            let tag = parts.next().unwrap().chars().next().unwrap();
            (stream, tag, parts.next().unwrap().to_owned())
        })
        .collect()
}
