//! Updates on an emulated board: one that is committed, refused ones, ones that fall back, ones that are cut off.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::ota_board::OtaBoard;
use crate::random::Random;
use crate::served::{Manners, Served};
use crate::trial::{Check, run_checks};
use crate::variants::{self, Fault, Variant};
use crate::{KubectlArgs, Place};

/// Seconds in which a version must become healthy. The short one is for versions that never do; a good one takes half of it.
const SHORT: u32 = 60;
const LONG: u32 = 400;
/// A cut falls in the first of so many parts of an update's writes, so that the update, or the trial, cannot end before it.
const WRITING_PART: u64 = 4;
const TRIAL_PART: u64 = 20;
/// A connection ends after this many bytes.
const BREAKS_AFTER: u64 = 3 << 20;

const fn variant(
    name: &'static str,
    version: &'static str,
    fault: Fault,
    healthy_within: u32,
) -> Variant {
    Variant { name, version, fault, healthy_within }
}

pub(crate) const GOOD: Variant = variant("good", "0.2.0", Fault::None, LONG);
pub(crate) const NEXT: Variant = variant("next", "0.4.0", Fault::None, LONG);
const FOREIGN_KEY: Variant = variant("foreign-key", "0.3.0", Fault::Signature, LONG);
const OTHER_BOARD: Variant = variant("other-board", "0.3.0", Fault::Board, LONG);
const KERNEL: Variant = variant("kernel", "0.3.0", Fault::Kernel, LONG);
const INIT: Variant = variant("init", "0.3.0", Fault::Init, LONG);
const SERVER: Variant = variant("server", "0.3.0", Fault::Server, LONG);
const HEALTH: Variant = variant("health", "0.3.0", Fault::Health, SHORT);

#[derive(clap::Args)]
pub(crate) struct OtaArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, default_value_t = 16444)]
    forward: u16,
    #[command(flatten)]
    kubectl: KubectlArgs,
    /// Where the random points of power cuts come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often the power is cut during an update.
    #[arg(long, default_value_t = 2)]
    cuts: u32,
    /// Only a good update, a broken kernel and the power cuts.
    #[arg(long)]
    short: bool,
}

struct Trial {
    board: OtaBoard,
    cuts: u32,
    /// Writes the board made from the request of a good update to its end.
    update_writes: u64,
}

type Checks = &'static [Check<Trial>];

const FULL: Checks = &[
    ("boots version 0.1.0 with a pod and a ConfigMap", starts),
    ("refuses a bundle of a foreign key", |trial| {
        trial.board.refused(FOREIGN_KEY.name, "not valid for any key")
    }),
    ("refuses a bundle for another board", |trial| {
        trial.board.refused(OTHER_BOARD.name, "is for board")
    }),
    ("updates to 0.2.0 over connections that break, and commits", updates),
    ("falls back from a broken kernel", kernel_is_broken),
    ("falls back from a broken init", |trial| trial.board.falls_back(INIT.name, "did not start")),
    ("falls back from a server that ends again and again", server_ends),
    ("falls back from a node that never gets healthy", |trial| {
        trial.board.falls_back(HEALTH.name, "not healthy within")
    }),
    ("survives power cuts during an update, and commits 0.4.0", survives_cuts),
];

const SHORTER: Checks = &[
    ("boots version 0.1.0 with a pod and a ConfigMap", starts),
    ("updates to 0.2.0 over connections that break, and commits", updates),
    ("falls back from a broken kernel", kernel_is_broken),
    ("survives power cuts during an update, and commits 0.4.0", survives_cuts),
];

const DEMO: Checks = &[
    ("boots version 0.1.0 with a pod and a ConfigMap", starts),
    ("updates to 0.2.0 and commits", |trial| {
        trial.board.committed(GOOD.name, GOOD.version, Manners::default())
    }),
    ("falls back from a bad 0.3.0 and says why", server_ends),
    ("shows the reason in kubectl describe node", describes),
];

