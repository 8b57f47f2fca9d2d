//! What the node itself takes of a board's memory while ten pods run, measured by one of these pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kubectl::Kubectl;
use crate::machine::POD_LIMIT;

/// Limits of memory are for a node with so many pods.
const PODS: usize = 10;
/// Not pulled by default, unlike `latest`.
const IMAGE: &str = "localhost/busybox:preloaded";
const PROBE: &str = "memory-probe";
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// A line for each process of ours: command line, then kilobytes.
const SCRIPT: &str = "for dir in /proc/[0-9]*; do \
    case \"$(readlink $dir/exe)\" in */copepod) ;; *) continue ;; esac; \
    size=$(grep ^Pss: $dir/smaps_rollup | tr -dc 0-9); \
    echo \"$size $(tr '\\0' ' ' < $dir/cmdline | cut -c 1-40)\"; done";

/// Bytes of memory (PSS) of all processes on the node that belong to no pod, while it runs ten. It runs `present` ones
/// before; those added are removed again.
pub(crate) fn with_pods(kubectl: &Kubectl, node: &str, present: usize) -> Result<u64> {
    let names: Vec<String> = (present + 1..PODS).map(|number| format!("fill-{number}")).collect();
    for name in &names {
        run(kubectl, name, node, "{}", "")?;
    }
    // One of the ten sees the node's processes.
    run(kubectl, PROBE, node, "{\"privileged\":true}", "\"hostPID\":true,")?;
    let all: Vec<&str> = names.iter().map(String::as_str).chain([PROBE]).collect();
    for name in &all {
        let phase = ["get", "pod", name, "-o", "jsonpath={.status.phase}"];
        kubectl.wait(&phase, POD_LIMIT, |phase| phase == "Running", |_| {})?;
    }
    let bytes = measure(kubectl)?;
    let delete = ["delete", "pod", "--grace-period=1", "--timeout=60s"];
    kubectl.run(&delete.into_iter().chain(all).collect::<Vec<_>>())?;
    Ok(bytes)
}

fn measure(kubectl: &Kubectl) -> Result<u64> {
    let exec = ["exec", PROBE, "--", "sh", "-c", SCRIPT];
    let report = kubectl.wait(&exec, ANSWER_LIMIT, |report| total(report).is_ok(), |_| {})?;
    for line in report.lines() {
        println!("    {line}");
    }
    total(&report)
}

fn run(kubectl: &Kubectl, name: &str, node: &str, security: &str, pod: &str) -> Result<()> {
    let overrides = format!(
        "{{\"spec\":{{\"nodeName\":\"{node}\",\"terminationGracePeriodSeconds\":1,{pod}\"containers\":[{{\"name\":\"{name}\",\
         \"image\":\"{IMAGE}\",\"command\":[\"sleep\",\"1000000\"],\"securityContext\":{security}}}]}}}}"
    );
    kubectl.run(&["run", name, "--image", IMAGE, "--overrides", &overrides])?;
    Ok(())
}

/// The sum of a report. PID 1, the node and the runtime process are the least there is.
fn total(report: &str) -> Result<u64> {
    let mut total = 0;
    for line in report.lines() {
        let size = line.split(' ').next().unwrap_or_default();
        let size: u64 = size.parse().with_context(|| format!("the probe printed {line:?}"))?;
        total += size * 1024;
    }
    for part in ["init", " runtime"] {
        ensure!(report.contains(part), "the probe sees no {part}: {report:?}");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_summed_when_it_is_whole() {
        let report =
            "1200 /sbin/init \n9000 copepod server --data-dir /var \n3000 copepod runtime ";
        assert_eq!(total(report).unwrap(), 13_200 * 1024);
        for report in ["", "1200 /sbin/init ", " copepod runtime init", "error: unable to connect"]
        {
            assert!(total(report).is_err(), "{report:?}");
        }
    }
}
