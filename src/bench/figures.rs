//! The table of figures, each beside its bound and its aim.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

const MIB: f64 = 1024.0 * 1024.0;

#[derive(Default)]
pub(crate) struct Figures {
    rows: Vec<[String; 4]>,
    /// By the names of image/budgets.toml, in bytes.
    budgeted: Vec<(&'static str, f64)>,
    server_and_runtime: f64,
}

impl Figures {
    fn row(&mut self, what: impl Into<String>, figure: String, bound: &str, aim: &str) {
        self.rows.push([what.into(), figure, bound.to_owned(), aim.to_owned()]);
    }

    pub(crate) fn binaries(&mut self, folder: &str) -> Result<()> {
        let mut files: Vec<_> = std::fs::read_dir(folder)?.flatten().collect();
        files.sort_by_key(|f| f.file_name());
        for file in files {
            let size = mib(file.metadata()?.len() as f64);
            self.row(format!("binary {}", file.file_name().display()), size, "24 MiB", "-");
        }
        Ok(())
    }

    pub(crate) fn start_to_ready(&mut self, milliseconds: &[f64]) {
        self.row("start of an empty server to node Ready", spread(milliseconds), "2 s", "-");
    }

    pub(crate) fn memory(&mut self, when: &str, process: &str, pss: u64) {
        self.row(format!("PSS of {process}, {when}"), mib(pss as f64), "-", "-");
        self.server_and_runtime += pss as f64;
        if process.starts_with("runtime") {
            let total = std::mem::take(&mut self.server_and_runtime);
            match when {
                "with 10 pods" => self.budgeted.push(("server-pss", total)),
                "agent with 10 pods" => self.budgeted.push(("agent-pss", total)),
                _ => {}
            }
            let total = mib(total);
            let (what, bound, aim) = match when.starts_with("agent") {
                true => ("agent and runtime", "75 MB with 10 pods", "16 MiB with 10 pods"),
                false => ("server, agent and runtime", "64 MiB", "40 MiB with 10 pods"),
            };
            self.row(format!("PSS of {what}, {when}"), total, bound, aim);
        }
    }

    pub(crate) fn join_to_ready(&mut self, milliseconds: &[f64]) {
        self.row("start of an agent with a token to node Ready", spread(milliseconds), "-", "-");
    }

    /// `numbers`: full load in ms and bytes, one endpoint changed in ms and bytes.
    pub(crate) fn rules(&mut self, services: usize, numbers: [f64; 4]) {
        let [full, full_bytes, change, change_bytes] = numbers;
        self.row(
            format!("rules of {services} Services of 3 endpoints"),
            format!(
                "{full:.1} ms, {} kB of netlink; one endpoint changed {change:.3} ms, {change_bytes} bytes",
                (full_bytes / 1e3).round()
            ),
            "-",
            "2 s for 10,000; 5 ms for a change",
        );
    }

    /// Gbit/s of pods and of what the kernel does without us.
    pub(crate) fn crossing(&mut self, what: &str, ours: f64, plain: &str, theirs: f64) {
        let figure = format!("{ours:.1} Gbit/s; {plain} {theirs:.1} Gbit/s");
        self.row(format!("{what}, one TCP connection"), figure, "-", "-");
    }

    /// `numbers`: queries per second of many askers; microseconds of one alone, p50 and p99.
    pub(crate) fn dns(&mut self, numbers: &[f64]) {
        if let [rate, p50, p99] = numbers {
            let figure =
                format!("{rate:.0}/s from 16 askers; one alone p50 {p50:.0} µs, p99 {p99:.0} µs");
            self.row("cluster DNS queries of a pod", figure, "-", "-");
        }
    }

    /// `numbers`: KiB of 100 idle streams, MiB/s.
    pub(crate) fn tunnel(&mut self, numbers: &[f64]) {
        if let [idle, speed] = numbers {
            self.row(
                "tunnel, one stream to an echo",
                format!("{speed:.0} MiB/s each way"),
                "-",
                "-",
            );
            self.row("tunnel, 100 idle streams, both ends", format!("{idle:.0} KiB"), "-", "-");
        }
    }

    pub(crate) fn idle(&mut self, time: Duration, written: f64, cpu_seconds: f64) {
        let minutes = time.as_secs_f64() / 60.0;
        let per_day = written * 1440.0 / minutes;
        self.budgeted.push(("idle-written", written * 10.0 / minutes));
        self.row(
            format!("written in {minutes} idle minutes"),
            format!("{} ({} a day)", mib(written), mib(per_day)),
            "1 MiB in 10 minutes",
            "1 MiB a day",
        );
        let share = 100.0 * cpu_seconds / time.as_secs_f64();
        self.row("idle CPU, of one core", format!("{share:.2} %"), "-", "0.2 %");
    }

    /// What `mkimage budget --board native` reads.
    pub(crate) fn budgeted(&self) -> String {
        self.budgeted.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect()
    }

    /// `found`: requests per second, and requests in all; `spent`: the server's processor seconds for all of them.
    pub(crate) fn rate(&mut self, operation: &str, clients: usize, found: &[f64], spent: f64) {
        let [per_second, all] = found else { return };
        let bound = if (operation, clients) == ("create", 32) { "1000/s" } else { "-" };
        let aim = match operation {
            "list" => "20 times upstream with etcd",
            _ => "5 times upstream with etcd",
        };
        let what = match operation {
            "create" => "durable creates of a ConfigMap",
            "get" => "gets of a ConfigMap",
            _ => "lists of 500 ConfigMaps",
        };
        let each = spent * 1e6 / all;
        let figure = format!("{per_second:.0}/s, {each:.0} µs of processor time each");
        self.row(format!("{what}, {clients} clients"), figure, bound, aim);
    }

    pub(crate) fn pod_ready(&mut self, milliseconds: &[f64]) {
        self.row(
            "pod created to Ready, image present",
            spread(milliseconds),
            "p50 200 ms",
            "p50 60 ms",
        );
    }
}

fn mib(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / MIB)
}

/// Median, least and most of some milliseconds.
fn spread(milliseconds: &[f64]) -> String {
    let mut sorted = milliseconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(least), Some(median), Some(most)) => {
            format!("p50 {median:.0} ms ({least:.0} to {most:.0}, {} runs)", sorted.len())
        }
        _ => "none".to_owned(),
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        writeln!(
            f,
            "# Figures\n\nWritten by `make bench`, the tables of boards by `make figures`; not edited by hand. Measured on a {} machine with {cores} cores and Linux {}.\n",
            std::env::consts::ARCH,
            kernel.trim()
        )?;
        writeln!(
            f,
            "Load comes from another process on the same machine over TLS. Bounds are what the project holds now, aims what it works towards.\n"
        )?;
        writeln!(f, "| what | figure | bound | aim |\n|---|---|---|---|")?;
        for [what, figure, bound, aim] in &self.rows {
            writeln!(f, "| {what} | {figure} | {bound} | {aim} |")?;
        }
        Ok(())
    }
}