/// The board test of updates.
pub(crate) fn test(args: &OtaArgs) -> Result<()> {
    match args.short {
        true => run(args, SHORTER, &[GOOD, KERNEL, NEXT]),
        false => {
            run(args, FULL, &[GOOD, FOREIGN_KEY, OTHER_BOARD, KERNEL, INIT, SERVER, HEALTH, NEXT])
        }
    }
}

/// The demonstration: a good update, then a bad one.
pub(crate) fn demo(args: &OtaArgs) -> Result<()> {
    run(args, DEMO, &[GOOD, SERVER])
}

fn run(args: &OtaArgs, checks: Checks, bundles: &[Variant]) -> Result<()> {
    let board =
        OtaBoard::new(&args.place, "ota", &args.kubectl.program(), args.forward, args.seed)?;
    variants::make(&args.place, board.board(), bundles, &board.bundles)?;
    let mut trial = Trial { board, cuts: args.cuts, update_writes: 0 };
    let count = run_checks(checks, &mut trial, |trial| trial.board.show_tail());
    drop(trial);
    count.report(&args.place.board)
}

fn starts(trial: &mut Trial) -> Result<()> {
    trial.board.first_boot("0.1.0")
}

fn updates(trial: &mut Trial) -> Result<()> {
    let before = trial.board.writes()?;
    let manners = Manners { pause: Duration::ZERO, cut_after: Some(BREAKS_AFTER) };
    trial.board.committed(GOOD.name, GOOD.version, manners)?;
    trial.update_writes = trial.board.writes()? - before;
    Ok(())
}

fn kernel_is_broken(trial: &mut Trial) -> Result<()> {
    trial.board.falls_back(KERNEL.name, "did not start")
}

fn server_ends(trial: &mut Trial) -> Result<()> {
    trial.board.falls_back(SERVER.name, "does not keep running: the node ended")
}

fn survives_cuts(trial: &mut Trial) -> Result<()> {
    let Trial { board, cuts, update_writes } = trial;
    interrupted_update(board, &NEXT, *cuts, *update_writes)
}

/// Where an update is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Writing,
    /// From when the boot loader has taken the new slot.
    Trial,
}

/// Of `cuts` in one update the last is in the trial, a single one anywhere.
fn moments(cuts: u32, random: &mut Random) -> Vec<Moment> {
    let is_in_trial = |cut| cut == cuts && (cuts > 1 || random.below(2) == 1);
    (1..=cuts)
        .map(is_in_trial)
        .map(|trial| if trial { Moment::Trial } else { Moment::Writing })
        .collect()
}

/// An update that goes on by itself after each of the power cuts, which come at random writes. An update without a cut
/// makes `writes`.
pub(crate) fn interrupted_update(
    board: &mut OtaBoard,
    to: &Variant,
    cuts: u32,
    writes: u64,
) -> Result<()> {
    let served = Served::start(&board.bundles, Manners::default())?;
    board.machine()?.forget_lines()?;
    board.ask(&served.url(to.name))?;
    for moment in moments(cuts, &mut board.random) {
        let writer = board.write();
        let part = match moment {
            Moment::Writing => WRITING_PART,
            Moment::Trial => {
                board.wait_for_trial()?;
                TRIAL_PART
            }
        };
        board.stop_within(writes / part)?;
        board.wait_for_stop_in_update()?;
        board.cut()?;
        println!("    {moment:?}: {} objects acknowledged meanwhile", board.keep(writer));
        board.boot()?;
    }
    board.ends("Committed", to.version)?;
    board.is_whole(to.version)
}

fn describes(trial: &mut Trial) -> Result<()> {
    let text = trial.board.kubectl.run(&["describe", "node", &trial.board.node])?;
    for line in text.lines().filter(|line| line.contains("Upgrade")) {
        println!("    {line}");
    }
    ensure!(text.contains("FellBack") && text.contains("UpgradeFellBack"), "it does not say why");
    Ok(())
}
