//! The board test: boots a fresh copy of the image and checks what a board must do, step by step.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disk::layout;
use disk::mbr::SECTOR_LEN;
use disk::slot::Slot;

use crate::TestArgs;
use crate::board::Board;
use crate::budget;
use crate::kubectl::{Kubectl, pause};
use crate::machine::{BOOT_LIMIT, Machine, Network, POD_LIMIT, Place, crashes};
use crate::memory;
use crate::run::{demo_pod, wait_until_ready};
use crate::show::seconds;

/// Lines of the screen, counted from 0.
const SCREEN: [(usize, &str); 2] = [(2, "  name       copepod"), (3, "  address    10.0.2.15")];
const SCREEN_LIMIT: Duration = Duration::from_secs(60);
const SCREEN_STEP: Duration = Duration::from_secs(1);

/// What the checks work on.
struct Trial {
    board: Board,
    place: Place,
    /// Where what is measured is recorded.
    figures: PathBuf,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    forward: u16,
    machine: Option<Machine>,
    /// Starts after the first one.
    restarts: u32,
    /// Console logs of all boots, for the last check.
    logs: Vec<String>,
}

/// What a check is called, and what it does to what is tested.
pub(crate) type Check<T> = (&'static str, fn(&mut T) -> Result<()>);

const NODE: &[Check<Trial>] = &[
    ("boots to a Ready node", boots),
    ("has its address by DHCP and serves kubectl through the forwarded port", serves),
    ("runs a pod from the preloaded image", runs_pod),
    ("shows the pod's log", shows_log),
    ("executes in the pod", executes),
    ("runs 10 pods; its memory is recorded", fills),
    ("marks the slot good", |trial| trial.wait_for_line("started healthily")),
    ("keeps a ConfigMap over a clean restart and starts the pod again", restarts),
    ("does so over a loss of power", loses_power),
    ("switches off cleanly at the power key", switches_off),
    ("shows no crash on the console", no_crash),
];

/// Of a machine that is a real board's likeness: it has no port to the host and no power key.
const CARD: &[Check<Trial>] = &[
    ("boots to a Ready node", boots),
    ("has its address by DHCP and serves kubectl through the forwarded port", serves),
    ("runs a pod from the preloaded image", runs_pod),
    ("shows the pod's log", shows_log),
    ("executes in the pod", executes),
    ("shows its name and address on the screen", shows_status),
    ("marks the slot good", |trial| trial.wait_for_line("started healthily")),
    ("keeps its state over a loss of power and starts the pod again", loses_power),
    ("shows no crash on the console", no_crash),
];

const INIT_ONLY: &[Check<Trial>] = &[
    ("boots to PID 1 with a verified root", |trial| {
        trial.boot().and_then(|()| trial.wait_for_line("verified root"))
    }),
    ("arms the watchdog", |trial| trial.wait_for_line("watchdog armed, 60 s")),
    ("gets an address by DHCP", |trial| {
        trial.wait_for_line("address 10.0.2.15/24, router 10.0.2.2")
    }),
    ("starts the node again after a failure", |trial| {
        trial.wait_for_line("node ended with code 3; next start in 1 s")
    }),
    ("hands out the kubeconfig", hands_out),
    ("marks the slot good", |trial| trial.wait_for_line("slot a started healthily")),
    ("restarts cleanly into the same slot", |trial| {
        trial.machine()?.ask_to("restart")?;
        trial.wait_for_line("init: restart")?;
        trial.wait_for_line("copepod: slot a, starts left: a 2, b 3")?;
        trial.wait_for_line("start 3")
    }),
    ("falls back to the other slot and returns when that has nothing", |trial| {
        for left in ["a 1, b 3", "a 0, b 3", "a 0, b 2"] {
            trial.machine()?.monitor("system_reset")?;
            trial.wait_for_line(&format!("starts left: {left}"))?;
        }
        for left in ["a 0, b 1", "a 0, b 0", "a 2, b 3"] {
            trial.wait_for_line(&format!("starts left: {left}"))?;
        }
        trial.wait_for_line("slot a started healthily")
    }),
    ("switches off cleanly at the power key", switches_off),
    ("does not start from a damaged root", refuses_damage),
    ("shows no crash on the console", no_crash),
];

/// Lines of a console log that are shown after a failure.
const TAIL_LINES: usize = 60;

/// Runs the board's checks.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let board = args.place.read_board()?;
    let dir = args.place.dir();
    let place = Place::new(&dir, "test")?;
    place.prepare(&board, true)?;
    let kubeconfig = dir.join("test/kubeconfig.yaml");
    let kubectl = Kubectl::new(&args.kubectl.program(), &kubeconfig);
    let mut trial = Trial {
        board,
        place,
        figures: dir,
        kubeconfig,
        kubectl,
        forward: args.forward,
        machine: None,
        restarts: 0,
        logs: Vec::new(),
    };
    let checks = match (args.init_only, trial.board.node.host_port) {
        (true, _) => INIT_ONLY,
        (false, true) => NODE,
        (false, false) => CARD,
    };
    let count = run_checks(checks, &mut trial, |trial| show_tail(&trial.place));
    let processor = trial.machine.as_ref().and_then(Machine::cpu_seconds);
    drop(trial);
    count.report(&args.place.board)?;
    if let Some(processor) = processor {
        println!("processor time of the last emulation so far: {processor:.1} s");
    }
    Ok(())
}

