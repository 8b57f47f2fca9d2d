//! The test of boards on one virtual network: one is the server, the others join it as agents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;

use crate::PairArgs;
use crate::board::Board;
use crate::budget;
use crate::kubectl::{Kubectl, pause};
use crate::machine::{BOOT_LIMIT, Machine, Network, POD_LIMIT, Place, crashes};
use crate::memory;
use crate::owner;
use crate::switch::Switch;
use crate::trial::{Check, run_checks, show_tail};

/// Given to both boards, so that the test need not read it from the server's disk.
const PASSWORD: &str = "board-test-only";
/// Where QEMU's DHCP server puts the first board.
const SERVER: &str = "10.0.2.15";
const SERVER_NAME: &str = "copepod";
/// The first agent, which the pods of the test run on.
const AGENT_NAME: &str = "field";
const TUNNEL_LIMIT: Duration = Duration::from_secs(60);
/// How often idle boards are looked at.
const IDLE_STEP: Duration = Duration::from_secs(5);
/// What `idle-written` of the budgets is for.
const IDLE_MINUTES: f64 = 10.0;

/// One of the boards: what it is, the node's name, where its disk and log lie, and the machine once it runs.
struct Member {
    board: Board,
    node: String,
    place: Place,
    machine: Option<Machine>,
}

struct Pair {
    /// The server, then the agents.
    members: Vec<Member>,
    switch: Switch,
    _sockets: tempfile::TempDir,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    forward: u16,
    idle: Duration,
}

const CHECKS: &[Check<Pair>] = &[
    ("the server boots to a Ready node", server_boots),
    ("the agents join with the token and become Ready", agents_join),
    ("pods run on both boards", pods_run),
    ("a pod reaches a Service across the boards, by name", service_across),
    ("log and exec of the agent's pod go through the tunnel", streams),
    ("each agent runs 10 pods; its memory is recorded", fills),
    ("the agent restarts without the server and runs its pod again", restarts_alone),
    ("the agent's node is Ready again with the same pod", returns),
    ("idle boards hardly write; it is recorded", idles),
    ("no board shows a crash", no_crash),
];

/// Runs the checks.
pub(crate) fn run(args: &PairArgs) -> Result<()> {
    let server = &args.place.board;
    let mut agents = args.agent_board.clone();
    if agents.is_empty() {
        agents.push(server.clone());
    }
    let mut members = vec![Member::new(&args.place, server, SERVER_NAME, "pair-server")?];
    for (index, board) in agents.iter().enumerate() {
        let suffix = if index == 0 { String::new() } else { format!("-{}", index + 1) };
        let node = format!("{AGENT_NAME}{suffix}");
        members.push(Member::new(&args.place, board, &node, &format!("pair-agent{suffix}"))?);
    }
    let kubeconfig = args.place.dir().join("pair-server/kubeconfig.yaml");
    let sockets = tempfile::Builder::new().prefix("copepod-").tempdir()?;
    let mut pair = Pair {
        members,
        switch: Switch::start(&sockets.path().join("switch"))?,
        _sockets: sockets,
        kubectl: Kubectl::new(&args.kubectl.program(), &kubeconfig),
        kubeconfig,
        forward: args.forward,
        idle: Duration::from_secs(args.idle_seconds),
    };
    let show = |pair: &Pair| pair.members.iter().for_each(|member| show_tail(&member.place));
    let count = run_checks(CHECKS, &mut pair, show);
    drop(pair);
    count.report(&format!("{server} with agents {}", agents.join(", ")))
}

impl Member {
    fn new(place: &crate::Place, board: &str, node: &str, part: &str) -> Result<Member> {
        Ok(Member {
            board: Board::read(&place.root, board)?,
            node: node.to_owned(),
            place: Place::new(&place.dir_of(board), part)?,
            machine: None,
        })
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().with_context(|| format!("{} does not run", self.node))
    }

