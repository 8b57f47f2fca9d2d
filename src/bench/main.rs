//! Measures a server on this machine and writes the figures, each beside its aim: `make bench`.
//!
//! The machine is made by `testkit`; what has to run inside its network (load, waiting for Ready) is this program again, as
//! `bench inside …`. Start reading at [`measure`].

mod crossing;
mod dns;
mod figures;
mod inside;
mod nodes;
mod process;
mod tunnel;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use testkit::Machine;

use figures::Figures;
use process::Usage;

const START_RUNS: usize = 5;
const PODS: usize = 10;
/// After this long a started node does nothing any more.
const SETTLE: Duration = Duration::from_secs(5);
const CLIENTS: [usize; 3] = [1, 8, 32];

#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// How long the idle node is watched
    #[arg(long, default_value_t = 600)]
    idle_seconds: u64,
    /// Where the figures go
    #[arg(long, default_value = "docs/figures.md")]
    output: PathBuf,
    /// Where those with a budget go
    #[arg(long, default_value = "build/boards/native/figures.toml")]
    budgeted: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// A part that runs within the machine's network
    #[command(hide = true)]
    Inside(inside::Flags),
    /// The rules of so many Services, in a network namespace of its own
    #[command(hide = true)]
    Rules { services: usize },
    /// Takes a connection that `send` makes, and prints how fast it was
    #[command(hide = true)]
    Sink,
    /// Sends to the `sink` at this address
    #[command(hide = true)]
    Send { address: Ipv4Addr },
    /// Asks the DNS server at this address
    #[command(hide = true)]
    Dns { server: Ipv4Addr },
    /// Both ends of a tunnel
    #[command(hide = true)]
    Tunnel,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    match flags.command {
        Some(Command::Inside(inside)) => inside::run(inside),
        Some(Command::Rules { services }) => nodes::print_rules(services),
        Some(Command::Sink) => crossing::sink(),
        Some(Command::Send { address }) => crossing::send(address),
        Some(Command::Dns { server }) => dns::print(server),
        Some(Command::Tunnel) => tunnel::print(),
        None => {
            let figures = measure(Duration::from_secs(flags.idle_seconds))?;
            let text = figures.to_string();
            print!("{text}");
            write(&flags.budgeted, &figures.budgeted())?;
            let before = std::fs::read_to_string(&flags.output).unwrap_or_default();
            write(&flags.output, &(text + sections(&before)))
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    written.and_then(|()| std::fs::write(path, text)).with_context(|| path.display().to_string())
}

/// The sections behind our table: those of boards, which `make figures` writes.
fn sections(text: &str) -> &str {
    text.find("\n## ").and_then(|start| text.get(start..)).unwrap_or_default()
}

fn measure(idle: Duration) -> Result<Figures> {
    let mut figures = Figures::default();
    figures.binaries("build/bin")?;
    eprintln!("bench: start to Ready");
    start_to_ready(&mut figures)?;
    let machine = Machine::ready();
    for (name, usage) in usages(&machine)? {
        figures.memory("idle", &name, usage.pss);
    }
    eprintln!("bench: pods");
    let times = inside(&machine, &["pods", "--count", "20"])?;
    figures.pod_ready(&numbers(&times)?);
    inside(&machine, &["hold", "--count", &PODS.to_string()])?;
    for (name, usage) in usages(&machine)? {
        figures.memory(&format!("with {PODS} pods"), &name, usage.pss);
    }
    drop(machine);
    eprintln!("bench: API");
    let machine = Machine::ready();
    for operation in ["create", "get", "list"] {
        for clients in CLIENTS {
            let load = ["load", operation, "--clients", &clients.to_string()];
            let before = server_cpu(&machine)?;
            let found = numbers(&inside(&machine, &load)?)?;
            let spent = server_cpu(&machine)? - before;
            figures.rate(operation, clients, &found, spent);
        }
    }
    drop(machine);
    nodes::measure(&mut figures)?;
    crossing::measure(&mut figures)?;
    eprintln!("bench: tunnel");
    figures.tunnel(&numbers(&apart(&["tunnel"])?)?);
    eprintln!("bench: idle for {} s", idle.as_secs());
    idle_cost(&mut figures, idle)?;
    Ok(figures)
}

fn start_to_ready(figures: &mut Figures) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..START_RUNS {
        let mut machine = Machine::bare();
        let begin = Instant::now();
        machine.spawn(&[]);
        inside(&machine, &["ready"])?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    figures.start_to_ready(&times);
    Ok(())
}

/// What a node writes and computes while nobody asks it anything.
fn idle_cost(figures: &mut Figures, idle: Duration) -> Result<()> {
    let machine = Machine::ready();
    std::thread::park_timeout(SETTLE);
    let total = || -> Result<(f64, f64)> {
        let usages = usages(&machine)?;
        let written = usages.iter().map(|(_, u)| u.written as f64).sum();
        Ok((written, usages.iter().map(|(_, u)| u.cpu.as_secs_f64()).sum()))
    };
    let before = total()?;
    std::thread::park_timeout(idle);
    let after = total()?;
    figures.idle(idle, after.0 - before.0, after.1 - before.1);
    Ok(())
}

/// The server and the runtime process, once no child of the latter is at work.
fn usages(machine: &Machine) -> Result<Vec<(String, Usage)>> {
    let end = Instant::now() + SETTLE;
    loop {
        let mut found: Vec<(u32, &str)> = machine
            .processes()
            .iter()
            .filter_map(|(pid, line)| Some((*pid, part(line.split('\0').nth(1)?)?)))
            .collect();
        if let [_, _] = found.as_slice() {
            found.sort_by_key(|(_, name)| name.starts_with("runtime"));
            let usage = |(pid, name): (u32, &str)| Ok((name.to_owned(), Usage::of(pid)?));
            return found.into_iter().map(usage).collect();
        }
        ensure!(
            Instant::now() < end,
            "expected one server or agent and one runtime process, found {}",
            found.len()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn part(role: &str) -> Option<&'static str> {
    match role {
        "server" => Some("server and agent"),
        "agent" => Some("agent alone"),
        "runtime" => Some("runtime process"),
        _ => None,
    }
}

/// Seconds of processor time that the server has used.
fn server_cpu(machine: &Machine) -> Result<f64> {
    let pid = machine.node_pid().context("the server's process")?;
    Ok(Usage::of(pid)?.cpu.as_secs_f64())
}

/// Runs a part of this program within the machine's network.
fn inside(machine: &Machine, args: &[&str]) -> Result<String> {
    let program = std::env::current_exe()?;
    let kubeconfig = machine.path("kubeconfig");
    let mut all = vec!["inside", "--kubeconfig", kubeconfig.to_str().context("path")?];
    all.extend(args);
    let output = machine.run(program.to_str().context("path")?, &all);
    output.map_err(|message| anyhow::anyhow!("bench {}: {message}", args.join(" ")))
}

/// Runs a part of this program as a process of its own.
fn apart(args: &[&str]) -> Result<String> {
    let output = std::process::Command::new(std::env::current_exe()?).args(args).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bench {}: {error}", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn number(text: &str) -> Result<f64> {
    text.trim().parse().with_context(|| format!("expected a number, not {text:?}"))
}

fn numbers(text: &str) -> Result<Vec<f64>> {
    text.split_whitespace().map(number).collect()
}
