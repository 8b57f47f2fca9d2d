//! What further nodes and many Services cost.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testkit::{Lab, Machine};

use crate::figures::Figures;
use crate::{PODS, START_RUNS, inside, numbers, usages};

const SERVICES: [usize; 3] = [10, 1_000, 10_000];
const ENDPOINTS: usize = 3;

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    eprintln!("bench: agents");
    let mut lab = Lab::default();
    let mut server = lab.machine("server");
    // Pods can only land on the agents.
    server.start(&["--disable-agent"]);
    let (mut agent, first) = join(&mut lab, &server, 0)?;
    for (name, usage) in usages(&agent)? {
        figures.memory("agent idle", &name, usage.pss);
    }
    inside(&server, &["hold", "--count", &PODS.to_string()])?;
    for (name, usage) in usages(&agent)? {
        figures.memory(&format!("agent with {PODS} pods"), &name, usage.pss);
    }
    agent.stop("-TERM");
    let mut times = vec![first];
    for number in 1..START_RUNS {
        times.push(join(&mut lab, &server, number)?.1);
    }
    figures.join_to_ready(&times);
    eprintln!("bench: rules of Services");
    for services in SERVICES {
        figures.rules(services, rules(services)?);
    }
    Ok(())
}

/// A new agent, and the milliseconds from its start until its node is Ready.
fn join(lab: &mut Lab, server: &Machine, number: usize) -> Result<(Machine, f64)> {
    let name = format!("agent-{number}");
    let mut agent = lab.machine(&name);
    let begin = Instant::now();
    agent.spawn_agent(server, &[]);
    inside(server, &["ready", "--node", &name])?;
    Ok((agent, begin.elapsed().as_secs_f64() * 1e3))
}

/// Measured by this program again, in a network namespace of its own.
fn rules(services: usize) -> Result<[f64; 4]> {
    let program = std::env::current_exe()?;
    let mut command = Command::new("unshare");
    command.arg("--net").arg(program).args(["rules", &services.to_string()]);
    let output = command.output().context("unshare, from util-linux")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rules of {services} Services: {error}");
    let found = numbers(&String::from_utf8_lossy(&output.stdout))?;
    found.try_into().ok().context("four numbers")
}

/// Prints the numbers that [`rules`] reads.
pub(crate) fn print_rules(services: usize) -> Result<()> {
    let figures = network::proxy::measure(services, ENDPOINTS)?;
    let (full, change) = (figures.full.as_secs_f64() * 1e3, figures.change.as_secs_f64() * 1e3);
    println!("{full} {} {change} {}", figures.full_bytes, figures.change_bytes);
    Ok(())
}
