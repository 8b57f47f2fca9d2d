//! `/metrics`: the agent's own figures as Prometheus text. Their number is bounded by the kinds of calls, not by the pods.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::api::core::v1::ContainerStatus;
use nix::unistd::{SysconfVar, sysconf};

use super::{Answer, respond};
use crate::actor::View;
use crate::context::Context;

pub(super) const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn answer(ctx: &Context, pods: &[Arc<View>]) -> Answer {
    let mut text = Text::default();
    let version = [("git_version", ctx.config.kubelet_version.as_str())];
    text.family("kubernetes_build_info", "gauge", "[ALPHA] The version, as a label");
    text.sample("kubernetes_build_info", &version, 1);
    text.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    text.sample("kubelet_node_name", &[("node", ctx.config.node_name.as_str())], 1);
    running(&mut text, pods);
    operations(&mut text, &ctx.config.runtime.operations());
    process(&mut text);
    Ok(respond(StatusCode::OK, KIND, text.0))
}

fn running(text: &mut Text, pods: &[Arc<View>]) {
    let statuses = |view: &View| -> Vec<ContainerStatus> {
        let init = view.status.init_container_statuses.iter().flatten();
        init.chain(view.status.container_statuses.iter().flatten()).cloned().collect()
    };
    let all: Vec<Vec<ContainerStatus>> = pods.iter().map(|view| statuses(view)).collect();
    let runs = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some());
    let ended = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.terminated.is_some());
    let pods = all.iter().filter(|statuses| statuses.iter().any(runs)).count();
    let count = |is: &dyn Fn(&ContainerStatus) -> bool| {
        all.iter().flatten().filter(|status| is(status)).count()
    };
    text.family(
        "kubelet_running_pods",
        "gauge",
        "[ALPHA] Number of pods that have a running container",
    );
    text.sample("kubelet_running_pods", &[], pods);
    let name = "kubelet_running_containers";
    text.family(name, "gauge", "[ALPHA] Number of containers by state");
    text.sample(name, &[("container_state", "exited")], count(&ended));
    text.sample(name, &[("container_state", "running")], count(&runs));
}

fn operations(text: &mut Text, operations: &[(&'static str, runtime::client::Operations)]) {
    let families = [
        (
            "kubelet_runtime_operations_total",
            "[ALPHA] Cumulative number of runtime operations by type",
        ),
        (
            "kubelet_runtime_operations_errors_total",
            "[ALPHA] Cumulative number of failed runtime operations by type",
        ),
    ];
    for (at, (name, help)) in families.into_iter().enumerate() {
        text.family(name, "counter", help);
        for (kind, count) in operations {
            let value = if at == 0 { count.total } else { count.failed };
            text.sample(name, &[("operation_type", kind)], value);
        }
    }
}

/// What every Prometheus client says of its own process; a figure the kernel does not give is left out.
fn process(text: &mut Text) {
    let figures = [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            cpu_seconds().map(|s| format!("{s:.2}")),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            memory_bytes().map(|b| b.to_string()),
        ),
        (
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            open_files().map(|n| n.to_string()),
        ),
    ];
    for (name, kind, help, value) in figures {
        if let Some(value) = value {
            text.family(name, kind, help);
            text.sample(name, &[], value);
        }
    }
}

fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name may contain anything: fields are counted after the last ')', user and system time are the 12th and 13th.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let ticks = ticks_per_second()?;
    Some((user + system) as f64 / ticks)
}

fn ticks_per_second() -> Option<f64> {
    sysconf(SysconfVar::CLK_TCK).ok().flatten().map(|ticks| ticks as f64)
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
    Some(pages * u64::try_from(page).ok()?)
}

fn open_files() -> Option<usize> {
    // The directory itself is open while it is read.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// Seconds that the machine's processors have worked since it started.
pub(super) fn node_cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    busy_ticks(&text).zip(ticks_per_second()).map(|(busy, ticks)| busy as f64 / ticks)
}

/// All but idle time and waiting for disks, and not the guests' time, which is counted in the user's already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> =
        line.split_ascii_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = fields.get(3)? + fields.get(4)?;
    Some(fields.iter().sum::<u64>() - idle)
}

/// Prometheus text.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let all: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        let _ = match all.as_slice() {
            [] => writeln!(self.0, "{name} {value}"),
            all => writeln!(self.0, "{name}{{{}}} {value}", all.join(",")),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_figures() {
        let mut text = Text::default();
        text.family("a_total", "counter", "Things.");
        text.sample("a_total", &[], 3);
        text.sample("a_total", &[("kind", "x\"y"), ("b", "c")], 4);
        assert_eq!(
            text.0,
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\na_total{kind=\"x\\\"y\",b=\"c\"} 4\n"
        );
        let mut own = Text::default();
        process(&mut own);
        assert_eq!(own.0.matches("# TYPE").count(), 3, "{}", own.0);
        assert_eq!(busy_ticks("cpu  10 1 5 1000 50 2 3 4 7 0\ncpu0 1 1 1 1\n"), Some(25));
        assert_eq!(busy_ticks("cpu  10"), None);
        assert!(node_cpu_seconds().is_some_and(|s| s > 0.0));
    }
}
