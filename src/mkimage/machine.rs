//! QEMU as a board: starts it, follows its console, talks to its host port, ends it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use disk::slot::Slot;
use serde_json::json;

use crate::board::{Board, Drive, Qemu, Start};
use crate::data_partition::DataPartition;
use crate::host_port::{HostPort, for_host};
use crate::kubectl::pause;
use crate::recipe::{copy_sparse, image_path};
use crate::screen::Picture;
use crate::slot_files::DESCRIPTION;
use crate::{moved_uboot, owner, tools};

/// Where a board's folder has the files of the boot partition.
const BOOT: &str = "boot";
const API_PORT: u16 = 6443;
const SSH_PORT: u16 = 22;
const STEP: Duration = Duration::from_millis(250);
/// Emulation on a loaded machine is slow: these bound a hang, they are no aim.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(420);
pub(crate) const POD_LIMIT: Duration = Duration::from_secs(180);
const END_LIMIT: Duration = Duration::from_secs(90);
const MONITOR_LIMIT: Duration = Duration::from_secs(10);
/// What the monitor wants to hear first.
const MONITOR_HELLO: &str = "{\"execute\":\"qmp_capabilities\"}";
/// Longest path a Unix socket can have.
const SOCKET_PATH_MAX: usize = 100;
const BAD_WORDS: [&str; 5] = [
    "Kernel panic",
    "panicked at",
    "Unable to handle kernel",
    "Internal error: Oops",
    "Call trace:",
];

pub(crate) struct Machine {
    child: Child,
    console: Console,
    sockets: tempfile::TempDir,
    keyboard: Option<UnixStream>,
    forward: u16,
    /// Where its data partition is, for boards without a port to the host.
    data: Option<DataPartition>,
}

/// Where a machine keeps its disk and its console log, and what it was made from.
pub(crate) struct Place {
    pub(crate) disk: PathBuf,
    pub(crate) log: PathBuf,
    /// The folder of the board, with its image and what that was made from.
    pub(crate) board_dir: PathBuf,
    /// What the board's clock shows at its start; the host's time when none.
    pub(crate) clock: Option<String>,
    /// The socket at which the disk is served, where it is not QEMU that writes it.
    pub(crate) served: Option<PathBuf>,
}

impl Place {
    /// A folder of this name in the board's.
    pub(crate) fn new(board_dir: &Path, name: &str) -> Result<Place> {
        let dir = board_dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(Place {
            disk: dir.join("disk.img"),
            log: dir.join("console.log"),
            board_dir: board_dir.to_owned(),
            clock: None,
            served: None,
        })
    }

    /// Makes the disk from the image unless there is one that is newer.
    pub(crate) fn prepare(&self, board: &Board, fresh: bool) -> Result<()> {
        let image = &image_path(&self.board_dir);
        ensure!(
            image.is_file(),
            "{} does not exist; build it with: make image BOARD={}",
            image.display(),
            board.id
        );
        let built = fs::metadata(image)?.modified()?;
        if !fresh
            && fs::metadata(&self.disk)
                .and_then(|data| data.modified())
                .is_ok_and(|used| used > built)
        {
            println!(
                "Going on with the disk of the last run ({}); --fresh starts anew",
                self.disk.display()
            );
            return Ok(());
        }
        let mut disk = File::create(&self.disk)?;
        copy_sparse(image, &mut disk)?;
        let length = fs::metadata(image)?.len();
        let card = board.qemu.as_ref().is_some_and(|qemu| qemu.drive == Drive::Card);
        // QEMU takes a card only if its size is a power of two.
        disk.set_len(if card { length.next_power_of_two() } else { length })?;
        match &board.qemu {
            Some(qemu) if !qemu.arguments.is_empty() => self.add_arguments(&qemu.arguments),
            _ => Ok(()),
        }
    }

    /// Puts the disk on a card that is larger by this many bytes.
    pub(crate) fn enlarge(&self, bytes: u64) -> Result<()> {
        let card = File::options().write(true).open(&self.disk)?;
        Ok(card.set_len(card.metadata()?.len() + bytes)?)
    }

