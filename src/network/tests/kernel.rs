//! The network in the kernel: a node, pods and an outside world, each a network namespace.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};

use super::namespace::{Namespace, PATIENCE, connect, ip};
use crate::bridge::{BridgeNetwork, Config};

/// Runs a test as the node: on a thread in a namespace of its own.
fn on_node<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        sys::namespace::loopback_up().unwrap();
        let state = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(state.path().to_owned()));
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
    assert!(
        !fs::read_to_string("/proc/net/dev").unwrap().contains("tbridge"),
        "nothing leaks into the host"
    );
}

fn config(state: &Path) -> Config {
    Config { bridge: "tbridge0".to_owned(), mtu: 1400, ..Config::new(state) }
}

#[test]
fn pods_reach_each_other_and_the_node() {
    on_node(|state| async move {
        let network = BridgeNetwork::new(config(&state)).unwrap();
        let (one, two) = (Namespace::new(), Namespace::new());
        assert!(!network.is_ready());
        assert_eq!(
            network.attach("one", &one.path()).await.unwrap_err().to_string(),
            "the node has no pod cidr yet"
        );
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        assert!(network.is_ready());
        let first = network.attach("one", &one.path()).await.unwrap().ips[0];
        let second = network.attach("two", &two.path()).await.unwrap().ips[0];
        assert_eq!([first.to_string(), second.to_string()], ["10.42.7.2", "10.42.7.3"]);
        assert_eq!(
            connect(&one, &two, second).unwrap(),
            first,
            "pods see each other's own address"
        );

        let gateway = one.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let node = UdpSocket::bind("10.42.7.1:0").unwrap();
        node.set_read_timeout(Some(PATIENCE)).unwrap();
        gateway.send_to(b"x", node.local_addr().unwrap()).unwrap();
        assert_eq!(node.recv_from(&mut [0; 8]).unwrap().1.ip(), first);

        let link = one.ip("-o link show eth0");
        assert!(
            link.contains("mtu 1400") && link.contains("0a:58:0a:2a:07:02") && link.contains(",UP"),
            "{link}"
        );
        assert!(one.ip("-o -4 addr show eth0").contains("10.42.7.2/24"));
        let routes = one.ip("route show");
        assert!(routes.contains("default via 10.42.7.1 dev eth0"), "{routes}");
        assert!(!routes.contains("10.42.7.0/24"), "pods go through the node: {routes}");
        assert!(one.ip("-o link show lo").contains(",UP"));
        let port = ip("-d -o link show type veth");
        assert_eq!(
            (port.matches("hairpin on").count(), port.matches("master tbridge0").count()),
            (2, 2),
            "{port}"
        );
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    });
}

#[test]
fn pods_reach_the_outside_under_the_nodes_address() {
    on_node(|state| async move {
        let (outside, pod) = (Namespace::new(), Namespace::new());
        ip("link add up0 type veth peer name up1");
        ip(&format!("link set up1 netns {}", outside.path().display()));
        ip("addr add 192.0.2.1/24 dev up0");
        ip("link set up0 up");
        outside.ip("addr add 192.0.2.2/24 dev up1");
        outside.ip("link set up1 up");
        outside.ip("route add 10.42.0.0/16 via 192.0.2.1");
        let cluster =
            Config { cluster_cidr: Some("10.42.0.0/16".parse().unwrap()), ..config(&state) };
        let network = BridgeNetwork::new(cluster).unwrap();
        // Twice, to show that the ruleset is replaced and not added to.
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        let address = network.attach("pod", &pod.path()).await.unwrap().ips[0];
        assert_eq!(
            connect(&pod, &outside, "192.0.2.2".parse().unwrap()).unwrap().to_string(),
            "192.0.2.1"
        );

        // Another node's pod sees the pod's own address.
        outside.ip("addr add 10.42.9.9/32 dev up1");
        ip("route add 10.42.9.0/24 via 192.0.2.2");
        assert_eq!(connect(&pod, &outside, "10.42.9.9".parse().unwrap()).unwrap(), address);

        let plain = Config { masquerade: false, ..config(&state) };
        let network = BridgeNetwork::new(plain).unwrap();
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        assert_eq!(
            connect(&pod, &outside, "192.0.2.2".parse().unwrap()).unwrap(),
            address,
            "the table is gone"
        );
    });
}

