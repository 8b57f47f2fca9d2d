//! How fast pods send to each other, next to what the kernel does without us in the same run; and what the node's DNS
//! server answers to a pod.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Lab, Machine};

use crate::figures::Figures;
use crate::{number, numbers};

const TIME: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
const CHUNK: usize = 256 << 10;
const PORT: u16 = 5201;
const DNS: &str = "10.43.0.10";
/// The pods: name, node, and the seconds they sleep, by which their process is found.
const PODS: [(&str, &str, &str); 3] =
    [("one", "left", "86401"), ("near", "left", "86402"), ("far", "right", "86403")];

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    eprintln!("bench: pods to pods");
    let mut lab = Lab::default();
    let mut server = lab.machine("server");
    server.start(&["--disable-agent"]);
    let mut nodes = [lab.machine("left"), lab.machine("right")];
    for node in &mut nodes {
        node.spawn_agent(&server, &[]);
        crate::inside(&server, &["ready", "--node", node.name()])?;
    }
    let [left, right] = &nodes;
    let [one, near, far] = pods(&server, [left, left, right])?;
    let within = speed(&one.0, &near.0, near.1)?;
    let across = speed(&one.0, &far.0, far.1)?;
    let veth = speed(&place(left), &place(right), right.address().parse()?)?;
    let vxlan = plain_vxlan(left, right)?;
    figures.crossing("pod to pod on one node", within, "plain veth", veth);
    figures.crossing("pod to pod across nodes", across, "plain VXLAN", vxlan);
    let answers = run(&one.0, &["dns", DNS])?;
    figures.dns(&numbers(&answers)?);
    Ok(())
}

/// Where to run something: the words before the command.
type Place = Vec<String>;

fn place(machine: &Machine) -> Place {
    let command = machine.enter(&["--net"]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Starts the pods; their network namespaces and addresses.
fn pods(server: &Machine, nodes: [&Machine; 3]) -> Result<[(Place, Ipv4Addr); 3]> {
    let mut found = Vec::new();
    for ((name, node, seconds), machine) in PODS.into_iter().zip(nodes) {
        let image = testkit::NAMES[0];
        let manifest = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}, \
             terminationGracePeriodSeconds: 0, containers: [{{name: main, image: \"{image}\", \
             command: [sleep, \"{seconds}\"]}}]}}}}"
        );
        server.apply(&manifest).map_err(anyhow::Error::msg)?;
        server.ok(&["wait", "--for=condition=Ready", "pod", name, "--timeout=60s"]);
        let address = server.ok(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"]);
        let pid = machine.container_process(seconds).context("the pod's process")?;
        let net = format!("--net=/proc/{pid}/ns/net");
        found.push((vec!["nsenter".to_owned(), net], address.trim().parse()?));
    }
    found.try_into().ok().context("three pods")
}

/// Gbit/s over a VXLAN of two nodes that has nothing to do with pods.
fn plain_vxlan(left: &Machine, right: &Machine) -> Result<f64> {
    for (node, number, other) in [(left, 1, right), (right, 2, left)] {
        let script = format!(
            "ip link add plain type vxlan id 9 dstport 4789 remote {} dev eth0 && \
             ip addr add 198.51.100.{number}/24 dev plain && ip link set plain up",
            other.address()
        );
        node.run("sh", &["-c", &script]).map_err(anyhow::Error::msg)?;
    }
    speed(&place(left), &place(right), Ipv4Addr::new(198, 51, 100, 2))
}

/// Gbit/s of one TCP connection between two places.
fn speed(from: &Place, to: &Place, address: Ipv4Addr) -> Result<f64> {
    let sink = command(to, &["sink"])?.stdout(Stdio::piped()).spawn()?;
    run(from, &["send", &address.to_string()])?;
    let output = sink.wait_with_output()?;
    ensure!(output.status.success(), "the receiver failed");
    number(&String::from_utf8_lossy(&output.stdout))
}

fn command(place: &Place, args: &[&str]) -> Result<Command> {
    let (first, rest) = place.split_first().context("a place")?;
    let mut command = Command::new(first);
    command.args(rest).arg(std::env::current_exe()?).args(args);
    Ok(command)
}

fn run(place: &Place, args: &[&str]) -> Result<String> {
    let output = command(place, args)?.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bench {}: {error}", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes one connection, reads to its end and prints Gbit/s.
pub(crate) fn sink() -> Result<()> {
    let (mut stream, _) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?.accept()?;
    let (mut buffer, mut bytes, begin) = (vec![0; CHUNK], 0u64, Instant::now());
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => bytes += length as u64,
        }
    }
    println!("{}", bytes as f64 * 8e-9 / begin.elapsed().as_secs_f64());
    Ok(())
}

/// Sends for a while to the sink at the address.
pub(crate) fn send(address: Ipv4Addr) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let target = SocketAddr::from((address, PORT));
    let mut stream = loop {
        match TcpStream::connect_timeout(&target, PATIENCE) {
            Ok(stream) => break stream,
            Err(error) => ensure!(Instant::now() < end, "connect to {target}: {error}"),
        }
        std::thread::park_timeout(Duration::from_millis(10));
    };
    let (chunk, begin) = (vec![7; CHUNK], Instant::now());
    while begin.elapsed() < TIME {
        stream.write_all(&chunk)?;
    }
    Ok(())
}
