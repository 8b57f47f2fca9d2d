//! Packets of pods from node to node, over real links.

use std::net::UdpSocket;

use super::cluster::{CLUSTER, Cluster, OUTSIDE, Pod, eventually};
use crate::overlay::Backend;
use crate::overlay::addressing::Mac;
use crate::tests::namespace::{Namespace, PATIENCE, connect};

const PUBLIC: &str = "flannel.alpha.coreos.com/public-ip";
const DATA: &str = "flannel.alpha.coreos.com/backend-data";

/// Both directions with TCP, under the pods' own addresses.
fn reach_each_other(one: &Pod, two: &Pod) -> bool {
    let there = connect(&one.namespace, &two.namespace, two.address);
    let back = connect(&two.namespace, &one.namespace, one.address);
    there.ok() == Some(one.address) && back.ok() == Some(two.address)
}

/// A datagram of `size` bytes with its headers, whole.
fn datagram(one: &Pod, two: &Pod, size: usize) {
    const HEADERS: usize = 28;
    let receiver = two.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = one.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let target = (two.address, receiver.local_addr().unwrap().port());
    sender.send_to(&vec![7; size - HEADERS], target).unwrap();
    let mut buffer = vec![0; size];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!((length, from.ip()), (size - HEADERS, one.address));
}

/// How many packets were cut up in a namespace.
fn fragments(namespace: &Namespace) -> u64 {
    let table = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut rows = table.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let at = names.split(' ').position(|name| name == "FragCreates").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

fn crosses(backend: Backend, mtu: usize) {
    let cluster = Cluster::start(3, backend);
    let pods: Vec<Pod> = (1..=3).map(|number| cluster.pod(number)).collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let what = format!("pod {from} and pod {to} reach each other");
        eventually(&what, || reach_each_other(&pods[from], &pods[to]));
        datagram(&pods[from], &pods[to], mtu);
    }
    for number in 1..=3 {
        let node = cluster.node(number);
        assert_eq!(fragments(&node.namespace), 0, "packets of the full size fit as they are");
        let link = pods[number - 1].namespace.ip("-o link show eth0");
        assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
        assert!(node.namespace.ip("-o link show copepod0").contains(&format!("mtu {mtu} ")));
        let seen = connect(&pods[number - 1].namespace, &cluster.wire, OUTSIDE.parse().unwrap());
        assert_eq!(seen.unwrap().to_string(), format!("192.0.2.{number}"), "masqueraded");
        // The node itself reaches pods of other nodes.
        let other = &pods[number % 3];
        connect(&node.namespace, &other.namespace, other.address).unwrap();
    }
    assert_eq!(cluster.api.patches(), 3, "each node announced itself once");
}

#[test]
fn pods_reach_each_other_through_the_tunnel() {
    crosses(Backend::VXLAN, 1450);
}

#[test]
fn pods_reach_each_other_over_plain_routes() {
    crosses(Backend::HostGw, 1500);
}

