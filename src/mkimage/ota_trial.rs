//! Updates on an emulated board: one that is committed, refused ones, ones that fall back, ones that are cut off.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::board::Board;
use crate::kubectl::{Kubectl, pause};
use crate::machine::{BOOT_LIMIT, Machine, Network, POD_LIMIT, Place, demo_pod, wait_until_ready};
use crate::served::{Manners, Served};
use crate::trial::{Check, run_checks, show_tail};
use crate::variants::{self, Fault, Variant};
use crate::{KubectlArgs, Place as Paths};

const STATUS: &str = "jsonpath={.metadata.annotations.copepod\\.io/upgrade-status}";
const SYSTEM: &str = "jsonpath={.status.nodeInfo.osImage}";
/// Writing, restarts and the trial, on a slow emulation.
const UPDATE_LIMIT: Duration = Duration::from_secs(900);
const STEP: Duration = Duration::from_millis(200);
/// Seconds in which a broken version must become healthy; a whole boot of a good one takes a third.
const SHORT: u32 = 120;
const LONG: u32 = 400;

const fn variant(
    name: &'static str,
    version: &'static str,
    fault: Fault,
    healthy_within: u32,
) -> Variant {
    Variant { name, version, fault, healthy_within }
}

const VARIANTS: [Variant; 8] = [
    variant("good", "0.2.0", Fault::None, LONG),
    variant("foreign-key", "0.3.0", Fault::Signature, LONG),
    variant("other-board", "0.3.0", Fault::Board, LONG),
    variant("kernel", "0.3.0", Fault::Kernel, SHORT),
    variant("init", "0.3.0", Fault::Init, SHORT),
    variant("server", "0.3.0", Fault::Server, SHORT),
    variant("health", "0.3.0", Fault::Health, SHORT),
    variant("next", "0.4.0", Fault::None, LONG),
];

#[derive(clap::Args)]
pub(crate) struct OtaArgs {
    #[command(flatten)]
    place: Paths,
    #[arg(long, default_value_t = 16444)]
    forward: u16,
    #[command(flatten)]
    kubectl: KubectlArgs,
    /// Where the random points of power cuts come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often the power is cut while an update is written.
    #[arg(long, default_value_t = 2)]
    cuts: u32,
    /// Only the power cuts.
    #[arg(long)]
    cuts_only: bool,
}

struct Trial {
    board: Board,
    place: Place,
    bundles: PathBuf,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    node: String,
    forward: u16,
    machine: Option<Machine>,
    seed: u64,
    cuts: u32,
}

const CHECKS: &[Check<Trial>] = &[
    ("boots version 0.1.0 with a pod and a ConfigMap", starts),
    ("refuses a bundle of a foreign key", |trial| {
        trial.refused("foreign-key", "not valid for any key")
    }),
    ("refuses a bundle for another board", |trial| trial.refused("other-board", "is for board")),
    ("updates to 0.2.0 over connections that break, and commits", updates),
    ("falls back from a broken kernel", |trial| trial.falls_back("kernel", "did not start")),
    ("falls back from a broken init", |trial| trial.falls_back("init", "did not start")),
    ("falls back from a server that ends again and again", |trial| {
        trial.falls_back("server", "the node ended")
    }),
    ("falls back from a node that never gets healthy", |trial| {
        trial.falls_back("health", "not healthy within")
    }),
    ("survives power cuts while writing, and then commits 0.4.0", survives_cuts),
];

const CUTS: &[Check<Trial>] = &[
    ("boots version 0.1.0 with a pod and a ConfigMap", starts),
    ("survives power cuts while writing, and then commits 0.4.0", survives_cuts),
];

const DEMO: &[Check<Trial>] = &[
    ("boots version 0.1.0 with a pod and a ConfigMap", starts),
    ("updates to 0.2.0 and commits", |trial| trial.committed("good", "0.2.0", Manners::default())),
    ("falls back from a bad 0.3.0 and says why", |trial| {
        trial.falls_back("server", "the node ended")
    }),
    ("shows the reason in kubectl describe node", describes),
];

/// The board test of updates.
pub(crate) fn test(args: &OtaArgs) -> Result<()> {
    match args.cuts_only {
        true => run(args, CUTS, &["next"]),
        false => run(args, CHECKS, &VARIANTS.map(|variant| variant.name)),
    }
}