    /// Adds to the kernel's arguments of slot a.
    fn add_arguments(&self, words: &str) -> Result<()> {
        let name = format!("{}/{DESCRIPTION}", Slot::A);
        let path = self.board_dir.join(BOOT).join(&name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        owner::replace_file(&self.disk, &name, &format!("{} {words}\n", text.trim_end()))
    }
}

/// How a board is connected.
#[derive(Clone, Copy)]
pub(crate) enum Network<'a> {
    /// To the host alone, its API server at `127.0.0.1:forward`.
    Alone { forward: u16 },
    /// The same, and its SSH server at `127.0.0.1:ssh`.
    WithSsh { forward: u16, ssh: u16 },
    /// To the host as alone, and by a second interface to a network of its own, 10.0.3.0/24.
    Twice { forward: u16 },
    /// To the switch at this socket, with the way to the host plugged in there too.
    Gateway { forward: u16, switch: &'a Path },
    /// To the switch at this socket, as its board of this number, 1 or more.
    Plugged { switch: &'a Path, number: u8 },
}

impl Network<'_> {
    fn forward(self) -> Option<u16> {
        match self {
            Network::Alone { forward }
            | Network::Twice { forward }
            | Network::WithSsh { forward, .. }
            | Network::Gateway { forward, .. } => Some(forward),
            Network::Plugged { .. } => None,
        }
    }

    /// QEMU's network back ends; the one named `net` is the board's.
    fn back_ends(self) -> Vec<String> {
        let user = |id: &str, forward: u16| {
            format!("user,id={id},hostfwd=tcp:127.0.0.1:{forward}-:{API_PORT}")
        };
        let plug = |id: &str, switch: &Path| {
            format!("stream,id={id},server=off,addr.type=unix,addr.path={}", switch.display())
        };
        let joined = |id: &str, peer: &str| format!("hubport,id={id},hubid=0,netdev={peer}");
        match self {
            Network::Alone { forward } => vec![user("net", forward)],
            Network::Twice { forward } => {
                vec![user("net", forward), "user,id=second,net=10.0.3.0/24".to_owned()]
            }
            Network::WithSsh { forward, ssh } => {
                vec![user("net", forward) + &format!(",hostfwd=tcp:127.0.0.1:{ssh}-:{SSH_PORT}")]
            }
            Network::Gateway { forward, switch } => vec![
                user("host-side", forward),
                joined("host-port", "host-side"),
                plug("switch-side", switch),
                joined("switch-port", "switch-side"),
                plug("net", switch),
            ],
            Network::Plugged { switch, .. } => vec![plug("net", switch)],
        }
    }

    /// Devices that the board has besides its own.
    fn devices(self) -> &'static [&'static str] {
        match self {
            Network::Twice { .. } => &["virtio-net-pci,netdev=second,romfile="],
            _ => &[],
        }
    }

    /// What is added to the description of the board's network device.
    fn hardware_address(self) -> String {
        match self {
            Network::Plugged { number, .. } => format!(",mac=52:54:00:12:35:{number:02x}"),
            _ => String::new(),
        }
    }
}

impl Machine {
    /// Starts the board on the place's disk.
    pub(crate) fn start(
        board: &Board,
        place: &Place,
        network: Network<'_>,
        echo: bool,
    ) -> Result<Machine> {
        let qemu =
            board.qemu.as_ref().with_context(|| format!("board {} has no emulation", board.id))?;
        tools::check(&[(qemu.program.as_str(), "qemu-system-arm")])?;
        let forward = network.forward().unwrap_or_default();
        if forward != 0 && TcpListener::bind(("127.0.0.1", forward)).is_err() {
            bail!("port {forward} of this machine is in use; choose another with --forward");
        }
        let sockets = tempfile::Builder::new().prefix("copepod-").tempdir()?;
        ensure!(
            sockets.path().as_os_str().len() < SOCKET_PATH_MAX,
            "the path of TMPDIR is too long for a socket"
        );
        // QEMU truncates the log; start following from its beginning.
        fs::write(&place.log, "")?;
        let mut command = command(qemu, place, sockets.path(), network)?;
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", qemu.program))?;
        let console = Console {
            path: place.log.clone(),
            position: 0,
            rest: String::new(),
            unsearched: Vec::new(),
            echo,
        };
        let data =
            (!board.node.host_port).then(|| DataPartition::new(board, &place.disk)).transpose()?;
        Ok(Machine { child, console, sockets, keyboard: None, forward, data })
    }

    pub(crate) fn log(&self) -> &Path {
        &self.console.path
    }

