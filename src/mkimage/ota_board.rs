//! An emulated board that is updated and whose power can be cut: asks it for updates, waits for their ends, compares what
//! it has with what it acknowledged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use disk::slot::Slot;

use crate::board::Board;
use crate::cut_disk::CutDisk;
use crate::kubectl::{Kubectl, pause};
use crate::machine::{BOOT_LIMIT, Machine, Network, POD_LIMIT, Place};
use crate::random::Random;
use crate::run::{demo_pod, wait_until_ready};
use crate::served::{Manners, Served};
use crate::trial::show_tail;
use crate::writer::{Objects, Writer, all_there};

const STATUS: &str = "jsonpath={.metadata.annotations.copepod\\.io/upgrade-status}";
const SYSTEM: &str = "jsonpath={.status.nodeInfo.osImage}";
const ENDS: [&str; 4] = ["Committed", "FellBack", "Refused", "Failed"];
/// Writing, restarts and the trial, on a slow emulation.
const UPDATE_LIMIT: Duration = Duration::from_secs(900);
const ASK_LIMIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(100);
/// Between two looks at the board while a cut is waited for.
const LOOK_STEP: Duration = Duration::from_secs(2);
/// A refusal needs the bundle's head only.
const HEAD_BYTES_MAX: u64 = 256 * 1024;
/// The card is larger than the image by this, so that the first start has to grow the data partition.
const MORE_BYTES: u64 = 1024 * 1024 * 1024;

pub(crate) struct OtaBoard {
    board: Board,
    place: Place,
    forward: u16,
    pub(crate) bundles: PathBuf,
    kubeconfig: PathBuf,
    pub(crate) kubectl: Kubectl,
    pub(crate) node: String,
    machine: Option<Machine>,
    disk: Option<CutDisk>,
    sockets: tempfile::TempDir,
    starts: u32,
    pub(crate) random: Random,
    /// The slot that is to run.
    slot: Slot,
    /// What the board has acknowledged so far.
    kept: Objects,
    writers: u32,
}

impl OtaBoard {
    /// The board in a folder of this name.
    pub(crate) fn new(
        paths: &crate::Place,
        name: &str,
        kubectl: &Path,
        forward: u16,
        seed: u64,
    ) -> Result<OtaBoard> {
        let board = paths.read_board()?;
        let dir = paths.dir();
        let place = Place::new(&dir, name)?;
        let bundles = dir.join(name).join("bundles");
        fs::create_dir_all(&bundles)?;
        let kubeconfig = dir.join(name).join("kubeconfig.yaml");
        Ok(OtaBoard {
            board,
            place,
            forward,
            bundles,
            kubectl: Kubectl::new(kubectl, &kubeconfig),
            kubeconfig,
            node: String::new(),
            machine: None,
            disk: None,
            sockets: tempfile::Builder::new().prefix("copepod-").tempdir()?,
            starts: 0,
            random: Random::new(seed),
            slot: Slot::A,
            kept: Objects::new(),
            writers: 0,
        })
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    pub(crate) fn show_tail(&self) {
        show_tail(&self.place);
    }

    pub(crate) fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the board does not run")
    }

    fn disk(&self) -> Result<&CutDisk> {
        self.disk.as_ref().context("the board has no disk")
    }

    /// Puts a fresh copy of the image on a card that is larger.
    pub(crate) fn renew(&mut self) -> Result<()> {
        self.machine = None;
        self.place.prepare(&self.board, true)?;
        self.place.enlarge(MORE_BYTES)?;
        let _ = fs::remove_file(&self.kubeconfig);
        (self.slot, self.kept) = (Slot::A, Objects::new());
        Ok(())
    }

    /// Switches the board on.
    pub(crate) fn switch_on(&mut self) -> Result<()> {
        self.starts += 1;
        let socket = self.sockets.path().join(format!("disk-{}", self.starts));
        let disk = CutDisk::start(&self.place.disk, &socket)?;
        self.place.served = Some(disk.socket().to_owned());
        self.disk = Some(disk);
        let network = Network::Alone { forward: self.forward };
        self.machine = Some(Machine::start(&self.board, &self.place, network, false)?);
        Ok(())
    }

    /// Switches the board on and waits for the Ready node.
    pub(crate) fn boot(&mut self) -> Result<()> {
        let authority_before = self.authority();
        self.switch_on()?;
        let machine = self.machine.as_mut().context("the board does not run")?;
        machine.kubeconfig(&self.kubeconfig, BOOT_LIMIT)?;
        wait_until_ready(&self.kubectl, machine)?;
        let same = authority_before.is_none() || authority_before == self.authority();
        ensure!(same, "the board has lost the authority of a kubeconfig that it gave out");
        Ok(())
    }