#[test]
fn the_tunnel_is_flannels() {
    let cluster = Cluster::start(2, Backend::VXLAN);
    let (one, two) = (cluster.node(1), cluster.node(2));
    eventually("two entries of each kind", || one.entries().len() == 3 && two.entries().len() == 3);
    let link = one.namespace.ip("-d -o link show flannel.1");
    for part in
        ["mtu 1450", "vxlan id 1 local 192.0.2.1 dev eth0", "dstport 8472", "nolearning", ",UP"]
    {
        assert!(link.contains(part), "{part}: {link}");
    }
    assert!(one.namespace.ip("-o -4 addr show flannel.1").contains("10.42.1.0/32"));
    let mac = Mac::of_node("node2");
    let entries = one.entries();
    assert!(entries[0].starts_with("10.42.2.0/24 via 10.42.2.0 dev flannel.1"), "{entries:?}");
    assert!(entries[0].contains("onlink"), "{entries:?}");
    assert_eq!(entries[1], format!("10.42.2.0 lladdr {mac} PERMANENT"));
    assert_eq!(entries[2], format!("{mac} dst 192.0.2.2 self permanent"));
    let said = |name: &str| {
        cluster.api.annotation("node2", &format!("flannel.alpha.coreos.com/{name}")).unwrap()
    };
    assert_eq!(said("public-ip"), "192.0.2.2");
    assert_eq!(said("backend-type"), "vxlan");
    assert_eq!(said("kube-subnet-manager"), "true");
    assert_eq!(said("backend-data"), format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
    assert_eq!(one.uplink().unwrap().interface, "eth0");
}

fn follows_a_new_address(backend: Backend) {
    let cluster = Cluster::start(2, backend);
    let (one, two) = (cluster.pod(1), cluster.pod(2));
    eventually("they reach each other", || reach_each_other(&one, &two));
    let moved = cluster.node(2);
    moved.namespace.ip("addr del 192.0.2.2/24 dev eth0");
    moved.namespace.ip("addr add 192.0.2.77/24 dev eth0");
    moved.namespace.ip(&format!("route replace default via {OUTSIDE}"));
    eventually("the new address is announced", || {
        cluster.api.annotation("node2", PUBLIC).as_deref() == Some("192.0.2.77")
    });
    eventually("they reach each other again", || reach_each_other(&one, &two));
    assert_eq!(moved.uplink().unwrap().address.to_string(), "192.0.2.77");
    let entries = cluster.node(1).entries();
    assert!(!entries.iter().any(|entry| entry.contains("192.0.2.2 ")), "{entries:?}");
}

#[test]
fn a_new_address_is_followed_by_the_tunnel() {
    follows_a_new_address(Backend::VXLAN);
}

#[test]
fn a_new_address_is_followed_by_plain_routes() {
    follows_a_new_address(Backend::HostGw);
}

#[test]
fn nodes_that_go_leave_nothing() {
    for backend in [Backend::VXLAN, Backend::HostGw] {
        let mut cluster = Cluster::start(3, backend);
        let (one, two) = (cluster.pod(1), cluster.pod(2));
        eventually("they reach each other", || reach_each_other(&one, &two));
        let per_node = if backend == Backend::HostGw { 1 } else { 3 };
        let count = |cluster: &Cluster| cluster.node(1).entries().len();
        eventually("two other nodes", || count(&cluster) == 2 * per_node);
        cluster.stop(3);
        cluster.api.delete("node3");
        eventually("one other node", || count(&cluster) == per_node);
        cluster.api.set_ranges("node2", &["10.42.99.0/24"]);
        eventually("another range", || {
            let entries = cluster.node(1).entries();
            entries.len() == per_node && entries[0].starts_with("10.42.99.0/24")
        });
        cluster.stop(1);
        cluster.run(1, Backend::None);
        eventually("nothing is left", || {
            count(&cluster) == 0
                && !cluster.node(1).namespace.ip("-o link show").contains("flannel")
        });
    }
}

#[test]
fn a_restart_keeps_what_is_right() {
    let mut cluster = Cluster::start(3, Backend::VXLAN);
    let (one, two) = (cluster.pod(1), cluster.pod(2));
    eventually("they reach each other", || reach_each_other(&one, &two));
    eventually("two other nodes", || cluster.node(1).entries().len() == 6);
    let index = |cluster: &Cluster| {
        let link = cluster.node(1).namespace.ip("-o link show flannel.1");
        link.split(':').next().unwrap().to_owned()
    };
    let before = index(&cluster);
    cluster.stop(1);
    assert!(reach_each_other(&one, &two), "pods go on without the process");
    // Meanwhile a node goes, and somebody leaves things behind.
    cluster.stop(3);
    cluster.api.delete("node3");
    let namespace = &cluster.node(1).namespace;
    namespace.ip("route add 10.42.200.0/24 via 10.42.200.0 dev flannel.1 onlink");
    namespace.ip("neigh add 10.42.200.0 lladdr 02:00:00:00:00:aa dev flannel.1 nud permanent");
    namespace.ip("addr add 10.42.77.0/32 dev flannel.1");
    namespace.ip("link set flannel.1 mtu 1300");
    let patches = cluster.api.patches();
    cluster.run(1, Backend::VXLAN);
    eventually("only node2 is left", || {
        let entries = cluster.node(1).entries();
        entries.len() == 3 && !entries.iter().any(|entry| entry.contains("10.42.200."))
    });
    assert_eq!(index(&cluster), before, "the link was kept");
    let namespace = &cluster.node(1).namespace;
    let addresses = namespace.ip("-o -4 addr show flannel.1");
    assert!(addresses.contains("10.42.1.0/32") && !addresses.contains("10.42.77.0"), "{addresses}");
    assert!(namespace.ip("-o link show flannel.1").contains("mtu 1450 "));
    assert!(reach_each_other(&one, &two));
    assert_eq!(cluster.api.patches(), patches, "nothing new to announce");

    // A tunnel of another kind cannot be changed, only made anew.
    cluster.stop(1);
    let namespace = &cluster.node(1).namespace;
    namespace.ip("link del flannel.1");
    namespace.ip("link add flannel.1 type vxlan id 1 dstport 4789 dev eth0");
    cluster.run(1, Backend::VXLAN);
    eventually("they reach each other again", || reach_each_other(&one, &two));
}

#[test]
fn a_reboot_without_the_server_finds_the_other_nodes() {
    let mut cluster = Cluster::start(2, Backend::VXLAN);
    let (one, two) = (cluster.pod(1), cluster.pod(2));
    eventually("they reach each other", || reach_each_other(&one, &two));
    eventually("the record is written", || cluster.node(1).entries().len() == 3);
    cluster.api.set_away(true);
    cluster.stop(1);
    cluster.node(1).namespace.ip("link del flannel.1");
    assert_eq!(cluster.node(1).entries(), [""; 0]);
    cluster.run(1, Backend::VXLAN);
    eventually("they reach each other again", || reach_each_other(&one, &two));
}

#[test]
fn what_somebody_breaks_is_mended() {
    let cluster = Cluster::start(2, Backend::VXLAN);
    let (one, two) = (cluster.pod(1), cluster.pod(2));
    eventually("they reach each other", || reach_each_other(&one, &two));
    let node = cluster.node(1);
    for damage in [
        "link del flannel.1",
        "route del 10.42.2.0/24",
        "link set flannel.1 down",
        "link set flannel.1 address 02:00:00:00:00:aa",
    ] {
        node.namespace.ip(damage);
        eventually(damage, || {
            node.entries().len() == 3
                && node
                    .namespace
                    .ip("-o link show flannel.1")
                    .contains(&Mac::of_node("node1").to_string())
        });
        eventually(damage, || reach_each_other(&one, &two));
    }
    // A peer with another tunnel end, as after the machine was replaced.
    let data = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:bb"}"#;
    cluster.api.annotate("node2", DATA, data);
    eventually("announced again by the node", || {
        cluster.api.annotation("node2", DATA).is_some_and(|text| text != data)
    });
    eventually("they reach each other", || reach_each_other(&one, &two));
}

#[test]
fn a_smaller_link_makes_smaller_packets() {
    let cluster = Cluster::start(2, Backend::VXLAN);
    let node = cluster.node(1);
    eventually("a tunnel", || node.entries().len() == 3);
    node.namespace.ip("link set eth0 mtu 1400");
    let mtu = |link: &str| node.namespace.ip(&format!("-o link show {link}")).contains("mtu 1350 ");
    eventually("tunnel and bridge", || mtu("flannel.1") && mtu("copepod0"));
    let pod = cluster.pod(1);
    assert!(pod.namespace.ip("-o link show eth0").contains("mtu 1350 "));
}

#[test]
fn somebody_elses_tunnel_is_left_alone() {
    let mut cluster = Cluster::start(1, Backend::None);
    cluster.stop(1);
    cluster.node(1).namespace.ip("link add flannel.1 type vxlan id 1 dstport 8472 dev eth0");
    cluster.node(1).namespace.ip("link set flannel.1 up");
    cluster.node(1).namespace.ip("route add 10.42.9.0/24 via 10.42.9.0 dev flannel.1 onlink");
    cluster.run(1, Backend::None);
    eventually("it runs", || cluster.node(1).uplink().is_some());
    cluster.stop(1);
    assert_eq!(cluster.node(1).entries().len(), 1);
    assert_eq!(cluster.api.patches(), 0);
    assert!(CLUSTER.starts_with("10.42."));
}