    /// Follows the console until a line contains `text`; lines up to the last one found do not count again.
    pub(crate) fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            self.console.follow()?;
            if let Some(line) = self.console.search(text) {
                return Ok(line);
            }
            self.check_alive(&format!("the console showed {text:?}"))?;
            ensure!(
                Instant::now() < end,
                "the console did not show {text:?} within {} s",
                limit.as_secs()
            );
            pause(STEP);
        }
    }

    /// Asks until the node has written its kubeconfig, and stores it for use from here.
    pub(crate) fn kubeconfig(&mut self, target: &Path, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut port: Option<HostPort> = None;
        loop {
            self.console.follow()?;
            self.check_alive("the kubeconfig came")?;
            let answer = match &self.data {
                Some(data) => data.kubeconfig(),
                None => self.ask_kubeconfig(&mut port),
            };
            match answer {
                Ok(Some(text)) => return self.store_kubeconfig(&text, target),
                Ok(None) => {}
                // Not up yet, or it lost a line: ask anew over a new connection.
                Err(_) => port = None,
            }
            ensure!(
                Instant::now() < end,
                "the board gave no kubeconfig within {} s",
                limit.as_secs()
            );
            pause(STEP * 2);
        }
    }

    /// Asks once for the kubeconfig; whether it has come and is stored.
    pub(crate) fn has_kubeconfig(&mut self, target: &Path) -> Result<bool> {
        let answer = match &self.data {
            Some(data) => data.kubeconfig(),
            None => self.ask_kubeconfig(&mut None),
        };
        match answer {
            Ok(Some(text)) => self.store_kubeconfig(&text, target).map(|()| true),
            // It may not be up yet.
            Ok(None) | Err(_) => Ok(false),
        }
    }

    fn store_kubeconfig(&self, text: &str, target: &Path) -> Result<()> {
        let _ = fs::remove_file(target);
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        Ok(options.open(target)?.write_all(for_host(text, self.forward).as_bytes())?)
    }

    /// Whether a line the console has shown contains `text`; that one and those before it do not count again.
    pub(crate) fn has_shown(&mut self, text: &str) -> Result<bool> {
        self.console.follow()?;
        Ok(self.console.search(text).is_some())
    }

    /// Lines the console has shown so far are not found any more.
    pub(crate) fn forget_lines(&mut self) -> Result<()> {
        self.console.follow()?;
        self.console.unsearched.clear();
        Ok(())
    }

    /// Types a line on the console.
    pub(crate) fn type_line(&mut self, line: &str) -> Result<()> {
        let path = self.sockets.path().join("console");
        // Whatever the board has not read when the connection ends would be lost.
        let mut keyboard = match self.keyboard.take() {
            Some(keyboard) => keyboard,
            None => connected(&path).context("connect to the board's console")?,
        };
        keyboard.write_all(format!("{line}\n").as_bytes())?;
        self.keyboard = Some(keyboard);
        Ok(())
    }

    fn ask_kubeconfig(&self, port: &mut Option<HostPort>) -> Result<Option<String>> {
        let mut connected = match port.take() {
            Some(connected) => connected,
            None => HostPort::connect(&self.host_port())?,
        };
        let answer = connected.kubeconfig()?;
        *port = Some(connected);
        Ok(answer)
    }

    fn host_port(&self) -> PathBuf {
        self.sockets.path().join("host")
    }

    /// Asks PID 1 through the host port: `poweroff` or `restart`.
    pub(crate) fn ask_to(&mut self, how: &str) -> Result<()> {
        HostPort::connect(&self.host_port())?.end(how)
    }

    /// One command of QEMU's monitor, such as `system_powerdown` (the power key) or `system_reset`.
    pub(crate) fn monitor(&mut self, command: &str) -> Result<()> {
        self.execute(&format!("{{\"execute\":\"{command}\"}}")).map(drop)
    }

    /// A line for the monitor as people type it, such as `device_add …`.
    pub(crate) fn monitor_line(&mut self, line: &str) -> Result<()> {
        let answer = self.execute(&format!(
            "{{\"execute\":\"human-monitor-command\",\"arguments\":{{\"command-line\":\"{line}\"}}}}"
        ))?;
        ensure!(answer.contains("\"return\": \"\""), "QEMU refused {line}: {answer}");
        Ok(())
    }

    /// Bytes written to its disks since it was started.
    pub(crate) fn written(&mut self) -> Result<u64> {
        let answer = self.execute("{\"execute\":\"query-blockstats\"}")?;
        written(&answer).with_context(|| format!("QEMU counts no writes: {answer}"))
    }

    /// What its screen shows.
    pub(crate) fn screen(&mut self) -> Result<Picture> {
        let file = self.sockets.path().join("screen.ppm");
        let command = json!({"execute": "screendump", "arguments": {"filename": file}});
        self.execute(&command.to_string())?;
        Picture::parse(&fs::read(&file)?)
    }

    /// Gives the emulation a disk of this name, for a device that is plugged in next.
    pub(crate) fn add_disk(&mut self, name: &str, file: &Path) -> Result<()> {
        let file = json!({"driver": "file", "filename": file});
        let disk = json!({"driver": "raw", "node-name": name, "file": file});
        self.execute(&json!({"execute": "blockdev-add", "arguments": disk}).to_string()).map(drop)
    }

    /// Waits until the watchdog restarts the board: the emulated one or, without one, the kernel's.
    pub(crate) fn wait_for_watchdog(&mut self, is_emulated: bool, limit: Duration) -> Result<()> {
        let [event, what] =
            if is_emulated { ["WATCHDOG", "reset"] } else { ["RESET", "guest-reset"] };
        let stream = self.monitor_stream(limit)?;
        writeln!(&stream, "{MONITOR_HELLO}")?;
        let end = Instant::now() + limit;
        for line in BufReader::new(&stream).lines() {
            let line = line.context("the watchdog did not act")?;
            if line.contains(&format!("\"{event}\"")) {
                let is_reset = line.contains(&format!("\"{what}\""));
                ensure!(is_reset, "the watchdog did something else: {line}");
                return Ok(());
            }
            ensure!(Instant::now() < end, "the watchdog did not act in {} s", limit.as_secs());
        }
        bail!("QEMU closed its monitor")
    }

    fn monitor_stream(&self, limit: Duration) -> Result<UnixStream> {
        let stream = UnixStream::connect(self.sockets.path().join("monitor"))
            .context("connect to QEMU's monitor")?;
        stream.set_read_timeout(Some(limit))?;
        Ok(stream)
    }

    fn execute(&mut self, command: &str) -> Result<String> {
        let stream = self.monitor_stream(MONITOR_LIMIT)?;
        let mut answers = BufReader::new(stream.try_clone()?).lines();
        let mut last = String::new();
        for command in [MONITOR_HELLO, command] {
            writeln!(&stream, "{command}")?;
            // Greeting and events come in between.
            loop {
                let answer = answers.next().context("QEMU closed its monitor")??;
                ensure!(!answer.contains("\"error\""), "QEMU refused {command}: {answer}");
                if answer.contains("\"return\"") {
                    last = answer;
                    break;
                }
            }
        }
        Ok(last)
    }

    /// Waits until QEMU ends by itself, which is when the guest switches its power off.
    pub(crate) fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + END_LIMIT;
        loop {
            self.console.follow()?;
            if let Some(status) = self.child.try_wait()? {
                self.console.follow()?;
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "the board did not switch off within {} s",
                END_LIMIT.as_secs()
            );
            pause(STEP);
        }
    }

    pub(crate) fn check_alive(&mut self, before: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("QEMU ended ({status}) before {before}; see {}", self.console.path.display());
        }
        Ok(())
    }

    pub(crate) fn follow(&mut self) -> Result<()> {
        self.console.follow()
    }

    /// Seconds of processor time the emulation has used.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
        let ticks: u32 =
            [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u32>().ok()).sum();
        Some(f64::from(ticks) / 100.0)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended already, or the person gave up waiting.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection whose other end is never held up: what it shows is in the log.