    /// A fresh disk with this text as the owner's settings, and the board on it.
    fn start(&mut self, owner: &str, network: Network<'_>) -> Result<()> {
        self.place.prepare(&self.board, true)?;
        owner::replace(&self.place.disk, owner)?;
        self.machine = Some(Machine::start(&self.board, &self.place, network, false)?);
        Ok(())
    }
}

fn server_boots(pair: &mut Pair) -> Result<()> {
    let owner = format!("args: [\"--token={PASSWORD}\"]\n");
    let network = Network::Gateway { forward: pair.forward, switch: pair.switch.path() };
    let [server, ..] = pair.members.as_mut_slice() else { bail!("no server") };
    server.start(&owner, network)?;
    server.machine()?.kubeconfig(&pair.kubeconfig, BOOT_LIMIT)?;
    pair.wait_ready(SERVER_NAME)
}

fn agents_join(pair: &mut Pair) -> Result<()> {
    let token = token(&pair.kubeconfig)?;
    let switch = pair.switch.path().to_owned();
    for (number, agent) in (1..).zip(pair.members.iter_mut().skip(1)) {
        let owner = format!(
            "hostname: {}\nrole: agent\nargs: [\"--server=https://{SERVER}:6443\", \"--token={token}\"]\n",
            agent.node
        );
        agent.start(&owner, Network::Plugged { switch: &switch, number })?;
    }
    for node in pair.agents() {
        pair.wait_ready(&node)?;
    }
    Ok(())
}

fn pods_run(pair: &mut Pair) -> Result<()> {
    let page = "mkdir /tmp/www; hostname > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
    pair.pod("web", SERVER_NAME, page)?;
    pair.pod("visitor", AGENT_NAME, "echo visitor on $(hostname); exec sleep 1000000")?;
    pair.kubectl.run(&["expose", "pod", "web", "--port=80", "--target-port=8080"])?;
    Ok(())
}

fn service_across(pair: &mut Pair) -> Result<()> {
    let visit = [
        "exec",
        "visitor",
        "--",
        "busybox",
        "timeout",
        "5",
        "wget",
        "-qO-",
        "http://web.default.svc.cluster.local/",
    ];
    pair.kubectl.wait(&visit, POD_LIMIT, |answer| answer == "web", |_| {})?;
    Ok(())
}

fn streams(pair: &mut Pair) -> Result<()> {
    pair.kubectl.wait(
        &["logs", "visitor"],
        TUNNEL_LIMIT,
        |log| log.contains("visitor on visitor"),
        |_| {},
    )?;
    let answer = pair.kubectl.run(&["exec", "visitor", "--", "sh", "-c", "echo $((6*7))"])?;
    ensure!(answer == "42", "exec printed {answer:?}");
    Ok(())
}

fn fills(pair: &mut Pair) -> Result<()> {
    for (index, agent) in pair.members.iter().skip(1).enumerate() {
        // The first one runs the visitor.
        let present = usize::from(index == 0);
        let bytes = memory::with_pods(&pair.kubectl, &agent.node, present)?;
        budget::record(&agent.place.board_dir, "agent-pss", bytes as f64)?;
    }
    Ok(())
}

/// The server stands still, as a board that hangs does; the agent loses its power and comes back alone.
fn restarts_alone(pair: &mut Pair) -> Result<()> {
    let [server, agent, ..] = pair.members.as_mut_slice() else { bail!("no agent") };
    server.machine()?.monitor("stop")?;
    let agent = agent.machine()?;
    agent.forget_lines()?;
    agent.monitor("system_reset")?;
    agent.wait_for_line("verified root", BOOT_LIMIT)?;
    agent.wait_for_line("going on with the recorded pods", BOOT_LIMIT)?;
    agent.wait_for_line("container started", BOOT_LIMIT)?;
    Ok(())
}

fn returns(pair: &mut Pair) -> Result<()> {
    let uid = ["get", "pod", "visitor", "-o", "jsonpath={.metadata.uid} {.status.phase}"];
    let [server, ..] = pair.members.as_mut_slice() else { bail!("no server") };
    server.machine()?.monitor("cont")?;
    for node in pair.agents() {
        pair.wait_ready(&node)?;
    }
    let state =
        "jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}";
    pair.kubectl.wait(
        &["get", "pod", "visitor", "-o", state],
        POD_LIMIT,
        |state| state == "true 1",
        |_| {},
    )?;
    let now = pair.kubectl.run(&uid)?;
    ensure!(now.ends_with("Running"), "the pod is {now:?}");
    service_across(pair)
}