/// How many checks went how.
pub(crate) struct Count {
    passed: usize,
    failed: usize,
    left: usize,
}

impl Count {
    /// Prints the result; any failure is an error.
    pub(crate) fn report(&self, what: &str) -> Result<()> {
        let Count { passed, failed, left } = self;
        println!("board result: {passed} passed; {failed} failed; {left} not run");
        ensure!(*failed == 0, "board {what} failed");
        Ok(())
    }
}

/// Runs all checks; after a failed one the rest cannot mean anything and counts as not run.
pub(crate) fn run_checks<T>(checks: &[Check<T>], subject: &mut T, show: impl Fn(&T)) -> Count {
    let (mut passed, mut failed) = (0, 0);
    println!("running {} checks", checks.len());
    for (name, check) in checks {
        let began = Instant::now();
        match check(subject) {
            Ok(()) => {
                passed += 1;
                println!("check {name} ... ok ({})", seconds(began.elapsed()));
            }
            Err(error) => {
                failed += 1;
                println!("check {name} ... FAILED ({}): {error:#}", seconds(began.elapsed()));
                show(subject);
                break;
            }
        }
    }
    Count { passed, failed, left: checks.len() - passed - failed }
}

/// Prints the end of a board's console log.
pub(crate) fn show_tail(place: &Place) {
    let log = fs::read(&place.log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    println!("    the last lines of {}:", place.log.display());
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
        println!("    | {line}");
    }
}

fn boots(trial: &mut Trial) -> Result<()> {
    trial.boot()?;
    trial.fetch_kubeconfig()?;
    trial.with_machine(wait_until_ready)?;
    let processor = trial.machine()?.cpu_seconds().unwrap_or_default();
    println!("    Ready after {processor:.1} s of processor time");
    budget::record(&trial.figures, "ready-cpu", processor)
}

fn fills(trial: &mut Trial) -> Result<()> {
    let node = trial.kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let bytes = memory::with_pods(&trial.kubectl, &node, 1)?;
    budget::record(&trial.figures, "server-pss", bytes as f64)
}

fn hands_out(trial: &mut Trial) -> Result<()> {
    trial.fetch_kubeconfig()
}

fn serves(trial: &mut Trial) -> Result<()> {
    let address = "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}";
    let address = trial.kubectl.run(&["get", "nodes", "-o", address])?;
    ensure!(address == "10.0.2.15", "the node's address is {address:?}, QEMU gave out 10.0.2.15");
    trial.kubectl.run(&["create", "configmap", "kept", "--from-literal=answer=42"])?;
    Ok(())
}

fn runs_pod(trial: &mut Trial) -> Result<()> {
    trial.with_machine(demo_pod)
}

