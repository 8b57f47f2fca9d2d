//! How fast pods send to pods of another node, next to what the kernel does without us. Run by hand:
//! `cargo test --release -p network --lib -- --ignored --nocapture throughput`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, eventually};
use crate::overlay::Backend;
use crate::tests::namespace::{Namespace, PATIENCE, connect};

const TIME: Duration = Duration::from_secs(2);
const CHUNK: usize = 256 << 10;

/// Gigabits a second over one TCP connection.
fn speed(from: &Namespace, to: &Namespace, address: IpAddr) -> f64 {
    let listener = to.run(|| TcpListener::bind("0.0.0.0:0").unwrap());
    let target = SocketAddr::new(address, listener.local_addr().unwrap().port());
    let mut stream = from.run(|| TcpStream::connect_timeout(&target, PATIENCE).unwrap());
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
        let start = Instant::now();
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            bytes += length;
        }
        bytes as f64 * 8e-9 / start.elapsed().as_secs_f64()
    });
    let (chunk, start) = (vec![7; CHUNK], Instant::now());
    while start.elapsed() < TIME {
        stream.write_all(&chunk).unwrap();
    }
    drop(stream);
    receiver.join().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn throughput() {
    for backend in [Backend::VXLAN, Backend::HostGw] {
        let cluster = Cluster::start(2, backend);
        let (one, two, near) = (cluster.pod(1), cluster.pod(2), cluster.pod(1));
        eventually("they reach each other", || {
            connect(&one.namespace, &two.namespace, two.address).is_ok()
        });
        let name = backend.name();
        let across = speed(&one.namespace, &two.namespace, two.address);
        let within = speed(&one.namespace, &near.namespace, near.address);
        println!("{name}: pods across nodes {across:.2} Gbit/s, on one node {within:.2} Gbit/s");
    }
    let cluster = Cluster::start(2, Backend::None);
    let (one, two) = (&cluster.node(1).namespace, &cluster.node(2).namespace);
    for (node, number, other) in [(one, 1, 2), (two, 2, 1)] {
        node.ip(&format!(
            "link add plain type vxlan id 9 dstport 4789 remote 192.0.2.{other} dev eth0"
        ));
        node.ip(&format!("addr add 198.51.100.{number}/24 dev plain"));
        node.ip("link set plain up");
    }
    let veth = speed(one, two, "192.0.2.2".parse().unwrap());
    let vxlan = speed(one, two, "198.51.100.2".parse().unwrap());
    println!("without pods: veth {veth:.2} Gbit/s, VXLAN {vxlan:.2} Gbit/s");
}