/// What QEMU writes to the disks of a server and of agents while nobody asks anything of them. Of boards of one kind the
/// one that writes most counts.
fn idles(pair: &mut Pair) -> Result<()> {
    let before = pair.written()?;
    let end = Instant::now() + pair.idle;
    while Instant::now() < end {
        pair.follow();
        pause(IDLE_STEP);
    }
    let after = pair.written()?;
    let mut most: BTreeMap<&Path, f64> = BTreeMap::new();
    for (member, (before, after)) in pair.members.iter().zip(before.iter().zip(&after)) {
        let minutes = pair.idle.as_secs_f64() / 60.0;
        let written = after.saturating_sub(*before) as f64 * IDLE_MINUTES / minutes;
        println!("    {}: {:.3} MB in {IDLE_MINUTES} minutes", member.node, written / 1e6);
        let figure = most.entry(&member.place.board_dir).or_default();
        *figure = figure.max(written);
    }
    for (dir, figure) in most {
        budget::record(dir, "idle-written", figure)?;
    }
    let nodes: Vec<String> = pair.members.iter().map(|member| member.node.clone()).collect();
    nodes.iter().try_for_each(|node| pair.wait_ready(node))
}

fn no_crash(pair: &mut Pair) -> Result<()> {
    for Member { place, .. } in &pair.members {
        let log = String::from_utf8_lossy(&fs::read(&place.log)?).into_owned();
        let found = crashes(&log);
        ensure!(found.is_empty(), "{} shows: {}", place.log.display(), found.join(" / "));
    }
    Ok(())
}

impl Pair {
    /// The nodes' names of the agents.
    fn agents(&self) -> Vec<String> {
        self.members.iter().skip(1).map(|member| member.node.clone()).collect()
    }

    /// Reads what the boards print.
    fn follow(&mut self) {
        for machine in self.members.iter_mut().filter_map(|member| member.machine.as_mut()) {
            let _ = machine.follow();
        }
    }

    /// Bytes each board has written since its start.
    fn written(&mut self) -> Result<Vec<u64>> {
        self.members.iter_mut().map(|member| member.machine()?.written()).collect()
    }

    fn wait_ready(&mut self, node: &str) -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let kubectl = self.kubectl.clone();
        kubectl.wait(
            &["get", "node", node, "-o", path],
            BOOT_LIMIT,
            |ready| ready == "True",
            |_| self.follow(),
        )?;
        Ok(())
    }

    /// A pod of the preloaded image on one node, running.
    fn pod(&self, name: &str, node: &str, script: &str) -> Result<()> {
        let overrides = format!("{{\"spec\":{{\"nodeName\":\"{node}\"}}}}");
        self.kubectl.run(&[
            "run",
            name,
            "--image=busybox",
            "--image-pull-policy=IfNotPresent",
            "--overrides",
            &overrides,
            "--labels",
            &format!("app={name}"),
            "--command",
            "--",
            "sh",
            "-c",
            script,
        ])?;
        let phase = ["get", "pod", name, "-o", "jsonpath={.status.phase}"];
        self.kubectl.wait(&phase, POD_LIMIT, |phase| phase == "Running", |_| {})?;
        Ok(())
    }
}

/// The full join token: it names the authority, which the kubeconfig carries.
fn token(kubeconfig: &Path) -> Result<String> {
    let text = fs::read_to_string(kubeconfig)?;
    let data = text.lines().find_map(|l| l.trim().strip_prefix("certificate-authority-data: "));
    let data = data.context("the kubeconfig names no authority")?;
    let pem = base64::engine::general_purpose::STANDARD.decode(data.trim())?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &pem);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("K10{hex}::server:{PASSWORD}"))
}
