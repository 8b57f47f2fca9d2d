//! A member whose server is away for a day of simulated time.

use std::time::Duration;

use super::joining::{Running, folder};
use super::stage::{Stage, reached, until};
use crate::join;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// What the allocator may keep more after a day than after an hour.
const GROWN_MAX_KIB: usize = 256;

fn anonymous_kib() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).expect("Anonymous")
}

/// The memory is that of a whole process, so it is measured in one where no other test runs.
#[test]
fn a_day_without_the_server_takes_no_memory() {
    const ALONE: &str = "CLUSTER_AWAY_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.expect("runtime").block_on(a_day_away());
    }
    let mut alone = std::process::Command::new(std::env::current_exe().expect("this program"));
    alone.args(["--exact", "tests::away::a_day_without_the_server_takes_no_memory", "--nocapture"]);
    assert!(alone.env(ALONE, "1").status().expect("this program").success());
}

async fn a_day_away() {
    let stage = Stage::start(pki::LEAF_SECONDS).await;
    let data = folder();
    let running = Running::start(join(stage.join_config(&data, "board")).await.expect("joined"));
    let supervisor = stage.supervisor.clone();
    until("the tunnel is up", async || reached(&supervisor, "board").await).await;
    drop(supervisor);
    let away = stage.stop().await;
    tokio::time::pause();
    tokio::time::sleep(HOUR).await;
    let before = anonymous_kib();
    tokio::time::sleep(DAY).await;
    let grown = anonymous_kib().saturating_sub(before);
    tokio::time::resume();
    assert!(grown <= GROWN_MAX_KIB, "{grown} KiB more after a day");
    let stage = Stage::again(away).await;
    until("the tunnel is up again", async || reached(&stage.supervisor, "board").await).await;
    running.stop().await;
}