/// The demonstration: a good update, then a bad one.
pub(crate) fn demo(args: &OtaArgs) -> Result<()> {
    run(args, DEMO, &["good", "server"])
}

fn run(args: &OtaArgs, checks: &[Check<Trial>], bundles_wanted: &[&str]) -> Result<()> {
    let board = Board::read(&args.place.root, &args.place.board)?;
    let dir = args.place.dir();
    let place = Place::new(&dir, "ota")?;
    place.prepare(&board, true)?;
    let bundles = dir.join("ota/bundles");
    fs::create_dir_all(&bundles)?;
    let wanted: Vec<Variant> =
        VARIANTS.into_iter().filter(|variant| bundles_wanted.contains(&variant.name)).collect();
    variants::make(&args.place, &board, &wanted, &bundles)?;
    let kubeconfig = dir.join("ota/kubeconfig.yaml");
    let kubectl = Kubectl::new(&args.kubectl.program(), &kubeconfig);
    let mut trial = Trial {
        board,
        place,
        bundles,
        kubeconfig,
        kubectl,
        node: String::new(),
        forward: args.forward,
        machine: None,
        seed: args.seed,
        cuts: args.cuts,
    };
    let count = run_checks(checks, &mut trial, |trial| show_tail(&trial.place));
    drop(trial);
    count.report(&args.place.board)
}

fn starts(trial: &mut Trial) -> Result<()> {
    trial.boot()?;
    let machine = trial.machine.as_mut().context("the board does not run")?;
    demo_pod(&trial.kubectl, machine)?;
    trial.node =
        trial.kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    trial.kubectl.run(&["create", "configmap", "kept", "--from-literal=answer=42"])?;
    machine.wait_for_line("slot a started healthily", BOOT_LIMIT)?;
    trial.is_whole("0.1.0")
}

fn updates(trial: &mut Trial) -> Result<()> {
    let manners = Manners { pause: Duration::ZERO, cut_after: Some(3 << 20) };
    trial.committed("good", "0.2.0", manners)
}

/// Cuts the power at random moments of writing; the update goes on by itself after each.
fn survives_cuts(trial: &mut Trial) -> Result<()> {
    let manners = Manners { pause: Duration::from_millis(30), cut_after: None };
    let served = Served::start(&trial.bundles, manners)?;
    let length = fs::metadata(trial.bundles.join("next"))?.len();
    trial.ask(&served.url("next"))?;
    for cut in 1..=trial.cuts {
        let at = served.sent() + trial.random(length / u64::from(trial.cuts + 1));
        trial.wait_until_sent(&served, at)?;
        println!("    power cut {cut} after {} of {length} bytes", served.sent());
        trial.machine = None;
        trial.boot()?;
    }
    trial.ends("Committed", "0.4.0")?;
    trial.is_whole("0.4.0")
}

fn describes(trial: &mut Trial) -> Result<()> {
    let text = trial.kubectl.run(&["describe", "node", &trial.node])?;
    for line in text.lines().filter(|line| line.contains("Upgrade")) {
        println!("    {line}");
    }
    ensure!(text.contains("FellBack") && text.contains("UpgradeFellBack"), "it does not say why");
    Ok(())
}

impl Trial {
    /// Starts the board on its disk and waits for the Ready node.
    fn boot(&mut self) -> Result<()> {
        let network = Network::Alone { forward: self.forward };
        let mut machine = Machine::start(&self.board, &self.place, network, false)?;
        machine.kubeconfig(&self.kubeconfig, BOOT_LIMIT)?;
        wait_until_ready(&self.kubectl, &mut machine)?;
        self.machine = Some(machine);
        Ok(())
    }

    fn ask(&mut self, url: &str) -> Result<()> {
        let request = format!("copepod.io/upgrade={url}");
        let node = self.node.clone();
        let limit = Duration::from_secs(60);
        // The server may just have come back.
        self.kubectl.wait(
            &["annotate", "node", &node, &request, "copepod.io/upgrade-status-", "--overwrite"],
            limit,
            |answer| answer.contains("annotated"),
            |_| {},
        )?;
        Ok(())
    }

