//! A node with pods on its bridge, an outside, and Services between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::{Value, json};

use crate::bridge::{BridgeNetwork, Config as BridgeConfig};
use crate::inputs::{Pod, Service, Slice};
use crate::nft::Family;
use crate::proxy::engine::Engine;
use crate::proxy::kernel::{Kernel, Sent};
use crate::proxy::{Config, Node};
use crate::tests::namespace::{Namespace, PATIENCE, ip};

/// How long packets that are dropped are waited for.
const SILENCE: Duration = Duration::from_millis(300);
pub(super) const NAMESPACE: &str = "shop";
pub(super) const NODE: &str = "192.0.2.1";
pub(super) const OUTSIDE: &str = "192.0.2.2";
/// A pod of another node, which the outside plays.
pub(super) const REMOTE: &str = "10.42.9.9";
pub(super) const GATEWAY: &str = "10.42.7.1";

/// Who answered, and whom it saw asking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Answer {
    pub(super) name: String,
    pub(super) peer: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Tcp,
    Udp,
}

/// Where questions come from.
pub(super) enum From<'a> {
    Node,
    Namespace(&'a Namespace),
}

impl From<'_> {
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Node => work(),
            Self::Namespace(namespace) => namespace.run(work),
        }
    }

    pub(super) fn ask(&self, over: Over, target: &str) -> io::Result<Answer> {
        let target: SocketAddr = target.parse().unwrap();
        self.run(|| match over {
            Over::Tcp => ask_tcp(target, PATIENCE),
            Over::Udp => ask_udp(&udp(target), PATIENCE),
        })
    }

    /// Whether that name answers soon.
    pub(super) fn is_answered(&self, target: &str, name: &str) -> bool {
        let target: SocketAddr = target.parse().unwrap();
        self.run(|| ask_tcp(target, SILENCE)).is_ok_and(|answer| answer.name == name)
    }

    /// That nothing comes back.
    #[track_caller]
    pub(super) fn is_dropped(&self, target: &str) {
        let target: SocketAddr = target.parse().unwrap();
        let error = self.run(|| ask_tcp(target, SILENCE)).unwrap_err();
        let dropped = [ErrorKind::TimedOut, ErrorKind::WouldBlock, ErrorKind::PermissionDenied];
        assert!(dropped.contains(&error.kind()), "{target}: {error}");
    }

    #[track_caller]
    pub(super) fn is_refused(&self, target: &str) {
        for over in [Over::Tcp, Over::Udp] {
            let error = self.ask(over, target).unwrap_err();
            // The node's own datagrams are refused before they are sent.
            let refused = match (over, self) {
                (Over::Udp, Self::Node) => {
                    [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied]
                        .contains(&error.kind())
                }
                _ => error.kind() == ErrorKind::ConnectionRefused,
            };
            assert!(refused, "{over:?} {target}: {error}");
        }
    }

    /// That it is answered so with both protocols.
    #[track_caller]
    pub(super) fn gets(&self, target: &str, name: &str, peer: &str) {
        for over in [Over::Tcp, Over::Udp] {
            let answer = self.ask(over, target);
            let answer = answer.unwrap_or_else(|error| panic!("{over:?} {target}: {error}"));
            assert_eq!((&*answer.name, &*answer.peer), (name, peer), "{over:?} {target}");
        }
    }

    /// The names that answer in many tries.
    pub(super) fn names(&self, target: &str) -> BTreeSet<String> {
        (0..24).map(|_| self.ask(Over::Tcp, target).unwrap().name).collect()
    }
}

fn ask_tcp(target: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(answer(&text))
}

/// A socket that only takes what comes from the target.
pub(super) fn udp(target: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(target).unwrap();
    socket
}

pub(super) fn ask_udp(socket: &UdpSocket, patience: Duration) -> io::Result<Answer> {
    // What came of an earlier question does not matter.
    socket.take_error()?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"?")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(answer(std::str::from_utf8(&buffer[..length]).unwrap()))
}