    /// The authority in the kubeconfig that the board gave out last.
    fn authority(&self) -> Option<String> {
        let text = fs::read_to_string(&self.kubeconfig).ok()?;
        text.lines().find(|line| line.contains("certificate-authority-data")).map(str::to_owned)
    }

    /// The first start, with a pod and an object.
    pub(crate) fn first_boot(&mut self, version: &str) -> Result<()> {
        self.renew()?;
        self.boot()?;
        self.furnish()?;
        self.is_whole(version)
    }

    /// A pod and an object, which have to outlive everything.
    pub(crate) fn furnish(&mut self) -> Result<()> {
        let machine = self.machine.as_mut().context("the board does not run")?;
        demo_pod(&self.kubectl, machine)?;
        let name = "jsonpath={.items[0].metadata.name}";
        self.node = self.kubectl.run(&["get", "nodes", "-o", name])?;
        self.kubectl.run(&["create", "configmap", "kept-0", "--from-literal=number=0"])?;
        self.kept.insert("kept-0".to_owned(), 0);
        Ok(())
    }

    /// Cuts the power; of what was not flushed a random part is lost.
    pub(crate) fn cut(&mut self) -> Result<()> {
        self.machine = None;
        let disk = self.disk.take().context("the board has no disk")?;
        let (lost, all) = disk.lose(&mut self.random)?;
        println!("    power cut: {lost} of {all} waiting sectors lost");
        Ok(())
    }

    /// Writes the board has made since it was switched on.
    pub(crate) fn writes(&self) -> Result<u64> {
        Ok(self.disk()?.writes())
    }

    /// Stops the board's disk at a random one of its next `writes` writes.
    pub(crate) fn stop_within(&mut self, writes: u64) -> Result<()> {
        let next = 1 + self.random.below(writes);
        println!("    the power is to be cut at write {next} of {writes}");
        self.disk()?.stop_at(self.writes()? + next);
        Ok(())
    }

    /// Starts writing objects, as soon as the board has an API server.
    pub(crate) fn write(&mut self) -> Writer {
        self.writers += 1;
        Writer::start(&self.kubectl, &format!("written-{}", self.writers))
    }

    /// From now on the board has to have what it acknowledged to the writer.
    pub(crate) fn keep(&mut self, writer: Writer) -> usize {
        let acknowledged = writer.end();
        let count = acknowledged.len();
        self.kept.extend(acknowledged);
        count
    }

    /// Waits until the disk has stopped in a first start; objects are written once the API server is up. What was
    /// acknowledged is to be kept.
    pub(crate) fn wait_for_stop_in_first_boot(&mut self) -> Result<()> {
        let end = Instant::now() + BOOT_LIMIT;
        let (mut writer, mut is_up) = (None, false);
        while !self.disk()?.has_stopped() {
            let machine = self.machine.as_mut().context("the board does not run")?;
            machine.check_alive("the power was cut")?;
            is_up |= machine.has_shown("copepod is up")?;
            if writer.is_none() && is_up && machine.has_kubeconfig(&self.kubeconfig)? {
                writer = Some(self.write());
            }
            ensure!(Instant::now() < end, "the board wrote less than in a first start before");
            pause(STEP);
        }
        if let Some(writer) = writer {
            println!("    {} objects were acknowledged", self.keep(writer));
        }
        Ok(())
    }

    /// Waits until the boot loader has taken the slot that is updated.
    pub(crate) fn wait_for_trial(&mut self) -> Result<()> {
        let taken = format!("slot {}, starts left", self.slot.other());
        self.machine()?.wait_for_line(&taken, UPDATE_LIMIT)?;
        Ok(())
    }

    /// Waits until the disk has stopped, which it has to before the update ends.
    pub(crate) fn wait_for_stop_in_update(&mut self) -> Result<()> {
        let end = Instant::now() + UPDATE_LIMIT;
        let mut look = Instant::now();
        while !self.disk()?.has_stopped() {
            let machine = self.machine()?;
            machine.follow()?;
            machine.check_alive("the power was cut")?;
            if Instant::now() > look {
                look = Instant::now() + LOOK_STEP;
                let status = ["get", "node", &self.node, "-o", STATUS];
                // No answer is an answer too: the board restarts, or has stopped.
                let is_over =
                    self.kubectl.run(&status).is_ok_and(|status| end_of(&status).is_some());
                ensure!(!is_over, "the update ended before the power was cut");
            }
            if Instant::now() >= end {
                bail!("the update did not end within {} s", UPDATE_LIMIT.as_secs());
            }
            pause(STEP);
        }
        Ok(())
    }

