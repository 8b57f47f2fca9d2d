//! The test of what the debug variant adds: a shell on the console, and SSH for the owner's keys alone.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::TestArgs;
use crate::board::Board;
use crate::kubectl::pause;
use crate::machine::{BOOT_LIMIT, Machine, Network, Place, crashes};
use crate::owner;
use crate::tools::{self, run as run_tool, tool};
use crate::trial::{Check, run_checks, show_tail};

const TOOLS: &[(&str, &str)] = &[("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")];
/// Typed, it shows something that it is not itself.
const QUESTION: &str = "echo the shell says $((6*7))";
const ANSWER: &str = "the shell says 42";
const ASK_STEP: Duration = Duration::from_secs(3);
const ASK_LIMIT: Duration = Duration::from_secs(120);
/// What `uname -m` says, by Debian's name of the architecture.
const MACHINES: [(&str, &str); 2] = [("arm64", "aarch64"), ("armhf", "armv7l")];

struct Debugged {
    board: Board,
    place: Place,
    machine: Machine,
    forward: u16,
    /// Keys, and the board's known one.
    keys: TempDir,
}

const CHECKS: &[Check<Debugged>] = &[
    ("has a shell on the console", has_shell),
    ("runs a command by SSH for the owner's key", runs_commands),
    ("lets nobody in with another key, or by a password", refuses_others),
    ("is the same host after a restart", keeps_host_key),
    ("shows no crash on the console", |debugged| {
        let log = fs::read_to_string(&debugged.place.log)?;
        let found = crashes(&log);
        ensure!(found.is_empty(), "the console shows: {}", found.join(" / "));
        Ok(())
    }),
];

/// Runs the checks on a copy of the image with a key in its settings. SSH is at the port after the API server's.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    tools::check(TOOLS)?;
    let board = args.place.read_board()?;
    ensure!(
        board.parts.contains_key("ssh"),
        "{} has no SSH server; test it with --variant debug",
        board.id
    );
    let place = Place::new(&args.place.dir(), "test-debug")?;
    place.prepare(&board, true)?;
    let keys = tempfile::Builder::new().prefix("copepod-").tempdir()?;
    for name in ["owner", "stranger"] {
        let mut keygen = tool("ssh-keygen", 0);
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]);
        run_tool(keygen.arg(keys.path().join(name)))?;
    }
    let key = fs::read_to_string(keys.path().join("owner.pub"))?;
    owner::replace(&place.disk, &format!("ssh-keys: [{}]\n", key.trim()))?;
    let network = Network::WithSsh { forward: args.forward, ssh: ssh_port(args.forward) };
    let machine = Machine::start(&board, &place, network, false)?;
    let mut debugged = Debugged { board, place, machine, forward: args.forward, keys };
    let count = run_checks(CHECKS, &mut debugged, |debugged| show_tail(&debugged.place));
    drop(debugged);
    count.report(&args.place.board)
}

fn ssh_port(forward: u16) -> u16 {
    forward.saturating_add(1)
}

fn has_shell(debugged: &mut Debugged) -> Result<()> {
    debugged.machine.wait_for_line("shell started", BOOT_LIMIT)?;
    let end = Instant::now() + ASK_LIMIT;
    loop {
        // What is typed before the terminal is open is lost.
        debugged.machine.type_line(QUESTION)?;
        match debugged.machine.wait_for_line(ANSWER, ASK_STEP) {
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => {}
            Ok(_) => return Ok(()),
        }
    }
}

fn runs_commands(debugged: &mut Debugged) -> Result<()> {
    let (_, machine) = MACHINES
        .into_iter()
        .find(|(debian, _)| *debian == debugged.board.debian_arch)
        .context("the board's architecture")?;
    let answer = debugged.until_connected()?;
    let text = String::from_utf8_lossy(&answer.stdout);
    ensure!(text.trim() == machine, "uname -m said {text:?}");
    Ok(())
}

fn refuses_others(debugged: &mut Debugged) -> Result<()> {
    let by_password = ["-o", "PubkeyAuthentication=no"];
    for (name, more) in [("stranger", &[][..]), ("owner", &by_password[..])] {
        let output = debugged.ssh(name, more)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{name} was let in ({})", more.join(" "));
        ensure!(said.contains("Permission denied (publickey)"), "ssh said {said:?}");
    }
    Ok(())
}

fn keeps_host_key(debugged: &mut Debugged) -> Result<()> {
    debugged.machine.ask_to("restart")?;
    debugged.machine.wait_for_line("init: restart", BOOT_LIMIT)?;
    debugged.machine.wait_for_line("address 10.0.2.15/24", BOOT_LIMIT)?;
    debugged.until_connected().map(drop)
}

impl Debugged {
    /// `uname -m` with this key. The host's key is taken at the first time and demanded from then on.
    fn ssh(&self, key: &str, more: &[&str]) -> Result<Output> {
        let path = |name: &str| self.keys.path().join(name);
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        let mut ssh: Command = tool("ssh", 0);
        ssh.args(["-F", "none", "-p", &ssh_port(self.forward).to_string(), "-o", "BatchMode=yes"]);
        ssh.args(["-o", "StrictHostKeyChecking=accept-new", "-o", "IdentitiesOnly=yes"]);
        ssh.args(["-o", &option("UserKnownHostsFile", path("known_hosts"))]);
        ssh.args(["-o", "ConnectTimeout=30", "-i"]).arg(path(key)).args(more);
        ssh.args(["root@127.0.0.1", "uname", "-m"]).stdin(Stdio::null());
        ssh.output().context("start ssh")
    }

    fn until_connected(&mut self) -> Result<Output> {
        let end = Instant::now() + ASK_LIMIT;
        loop {
            let output = self.ssh("owner", &[])?;
            if output.status.success() {
                return Ok(output);
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!said.contains("HOST IDENTIFICATION HAS CHANGED"), "ssh said {said:?}");
            ensure!(Instant::now() < end, "ssh did not get through: {said:?}");
            self.machine.check_alive("ssh got through")?;
            pause(ASK_STEP);
        }
    }
}