    /// Waits until the update has ended in this way; shows every step.
    fn ends(&mut self, phase: &str, version: &str) -> Result<String> {
        let machine = self.machine.as_mut().context("the board does not run")?;
        let is_end = |text: &str| {
            ["Committed", "FellBack", "Refused", "Failed"]
                .iter()
                .any(|end| text.contains(&format!("\"phase\":\"{end}\"")))
        };
        let status = self.kubectl.wait(
            &["get", "node", &self.node, "-o", STATUS],
            UPDATE_LIMIT,
            is_end,
            |text| {
                let _ = machine.follow();
                println!("    {}", text.lines().next().unwrap_or_default());
            },
        )?;
        println!("    {status}");
        ensure!(status.contains(&format!("\"phase\":\"{phase}\"")), "expected {phase}: {status}");
        ensure!(status.contains(version), "expected version {version}: {status}");
        let path = "jsonpath={.status.conditions[?(@.type=='UpgradeSucceeded')].reason}";
        let condition = ["get", "node", &self.node, "-o", path];
        self.kubectl.wait(&condition, POD_LIMIT, |reason| reason == phase, |_| {})?;
        Ok(status)
    }

    fn refused(&mut self, bundle: &str, reason: &str) -> Result<()> {
        let served = Served::start(&self.bundles, Manners::default())?;
        self.ask(&served.url(bundle))?;
        let status = self.ends("Refused", "")?;
        ensure!(status.contains(reason), "expected {reason:?}: {status}");
        ensure!(served.sent() < 256 * 1024, "{} bytes were fetched for a refusal", served.sent());
        Ok(())
    }

    fn committed(&mut self, bundle: &str, version: &str, manners: Manners) -> Result<()> {
        let served = Served::start(&self.bundles, manners)?;
        let began = Instant::now();
        self.ask(&served.url(bundle))?;
        self.ends("Committed", version)?;
        let length = fs::metadata(self.bundles.join(bundle))?.len();
        println!(
            "    {} of {length} bytes fetched, {} s",
            served.sent(),
            began.elapsed().as_secs()
        );
        self.is_whole(version)
    }

    /// The update ends on the version that ran before, with this reason.
    fn falls_back(&mut self, bundle: &str, reason: &str) -> Result<()> {
        let before = self.kubectl.run(&["get", "node", &self.node, "-o", SYSTEM])?;
        let version = before.rsplit(' ').next().unwrap_or_default().to_owned();
        let served = Served::start(&self.bundles, Manners::default())?;
        self.ask(&served.url(bundle))?;
        let status = self.ends("FellBack", "0.3.0")?;
        ensure!(status.contains(reason), "expected {reason:?}: {status}");
        self.is_whole(&version)
    }

    /// The node is Ready with this version, and nothing that was there is lost.
    fn is_whole(&mut self, version: &str) -> Result<()> {
        let machine = self.machine.as_mut().context("the board does not run")?;
        wait_until_ready(&self.kubectl, machine)?;
        let system = self.kubectl.run(&["get", "node", &self.node, "-o", SYSTEM])?;
        ensure!(system == format!("Copepod {version}"), "the node runs {system:?}");
        let kept = ["get", "configmap", "kept", "-o", "jsonpath={.data.answer}"];
        ensure!(self.kubectl.run(&kept)? == "42", "the ConfigMap is lost");
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let ready = ["get", "pod", "demo", "-o", path];
        self.kubectl.wait(&ready, POD_LIMIT, |answer| answer == "True", |_| {})?;
        Ok(())
    }

    fn wait_until_sent(&mut self, served: &Served, bytes: u64) -> Result<()> {
        let end = Instant::now() + UPDATE_LIMIT;
        while served.sent() < bytes {
            let machine = self.machine.as_mut().context("the board does not run")?;
            machine.follow()?;
            machine.check_alive("the power was cut")?;
            if Instant::now() >= end {
                bail!("only {} of {bytes} bytes were fetched", served.sent());
            }
            pause(STEP);
        }
        Ok(())
    }

    /// A number below `bound` (xorshift): the same for the same seed.
    fn random(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        self.seed % bound.max(1)
    }
}
