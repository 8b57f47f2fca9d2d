//! The test of two boards on one virtual network: one is the server, the other joins it as an agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;

use crate::PairArgs;
use crate::board::Board;
use crate::budget;
use crate::kubectl::Kubectl;
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
const AGENT_NAME: &str = "field";
const TUNNEL_LIMIT: Duration = Duration::from_secs(60);

/// One of the two boards: what it is, and where its disk and log lie.
struct Member {
    board: Board,
    place: Place,
}

struct Pair {
    members: [Member; 2],
    switch: Switch,
    _sockets: tempfile::TempDir,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    forward: u16,
    server: Option<Machine>,
    agent: Option<Machine>,
}

const CHECKS: &[Check<Pair>] = &[
    ("the server boots to a Ready node", server_boots),
    ("the agent joins with the token and becomes Ready", agent_joins),
    ("pods run on both boards", pods_run),
    ("a pod reaches a Service across the boards, by name", service_across),
    ("log and exec of the agent's pod go through the tunnel", streams),
    ("the agent runs 10 pods; its memory is recorded", fills),
    ("the agent restarts without the server and runs its pod again", restarts_alone),
    ("the agent's node is Ready again with the same pod", returns),
    ("no board shows a crash", no_crash),
];

/// Runs the checks.
pub(crate) fn run(args: &PairArgs) -> Result<()> {
    let server = &args.place.board;
    let agent = args.agent_board.as_ref().unwrap_or(server);
    let member = |board: &String, part: &str| {
        Ok::<_, anyhow::Error>(Member {
            board: Board::read(&args.place.root, board)?,
            place: Place::new(&args.place.dir_of(board), part)?,
        })
    };
    let members = [member(server, "pair-server")?, member(agent, "pair-agent")?];
    let kubeconfig = args.place.dir().join("pair-server/kubeconfig.yaml");
    let sockets = tempfile::Builder::new().prefix("copepod-").tempdir()?;
    let mut pair = Pair {
        members,
        switch: Switch::start(&sockets.path().join("switch"))?,
        _sockets: sockets,
        kubectl: Kubectl::new(&args.kubectl.program(), &kubeconfig),
        kubeconfig,
        forward: args.forward,
        server: None,
        agent: None,
    };
    let show = |pair: &Pair| pair.members.iter().for_each(|member| show_tail(&member.place));
    let count = run_checks(CHECKS, &mut pair, show);
    drop(pair);
    count.report(&format!("{server} with agent {agent}"))
}

fn server_boots(pair: &mut Pair) -> Result<()> {
    let owner = format!("args: [\"--token={PASSWORD}\"]\n");
    let network = Network::Gateway { forward: pair.forward, switch: pair.switch.path() };
    pair.server = Some(pair.start(0, &owner, network)?);
    let server = pair.server.as_mut().context("the server does not run")?;
    server.kubeconfig(&pair.kubeconfig, BOOT_LIMIT)?;
    pair.wait_ready(SERVER_NAME)
}

fn agent_joins(pair: &mut Pair) -> Result<()> {
    let token = token(&pair.kubeconfig)?;
    let owner = format!(
        "hostname: {AGENT_NAME}\nrole: agent\nargs: [\"--server=https://{SERVER}:6443\", \"--token={token}\"]\n"
    );
    pair.agent =
        Some(pair.start(1, &owner, Network::Plugged { switch: pair.switch.path(), number: 1 })?);
    pair.wait_ready(AGENT_NAME)
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
    let bytes = memory::with_pods(&pair.kubectl, AGENT_NAME, 1)?;
    let [_, agent] = &pair.members;
    budget::record(&agent.place.board_dir, "agent-pss", bytes as f64)
}

/// The server stands still, as a board that hangs does; the agent loses its power and comes back alone.
fn restarts_alone(pair: &mut Pair) -> Result<()> {
    pair.server.as_mut().context("the server does not run")?.monitor("stop")?;
    let agent = pair.agent.as_mut().context("the agent does not run")?;
    agent.forget_lines()?;
    agent.monitor("system_reset")?;
    agent.wait_for_line("verified root", BOOT_LIMIT)?;
    agent.wait_for_line("going on with the recorded pods", BOOT_LIMIT)?;
    agent.wait_for_line("container started", BOOT_LIMIT)?;
    Ok(())
}

fn returns(pair: &mut Pair) -> Result<()> {
    let uid = ["get", "pod", "visitor", "-o", "jsonpath={.metadata.uid} {.status.phase}"];
    pair.server.as_mut().context("the server does not run")?.monitor("cont")?;
    pair.wait_ready(AGENT_NAME)?;
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

fn no_crash(pair: &mut Pair) -> Result<()> {
    for Member { place, .. } in &pair.members {
        let log = String::from_utf8_lossy(&fs::read(&place.log)?).into_owned();
        let found = crashes(&log);
        ensure!(found.is_empty(), "{} shows: {}", place.log.display(), found.join(" / "));
    }
    Ok(())
}

impl Pair {
    /// A fresh disk with this text as the owner's settings, and the board on it.
    fn start(&self, number: usize, owner: &str, network: Network<'_>) -> Result<Machine> {
        let Member { board, place } = self.members.get(number).context("two boards")?;
        place.prepare(board, true)?;
        owner::replace(&place.disk, owner)?;
        Machine::start(board, place, network, false)
    }

    fn wait_ready(&mut self, node: &str) -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let (server, agent) = (&mut self.server, &mut self.agent);
        let look = |_: &str| {
            for machine in [&mut *server, &mut *agent].into_iter().flatten() {
                let _ = machine.follow();
            }
        };
        self.kubectl.wait(&["get", "node", node, "-o", path], BOOT_LIMIT, |a| a == "True", look)?;
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
