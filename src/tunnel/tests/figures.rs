//! Throughput and memory of idle streams, printed by `cargo test -p tunnel figures -- --nocapture`; the load is small
//! enough for every run, and only gross losses fail.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::io::{echoing, in_time, loopback, pair, waiting};
use super::refusing;
use crate::Limits;

const BYTES: usize = 32 << 20;
/// Many times the hundred of the figure, to rise above the allocator's noise.
const IDLE: usize = 1000;
/// The most that both ends of a hundred idle streams may take.
const HUNDRED_IDLE_MAX_KIB: usize = 1024;

fn anonymous_kib() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_throughput() {
    let (_client, server) = pair(loopback().await, echoing(), refusing(), Limits::default()).await;
    let stream = server.dial("tcp", "a:1").await.expect("dialled");
    let (mut from, mut to) = tokio::io::split(stream);
    let start = Instant::now();
    let sending = async {
        let chunk = vec![7; 64 << 10];
        for _ in 0..BYTES / chunk.len() {
            to.write_all(&chunk).await.expect("written");
        }
        to.shutdown().await.expect("closed");
    };
    let receiving = async {
        let (mut total, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match from.read(&mut buffer).await.expect("read") {
                0 => break total,
                n => total += n,
            }
        }
    };
    let ((), total) = in_time(async { tokio::join!(sending, receiving) }).await;
    assert_eq!(total, BYTES);
    let speed = BYTES as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20);
    println!("tunnel throughput: {speed:.0} MiB/s echoed, so as much in each direction");
}

/// The memory is that of a whole process, so it is measured in one where no other test runs.
#[test]
fn figures_of_idle_streams() {
    const ALONE: &str = "TUNNEL_FIGURES_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.expect("runtime").block_on(measure_idle_streams());
    }
    let mut alone = std::process::Command::new(std::env::current_exe().expect("this program"));
    alone.args(["--exact", "tests::figures::figures_of_idle_streams", "--nocapture"]);
    assert!(alone.env(ALONE, "1").status().expect("this program").success());
}

async fn measure_idle_streams() {
    let (client, server) = pair(loopback().await, waiting(), refusing(), Limits::default()).await;
    let before = anonymous_kib();
    let mut streams = Vec::new();
    for _ in 0..IDLE {
        streams.push(server.dial("tcp", "a:1").await.expect("dialled"));
    }
    let grown = anonymous_kib().saturating_sub(before);
    assert_eq!((client.counts().streams, server.counts().streams), (IDLE, IDLE));
    let hundred = grown * 100 / IDLE;
    println!("memory of 100 idle streams, both ends: {hundred} KiB");
    assert!(hundred <= HUNDRED_IDLE_MAX_KIB, "{hundred} KiB for 100 idle streams");
}