#[test]
fn attaching_again_changes_nothing() {
    on_node(|state| async move {
        let pod = Namespace::new();
        let network = BridgeNetwork::new(config(&state)).unwrap();
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        let first = network.attach("pod", &pod.path()).await.unwrap();
        let before = pod.ip("-o link show eth0");
        assert_eq!(network.attach("pod", &pod.path()).await.unwrap(), first);
        drop(network);

        // As after a restart of the node agent.
        let network = BridgeNetwork::new(config(&state)).unwrap();
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        assert_eq!(network.attach("pod", &pod.path()).await.unwrap(), first);
        assert_eq!(pod.ip("-o link show eth0"), before, "the interface is the same");

        // A new namespace for the same pod, as after a reboot.
        let reborn = Namespace::new();
        assert_eq!(network.attach("pod", &reborn.path()).await.unwrap(), first);
        assert!(reborn.ip("-o -4 addr show eth0").contains("10.42.7.2/24"));

        // What goes wrong on the way costs it nothing.
        network.attach("pod", Path::new("/no/such/netns")).await.unwrap_err();
        let again = Namespace::new();
        network.attach("other", &again.path()).await.unwrap();
        let third = Namespace::new();
        assert_eq!(network.attach("pod", &third.path()).await.unwrap(), first);
    });
}

#[test]
fn detaching_leaves_nothing() {
    on_node(|state| async move {
        let pods: Vec<Namespace> = (0..3).map(|_| Namespace::new()).collect();
        let network = BridgeNetwork::new(config(&state)).unwrap();
        network.set_pod_cidr("10.42.7.0/29").await.unwrap();
        for (at, pod) in pods.iter().enumerate() {
            network.attach(&format!("pod{at}"), &pod.path()).await.unwrap();
        }
        network.detach("pod0").await.unwrap();
        network.detach("pod0").await.unwrap();
        network.detach("never-there").await.unwrap();
        assert!(!pods[0].ip("-o link show").contains("eth0"));
        ip("link add vethstray type veth peer name other");
        ip("link set vethstray master tbridge0");
        ip("link add keep type veth peer name keep1");
        ip("link set keep master tbridge0");
        let gone = network
            .retain(BTreeSet::from(["pod2".to_owned(), "unknown".to_owned()]))
            .await
            .unwrap();
        assert_eq!(gone, ["pod1"]);
        let links = ip("-o link show");
        assert!(!links.contains("vethstray") && links.contains("keep"), "{links}");
        // The one pod that stays, and the port that is not ours.
        assert_eq!(ip("-o link show master tbridge0").lines().count(), 2);
        assert!(pods[2].ip("-o link show").contains("eth0"));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);

        // Pods that come and go do not use the range up.
        for round in 0..12 {
            let pod = Namespace::new();
            network.attach(&format!("round{round}"), &pod.path()).await.unwrap();
            drop(pod);
            network.detach(&format!("round{round}")).await.unwrap();
        }
        assert_eq!(ip("-o link show master tbridge0").lines().count(), 2);
    });
}

#[test]
fn a_failed_attach_keeps_nothing() {
    on_node(|state| async move {
        let network = BridgeNetwork::new(config(&state)).unwrap();
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        let error =
            network.attach("pod", Path::new("/no/such/netns")).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to open network namespace /no/such/netns: "), "{error}");
        let error = network.attach("pod", &state).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("failed to enter network namespace {}: ", state.display())),
            "{error}"
        );
        assert_eq!(
            (fs::read_dir(&state).unwrap().count(), ip("-o link show type veth").lines().count()),
            (0, 0)
        );
    });
}

#[test]
fn the_bridge_is_corrected() {
    on_node(|state| async move {
        ip("link add tbridge0 type bridge");
        ip("addr add 10.99.0.1/24 dev tbridge0");
        let network = BridgeNetwork::new(config(&state)).unwrap();
        network.set_pod_cidr("10.42.7.0/24").await.unwrap();
        let addresses = ip("-o -4 addr show tbridge0");
        assert!(
            addresses.contains("10.42.7.1/24") && !addresses.contains("10.99.0.1"),
            "{addresses}"
        );
        assert!(ip("-o link show tbridge0").contains("mtu 1400"));

        ip("link del tbridge0");
        let pod = Namespace::new();
        network.attach("pod", &pod.path()).await.unwrap();
        assert!(ip("-o link show type veth").contains("master tbridge0"), "made again");

        ip("link del tbridge0");
        ip("link add tbridge0 type veth peer name other");
        let error = network.set_pod_cidr("10.42.7.0/24").await.unwrap_err().to_string();
        assert_eq!(error, "failed to use bridge tbridge0: a link of that name is no bridge");
        assert!(network.set_pod_cidr("nonsense").await.is_err());
    });
}