fn shows_status(trial: &mut Trial) -> Result<()> {
    let end = Instant::now() + SCREEN_LIMIT;
    loop {
        let screen = trial.machine()?.screen()?;
        if SCREEN.iter().all(|(row, text)| screen.shows(*row, text)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the screen does not show {SCREEN:?}");
        pause(SCREEN_STEP);
    }
}

fn shows_log(trial: &mut Trial) -> Result<()> {
    let limit = Duration::from_secs(30);
    trial.kubectl.wait(&["logs", "demo"], limit, |log| log.contains("hello from"), |_| {})?;
    Ok(())
}

fn executes(trial: &mut Trial) -> Result<()> {
    let answer =
        trial.kubectl.run(&["exec", "demo", "--", "sh", "-c", "echo $((6*7)) in $(hostname)"])?;
    ensure!(answer == "42 in demo", "exec printed {answer:?}");
    Ok(())
}

/// PID 1 takes everything down and the machine comes back with its state.
fn restarts(trial: &mut Trial) -> Result<()> {
    trial.machine()?.ask_to("restart")?;
    trial.wait_for_line("init: restart")?;
    trial.back_with_state()
}

fn loses_power(trial: &mut Trial) -> Result<()> {
    trial.kubectl.run(&["create", "configmap", "also-kept", "--from-literal=answer=43"])?;
    trial.machine()?.monitor("system_reset")?;
    trial.back_with_state()?;
    let answer =
        trial.kubectl.run(&["get", "configmap", "also-kept", "-o", "jsonpath={.data.answer}"])?;
    ensure!(answer == "43", "the ConfigMap written before the loss says {answer:?}");
    Ok(())
}

fn switches_off(trial: &mut Trial) -> Result<()> {
    let machine = trial.machine()?;
    machine.monitor("system_powerdown")?;
    let status = machine.wait_for_end()?;
    ensure!(status.success(), "QEMU ended with {status}");
    let log = fs::read_to_string(&trial.place.log)?;
    ensure!(log.contains("init: power off"), "PID 1 did not say that it switches off");
    let failure = log.lines().find(|line| line.contains("init: unmount"));
    ensure!(failure.is_none(), "a file system was still in use: {}", failure.unwrap_or_default());
    Ok(())
}

/// Changes one byte of the root of slot a behind the board's back.
fn refuses_damage(trial: &mut Trial) -> Result<()> {
    let disk = &trial.board.disk;
    let table = disk.sizes().table(disk.id()?)?;
    let root = table
        .partitions
        .get(layout::root(Slot::A) - 1)
        .copied()
        .flatten()
        .context("there is no root a")?;
    let file = File::options().read(true).write(true).open(&trial.place.disk)?;
    let mut byte = [0];
    let offset = u64::from(root.start) * SECTOR_LEN as u64 + 100;
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 1], offset)?;
    trial.boot()?;
    trial.wait_for_line("starts left: a 2, b 3")?;
    trial.wait_for_line("stage 1 failed: mount squashfs")?;
    trial.wait_for_line("starts left: a 1, b 3")
}

fn no_crash(trial: &mut Trial) -> Result<()> {
    trial.keep_log()?;
    let found: Vec<&str> = trial.logs.iter().flat_map(|log| crashes(log)).collect();
    ensure!(found.is_empty(), "the console shows: {}", found.join(" / "));
    Ok(())
}

impl Trial {
    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the board does not run")
    }

    fn with_machine(&mut self, work: fn(&Kubectl, &mut Machine) -> Result<()>) -> Result<()> {
        let machine = self.machine.as_mut().context("the board does not run")?;
        work(&self.kubectl, machine)
    }

    fn boot(&mut self) -> Result<()> {
        self.keep_log()?;
        self.machine = Some(Machine::start(
            &self.board,
            &self.place,
            Network::Alone { forward: self.forward },
            false,
        )?);
        Ok(())
    }

    fn keep_log(&mut self) -> Result<()> {
        if let Some(machine) = &self.machine {
            self.logs.push(String::from_utf8_lossy(&fs::read(machine.log())?).into_owned());
        }
        Ok(())
    }

    fn fetch_kubeconfig(&mut self) -> Result<()> {
        let path: &Path = &self.kubeconfig;
        self.machine.as_mut().context("the board does not run")?.kubeconfig(path, BOOT_LIMIT)
    }

    fn wait_for_line(&mut self, text: &str) -> Result<()> {
        self.machine()?.wait_for_line(text, BOOT_LIMIT).map(drop)
    }

    /// After a restart: the node is Ready again, the ConfigMap is there and the pod's container was started again.
    fn back_with_state(&mut self) -> Result<()> {
        self.restarts += 1;
        self.wait_for_line("verified root")?;
        self.wait_for_line("node started")?;
        let kept = ["get", "configmap", "kept", "-o", "jsonpath={.data.answer}"];
        self.kubectl.wait(&kept, BOOT_LIMIT, |answer| answer == "42", |_| {})?;
        self.with_machine(wait_until_ready)?;
        let path = "jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}";
        let expected = format!("true {}", self.restarts);
        self.kubectl.wait(
            &["get", "pod", "demo", "-o", path],
            POD_LIMIT,
            |state| state == expected,
            |_| {},
        )?;
        Ok(())
    }
}
