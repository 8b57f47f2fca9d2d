//! Power cuts at random writes of a board's first start and of its updates; every run has to end with a Ready node in a
//! confirmed slot that has all it acknowledged.

use anyhow::Result;

use crate::ota_board::OtaBoard;
use crate::ota_trial::{GOOD, NEXT, interrupted_update};
use crate::served::Manners;
use crate::trial::{Check, run_checks};
use crate::variants::{self, Variant};
use crate::{KubectlArgs, Place};

const VERSION: &str = "0.1.0";
/// Cuts in one first start, at most. A slot that was never confirmed has three starts; the third is not cut off.
const CUTS_MAX: u64 = 2;

#[derive(clap::Args)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, default_value_t = 16445)]
    forward: u16,
    #[command(flatten)]
    kubectl: KubectlArgs,
    /// Where the random points of power cuts come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// First starts that are cut off, each on a fresh card.
    #[arg(long, default_value_t = 10)]
    first_boots: u32,
    /// Updates that are cut off, one after the other on one card.
    #[arg(long, default_value_t = 10)]
    updates: u32,
}

struct Soak {
    board: OtaBoard,
    first_boots: u32,
    updates: u32,
    /// Writes of a first start, and of an update, that are not cut off.
    writes: u64,
}

const FIRST_BOOTS: &[Check<Soak>] = &[
    ("starts for the first time without a power cut", |soak| {
        soak.board.first_boot(VERSION)?;
        soak.writes = soak.board.writes()?;
        Ok(())
    }),
    ("survives power cuts in its first start", cut_first_boots),
];

const UPDATES: &[Check<Soak>] = &[
    ("starts for the first time", |soak| soak.board.first_boot(VERSION)),
    ("updates without a power cut", |soak| {
        let before = soak.board.writes()?;
        soak.board.committed(GOOD.name, GOOD.version, Manners::default())?;
        soak.writes = soak.board.writes()? - before;
        Ok(())
    }),
    ("survives power cuts in updates", cut_updates),
];

/// Runs both parts, those that are asked for.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    let board =
        OtaBoard::new(&args.place, "soak", &args.kubectl.program(), args.forward, args.seed)?;
    let (first_boots, updates) = (args.first_boots, args.updates);
    let mut soak = Soak { board, first_boots, updates, writes: 0 };
    if updates > 0 {
        variants::make(&args.place, soak.board.board(), &[GOOD, NEXT], &soak.board.bundles)?;
    }
    for (count, checks) in [(first_boots, FIRST_BOOTS), (updates, UPDATES)] {
        if count > 0 {
            let count = run_checks(checks, &mut soak, |soak| soak.board.show_tail());
            count.report(&args.place.board)?;
        }
    }
    Ok(())
}

fn cut_first_boots(soak: &mut Soak) -> Result<()> {
    for run in 1..=soak.first_boots {
        let cuts = 1 + soak.board.random.below(CUTS_MAX);
        println!("    first start {run} of {}, cut off {cuts} times", soak.first_boots);
        soak.board.renew()?;
        for _ in 0..cuts {
            soak.board.switch_on()?;
            soak.board.stop_within(soak.writes)?;
            soak.board.wait_for_stop_in_first_boot()?;
            soak.board.cut()?;
        }
        soak.board.boot()?;
        soak.board.furnish()?;
        soak.board.is_whole(VERSION)?;
    }
    Ok(())
}

fn cut_updates(soak: &mut Soak) -> Result<()> {
    let versions: [&Variant; 2] = [&NEXT, &GOOD];
    for (run, version) in (1..=soak.updates).zip(versions.into_iter().cycle()) {
        println!("    update {run} of {}, to {}", soak.updates, version.version);
        interrupted_update(&mut soak.board, version, 1, soak.writes)?;
    }
    Ok(())
}