fn answer(text: &str) -> Answer {
    let (name, peer) = text.split_once(' ').unwrap();
    Answer { name: name.to_owned(), peer: peer.to_owned() }
}

/// Says its name and who asked, over TCP and UDP.
pub(super) struct Server {
    tcp: Arc<TcpListener>,
    udp: Arc<UdpSocket>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// To be called in the namespace it shall serve in.
    pub(super) fn start(name: &str, port: u16) -> Self {
        Self::start_at(name, (Ipv4Addr::UNSPECIFIED, port).into())
    }

    pub(super) fn start_at(name: &str, address: SocketAddr) -> Self {
        let tcp = Arc::new(TcpListener::bind(address).unwrap());
        let udp = Arc::new(UdpSocket::bind(address).unwrap());
        let (listener, socket) = (tcp.clone(), udp.clone());
        let (first, second) = (name.to_owned(), name.to_owned());
        let streams = std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                drop(io::Write::write_all(
                    &mut stream,
                    format!("{first} {}", peer.ip()).as_bytes(),
                ));
            }
        });
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 128];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                drop(socket.send_to(format!("{second} {}", peer.ip()).as_bytes(), peer));
            }
        });
        Self { tcp, udp, threads: vec![streams, datagrams] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = shutdown(self.tcp.as_raw_fd(), Shutdown::Both);
        // An unconnected socket refuses, but wakes who waits.
        let _ = shutdown(self.udp.as_raw_fd(), Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// An endpoint for a slice.
pub(super) fn endpoint(
    address: &str,
    node: &str,
    (ready, serving, terminating): (bool, bool, bool),
) -> Value {
    json!({"addresses": [address], "nodeName": node,
           "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

/// A ready endpoint on this node.
pub(super) fn here(address: &str) -> Value {
    endpoint(address, "here", (true, true, false))
}

pub(super) fn there(address: &str) -> Value {
    endpoint(address, "there", (true, true, false))
}

/// What is in the cluster and around it.
pub(super) struct World {
    pub(super) outside: Namespace,
    pub(super) pods: Vec<Namespace>,
    pub(super) engine: Engine,
    pub(super) kernel: Kernel,
    slices: BTreeMap<String, Arc<Slice>>,
    servers: Vec<Server>,
    _bridge: BridgeNetwork,
    _state: tempfile::TempDir,
}

pub(super) fn config() -> Config {
    Config {
        node_name: "here".to_owned(),
        node_ips: vec![NODE.parse().unwrap()],
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        node_ports: 30_000..=32_767,
        cluster_dns: "10.43.0.10".parse().unwrap(),
        bridge: "tbridge0".to_owned(),
        masquerade_all: false,
    }
}

/// Runs a test as the node: on a thread in a namespace of its own, once with the bridge's packets passing netfilter by
/// themselves and once without, as kernels have it or have not.
pub(super) fn on_node(pods: usize, test: impl Fn(World) + Send + Clone + 'static) {
    for bridge_calls in ["0", "1"] {
        let test = test.clone();
        let run = move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
            sys::namespace::loopback_up().unwrap();
            // Tests ask more often than refusals are sent.
            std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let world = runtime.block_on(World::new(pods));
            let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            match std::fs::write(path, bridge_calls) {
                Ok(()) => {}
                // Without the module there is only one way.
                Err(_) if bridge_calls == "0" => {}
                Err(_) => return,
            }
            test(world);
        };
        if let Err(panic) = std::thread::spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl World {
    async fn new(count: usize) -> Self {
        let outside = Namespace::new();
        ip("link add up0 type veth peer name up1");
        ip(&format!("link set up1 netns {}", outside.path().display()));
        ip(&format!("addr add {NODE}/24 dev up0"));
        ip("link set up0 up");
        outside.run(|| sys::namespace::loopback_up().unwrap());
        for address in [OUTSIDE, "192.0.2.3"] {
            outside.ip(&format!("addr add {address}/24 dev up1"));
        }
        outside.ip(&format!("addr add {REMOTE}/32 dev up1"));
        outside.ip("link set up1 up");
        for range in ["10.42.7.0/24", "10.43.0.0/16", "198.51.100.0/24"] {
            outside.ip(&format!("route add {range} via {NODE}"));
        }
        ip(&format!("route add 10.42.9.0/24 via {OUTSIDE}"));
        ip(&format!("route add default via {OUTSIDE}"));
        let state = tempfile::tempdir().unwrap();
        let cluster_cidr = Some("10.42.0.0/16".parse().unwrap());
        let bridge = "tbridge0".to_owned();
        let bridge = BridgeConfig { bridge, cluster_cidr, ..BridgeConfig::new(state.path()) };
        let bridge = BridgeNetwork::new(bridge).unwrap();
        bridge.set_pod_cidr("10.42.7.0/24").await.unwrap();
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for at in 0..count {
            let pod = Namespace::new();
            bridge.attach(&format!("pod{at}"), &pod.path()).await.unwrap();
            servers.push(pod.run(|| Server::start(&format!("pod{at}"), 8080)));
            pods.push(pod);
        }
        let remote = format!("{REMOTE}:8080").parse().unwrap();
        servers.push(outside.run(|| Server::start_at("remote", remote)));
        let mut world = Self {
            outside,
            pods,
            engine: Engine::new(Node::new(&config())),
            kernel: Kernel::open(Family::V4).unwrap(),
            slices: BTreeMap::new(),
            servers,
            _bridge: bridge,
            _state: state,
        };
        world.apply();
        world
    }

    pub(super) fn keep(&mut self, server: Server) {
        self.servers.push(server);
    }

    pub(super) fn pod(&self, at: usize) -> From<'_> {
        From::Namespace(&self.pods[at])
    }

    pub(super) fn outside(&self) -> From<'_> {
        From::Namespace(&self.outside)
    }

    /// Makes or changes a Service; its port 80 is there with both protocols.
    pub(super) fn service(&mut self, name: &str, spec: Value, ingress: &[&str]) {
        let service = service(name, spec, ingress);
        self.engine.change_service(&(NAMESPACE.to_owned(), name.to_owned()), Some(service));
    }

    pub(super) fn no_service(&mut self, name: &str) {
        self.engine.change_service(&(NAMESPACE.to_owned(), name.to_owned()), None);
    }

    /// Replaces the endpoints of a Service; they listen on port 8080.
    pub(super) fn endpoints(&mut self, name: &str, endpoints: &[Value]) {
        let slice = slice(name, endpoints);
        let old = self.slices.insert(name.to_owned(), slice.clone());
        let key = (NAMESPACE.to_owned(), name.to_owned());
        self.engine.change_slice(&key, old.as_deref(), Some(slice));
    }

    pub(super) fn pod_object(&mut self, name: &str, pod: Option<Value>) {
        let pod = pod.map(|pod| Arc::new(serde_json::from_value::<Pod>(pod).unwrap()));
        self.engine.change_pod(&(NAMESPACE.to_owned(), name.to_owned()), pod);
    }

    pub(super) fn apply(&mut self) -> Sent {
        self.kernel.update(&mut self.engine).unwrap_or_else(|error| panic!("{error}"))
    }
}

pub(super) fn service(name: &str, mut spec: Value, ingress: &[&str]) -> Arc<Service> {
    let node_port = spec.as_object_mut().unwrap().remove("nodePort").unwrap_or(json!(0));
    if spec["ports"].is_null() {
        spec["ports"] = json!([
            {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": node_port},
            {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": node_port},
        ]);
    }
    let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
    let object = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
                        "status": {"loadBalancer": {"ingress": ingress}}});
    Arc::new(serde_json::from_value(object).unwrap())
}

pub(super) fn slice(name: &str, endpoints: &[Value]) -> Arc<Slice> {
    let object = json!({
        "metadata": {"name": name, "namespace": NAMESPACE,
                     "labels": {"kubernetes.io/service-name": name}},
        "endpoints": endpoints,
        "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}],
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

pub(super) fn pod_ip(at: usize) -> String {
    IpAddr::from([10, 42, 7, 2 + u8::try_from(at).unwrap()]).to_string()
}