    /// Asks for an update, or a downgrade, from this URL.
    pub(crate) fn ask(&mut self, url: &str) -> Result<()> {
        let request = format!("copepod.io/upgrade={url}");
        let downgrade = "copepod.io/upgrade-allow-downgrade=true";
        let status = "copepod.io/upgrade-status-";
        let arguments =
            ["annotate", "node", &self.node, &request, downgrade, status, "--overwrite"];
        // The server may just have come back.
        self.kubectl.wait(&arguments, ASK_LIMIT, |answer| answer.contains("annotated"), |_| {})?;
        Ok(())
    }

    /// Waits until the update has ended in this way; shows every step.
    pub(crate) fn ends(&mut self, phase: &str, version: &str) -> Result<String> {
        let machine = self.machine.as_mut().context("the board does not run")?;
        let status = self.kubectl.wait(
            &["get", "node", &self.node, "-o", STATUS],
            UPDATE_LIMIT,
            |status| end_of(status).is_some(),
            |text| {
                let _ = machine.follow();
                println!("    {}", text.lines().next().unwrap_or_default());
            },
        )?;
        println!("    {status}");
        ensure!(end_of(&status) == Some(phase), "expected {phase}: {status}");
        ensure!(status.contains(version), "expected version {version}: {status}");
        if phase == "Committed" {
            self.slot = self.slot.other();
        }
        let path = "jsonpath={.status.conditions[?(@.type=='UpgradeSucceeded')].reason}";
        let condition = ["get", "node", &self.node, "-o", path];
        self.kubectl.wait(&condition, POD_LIMIT, |reason| reason == phase, |_| {})?;
        Ok(status)
    }

    /// The bundle is refused for this reason, and next to nothing of it is fetched.
    pub(crate) fn refused(&mut self, bundle: &str, reason: &str) -> Result<()> {
        let served = Served::start(&self.bundles, Manners::default())?;
        self.ask(&served.url(bundle))?;
        let status = self.ends("Refused", "")?;
        ensure!(status.contains(reason), "expected {reason:?}: {status}");
        ensure!(served.sent() < HEAD_BYTES_MAX, "{} bytes were fetched", served.sent());
        Ok(())
    }

    /// The update is committed; objects are written until the board restarts for it.
    pub(crate) fn committed(
        &mut self,
        bundle: &str,
        version: &str,
        manners: Manners,
    ) -> Result<()> {
        let served = Served::start(&self.bundles, manners)?;
        let began = Instant::now();
        self.ask(&served.url(bundle))?;
        let writer = self.write();
        self.ends("Committed", version)?;
        let length = fs::metadata(self.bundles.join(bundle))?.len();
        println!(
            "    {} of {length} bytes fetched, {} objects acknowledged meanwhile, {} s",
            served.sent(),
            self.keep(writer),
            began.elapsed().as_secs()
        );
        self.is_whole(version)
    }

    /// The update ends on the version that ran before, with this reason.
    pub(crate) fn falls_back(&mut self, bundle: &str, reason: &str) -> Result<()> {
        let before = self.kubectl.run(&["get", "node", &self.node, "-o", SYSTEM])?;
        let version = before.rsplit(' ').next().unwrap_or_default().to_owned();
        let served = Served::start(&self.bundles, Manners::default())?;
        self.ask(&served.url(bundle))?;
        let writer = self.write();
        let status = self.ends("FellBack", "0.3.0")?;
        println!("    {} objects acknowledged before the restart", self.keep(writer));
        ensure!(status.contains(reason), "expected {reason:?}: {status}");
        self.is_whole(&version)
    }

    /// The node is Ready with this version in its confirmed slot, its pod runs, and nothing it acknowledged is lost.
    pub(crate) fn is_whole(&mut self, version: &str) -> Result<()> {
        let confirmed = format!("slot {} started healthily", self.slot);
        let machine = self.machine.as_mut().context("the board does not run")?;
        machine.wait_for_line(&confirmed, BOOT_LIMIT)?;
        wait_until_ready(&self.kubectl, machine)?;
        let expected = format!("Copepod {version}");
        let system = ["get", "node", &self.node, "-o", SYSTEM];
        self.kubectl.wait(&system, POD_LIMIT, |system| system == expected, |_| {})?;
        all_there(&self.kubectl, &self.kept)?;
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let ready = ["get", "pod", "demo", "-o", path];
        self.kubectl.wait(&ready, POD_LIMIT, |answer| answer == "True", |_| {})?;
        Ok(())
    }
}

/// The phase with which the update has ended.
fn end_of(status: &str) -> Option<&'static str> {
    ENDS.into_iter().find(|end| status.contains(&format!("\"phase\":\"{end}\"")))
}
