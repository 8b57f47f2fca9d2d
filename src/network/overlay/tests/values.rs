//! Ranges, hardware addresses and what the configuration refuses.

use tokio::sync::watch;

use crate::overlay::addressing::{Mac, Prefix};
use crate::overlay::{Backend, Config};

#[test]
fn ranges() {
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    assert_eq!(prefix("10.42.3.9/24").to_string(), "10.42.3.0/24");
    assert_eq!(prefix("fd00:42::9/64").to_string(), "fd00:42::/64");
    assert_eq!(prefix("1.2.3.4/0").to_string(), "0.0.0.0/0");
    assert!(prefix("10.42.0.0/16").covers(prefix("10.42.3.0/24")));
    assert!(!prefix("10.42.3.0/24").covers(prefix("10.42.0.0/16")));
    assert!(!prefix("0.0.0.0/0").covers(prefix("fd00::/64")));
    assert!(prefix("10.42.3.0/24").contains("10.42.3.255".parse().unwrap()));
    for bad in ["", "10.42.0.0", "10.42.0.0/33", "fd00::/129", "x/8"] {
        let error = bad.parse::<Prefix>().unwrap_err();
        assert_eq!(error, format!("expected a range such as 10.42.0.0/24, not {bad:?}"));
    }
}

#[test]
fn hardware_addresses() {
    let mac = Mac::of_node("node-1");
    assert_eq!(mac, Mac::of_node("node-1"), "the same over restarts");
    assert_eq!(mac.to_string(), "ee:c2:c6:ee:95:01", "and over releases");
    let names = (0..10_000).map(|number| Mac::of_node(&format!("node-{number}")));
    let all: std::collections::BTreeSet<Mac> = names.collect();
    assert_eq!(all.len(), 10_000);
    assert!(all.iter().all(|mac| mac.is_usable() && mac.0[0] & 2 == 2));
    assert_eq!("0A:58:00:ff:02:03".parse::<Mac>().unwrap().to_string(), "0a:58:00:ff:02:03");
    for bad in
        ["", "0a:58:00:ff:02", "0a:58:00:ff:02:03:04", "0a:58:00:ff:02:3", "+a:58:00:ff:02:03"]
    {
        assert!(bad.parse::<Mac>().is_err(), "{bad}");
    }
}

fn config() -> Config {
    Config {
        node_name: "one".to_owned(),
        node_ip: None,
        interface: None,
        backend: Backend::VXLAN,
        cluster_cidr: "10.42.0.0/16".to_owned(),
        state_dir: "/nowhere".into(),
        bridge: None,
        uplink: watch::Sender::new(None),
    }
}

#[test]
fn what_cannot_work_is_refused() {
    let refusal = |change: fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    config().check().unwrap();
    assert_eq!(
        refusal(|config| config.node_ip = "fd00::1".parse().ok()),
        "invalid configuration: node-ip: the pod network has no IPv6, expected an IPv4 address, not fd00::1"
    );
    assert_eq!(
        refusal(|config| config.cluster_cidr = "fd00:42::/56".to_owned()),
        "invalid configuration: cluster-cidr: the pod network has no IPv6, expected an IPv4 range, not fd00:42::/56"
    );
    assert_eq!(
        refusal(|config| config.cluster_cidr = "10.42.0.0/16,fd00:42::/56".to_owned()),
        "invalid configuration: cluster-cidr: the pod network has no dual-stack, expected one IPv4 range, not \
         \"10.42.0.0/16,fd00:42::/56\""
    );
    assert_eq!(
        refusal(|config| config.backend = Backend::Vxlan { vni: 1 << 24, port: 8472 }),
        "invalid configuration: vni: 16777216 is not between 1 and 16777215"
    );
    assert_eq!(
        Backend::parse("wireguard-native").unwrap_err().to_string(),
        "invalid configuration: flannel-backend: expected vxlan, host-gw or none, not \"wireguard-native\""
    );
    for backend in [Backend::VXLAN, Backend::HostGw, Backend::None] {
        assert_eq!(Backend::parse(backend.name()).unwrap(), backend);
    }
}

#[test]
fn room_for_the_tunnels_headers() {
    assert_eq!(Backend::VXLAN.pod_mtu(1500), 1450);
    assert_eq!(Backend::VXLAN.pod_mtu(9000), 8950);
    assert_eq!(Backend::VXLAN.pod_mtu(0), 576);
    assert_eq!(Backend::HostGw.pod_mtu(1500), 1500);
}