fn connected(path: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    let mut shown = stream.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut shown, &mut std::io::sink()));
    Ok(stream)
}

fn command(qemu: &Qemu, place: &Place, sockets: &Path, network: Network<'_>) -> Result<Command> {
    let socket = |name: &str| {
        format!("socket,id={name},path={},server=on,wait=off", sockets.join(name).display())
    };
    let mut command = tools::program(&qemu.program);
    command.args(["-nodefaults", "-display", "none", "-machine", &qemu.machine]);
    command.args(["-smp", &qemu.cpus.to_string(), "-m", &qemu.memory_mib.to_string()]);
    for (option, value) in [("-cpu", &qemu.cpu), ("-accel", &qemu.accel)] {
        command.args(value.iter().flat_map(|value| [option, value]));
    }
    command.args(start_arguments(&qemu.start, place)?);
    let interface = match qemu.drive {
        Drive::Named => "none,id=disk",
        Drive::Card => "sd",
    };
    let file = match &place.served {
        Some(socket) => format!("nbd+unix:///?socket={}", socket.display()),
        None => place.disk.display().to_string(),
    };
    let drive = format!("if={interface},format=raw,file={file}");
    command.arg("-drive").arg(drive);
    if let Some(clock) = &place.clock {
        command.arg("-rtc").arg(format!("base={clock}"));
    }
    for back_end in network.back_ends() {
        command.arg("-netdev").arg(back_end);
    }
    let log = format!("{},logfile={}", socket("console"), place.log.display());
    command.arg("-chardev").arg(log);
    for _ in 0..qemu.serial {
        command.args(["-serial", "null"]);
    }
    command.args(["-serial", "chardev:console"]);
    command.arg("-chardev").arg(socket("host"));
    command.arg("-chardev").arg(socket("monitor")).args(["-mon", "chardev=monitor,mode=control"]);
    for device in qemu.all_devices() {
        let address = match device.contains("netdev=net") {
            true => network.hardware_address(),
            false => String::new(),
        };
        command.arg("-device").arg(format!("{device}{address}"));
    }
    for device in network.devices() {
        command.args(["-device", device]);
    }
    Ok(command)
}

/// What makes QEMU begin with the board's boot loader.
fn start_arguments(start: &Start, place: &Place) -> Result<Vec<OsString>> {
    match start {
        Start::Bios(path) => {
            ensure!(
                Path::new(path).exists(),
                "{path} is missing\ninstall it with: apt-get install u-boot-qemu"
            );
            Ok(vec!["-bios".into(), path.into()])
        }
        Start::Loader { uboot, device_tree, moved } => {
            let boot = place.board_dir.join(BOOT);
            let mut loader = boot.join(uboot);
            if *moved {
                let bytes =
                    fs::read(&loader).with_context(|| format!("read {}", loader.display()))?;
                loader = place.disk.with_file_name(uboot);
                fs::write(&loader, moved_uboot::for_qemu(&bytes)?)?;
            }
            let device_tree = boot.join(device_tree);
            Ok(vec!["-kernel".into(), loader.into(), "-dtb".into(), device_tree.into()])
        }
    }
}

/// The serial console's log, read as it grows.
struct Console {
    path: PathBuf,
    position: u64,
    rest: String,
    unsearched: Vec<String>,
    echo: bool,
}

impl Console {
    /// The first line with `text`; it and those before it are dropped.
    fn search(&mut self, text: &str) -> Option<String> {
        let index = self.unsearched.iter().position(|line| line.contains(text))?;
        self.unsearched.drain(..=index).next_back()
    }

    /// Takes in the complete lines that came since the last look.
    fn follow(&mut self) -> Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        self.position += bytes.len() as u64;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let mut lines: Vec<String> =
            self.rest.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect();
        self.rest = lines.pop().unwrap_or_default();
        if self.echo {
            for line in lines.iter().filter(|line| !line.trim().is_empty()) {
                println!("  board | {}", line.replace('\x1b', ""));
            }
        }
        self.unsearched.extend(lines);
        Ok(())
    }
}

/// The sum of bytes written in QEMU's answer to `query-blockstats`.
fn written(answer: &str) -> Option<u64> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    let disks = answer.get("return")?.as_array()?;
    disks.iter().map(|disk| disk.pointer("/stats/wr_bytes")?.as_u64()).sum()
}

/// Lines of a console log that tell of a crash.
pub(crate) fn crashes(log: &str) -> Vec<&str> {
    log.lines().filter(|line| BAD_WORDS.iter().any(|word| line.contains(word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_all_disks_count() {
        let disks = r#"[{"device": "", "stats": {"wr_bytes": 4096, "rd_bytes": 7}}, {"stats": {"wr_bytes": 512}}]"#;
        let rows = [
            (format!("{{\"return\": {disks}}}"), Some(4608)),
            (r#"{"return": []}"#.to_owned(), Some(0)),
            (r#"{"return": [{"stats": {}}]}"#.to_owned(), None),
            (r#"{"event": "STOP"}"#.to_owned(), None),
            ("cut o".to_owned(), None),
        ];
        for (answer, expected) in rows {
            assert_eq!(written(&answer), expected, "{answer}");
        }
    }

    #[test]
    fn crashes_are_found_in_a_log() {
        let log = "[ 1.0] all well\n[ 2.0] Kernel panic - not syncing\nthread 'main' panicked at src/x.rs\n";
        assert_eq!(crashes(log).len(), 2);
        assert!(crashes("slot a started healthily\n").is_empty());
    }
}
