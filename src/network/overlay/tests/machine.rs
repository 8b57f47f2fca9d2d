//! Which link and address a node has for the others.

use std::collections::BTreeMap;

use crate::overlay::uplink::{Address, DefaultRoute, Link, Machine, Wish};

/// Loopback, a wired and a wireless link, the pods' bridge, and the address of cluster DNS.
fn machine() -> Machine {
    let names = ["", "lo", "eth0", "wlan0", "copepod0", crate::dns::LINK, "down0"];
    let link = |index: usize| Link {
        name: names[index].to_owned(),
        mtu: 1500,
        up: names[index] != "down0",
        loopback: index == 1,
    };
    let address = |link, text: &str, prefix| Address {
        link,
        address: text.parse().unwrap(),
        prefix,
        usable: !text.starts_with("169.254"),
    };
    Machine {
        links: (1..names.len())
            .map(|index| (index as u32, link(index)))
            .collect::<BTreeMap<_, _>>(),
        addresses: vec![
            address(1, "127.0.0.1", 8),
            address(6, "198.51.100.6", 24),
            address(5, "10.43.0.10", 32),
            address(4, "10.42.0.1", 24),
            address(3, "203.0.113.3", 24),
            address(2, "169.254.7.7", 16),
            address(2, "192.0.2.2", 24),
            address(2, "192.0.2.22", 24),
        ],
        defaults: vec![
            DefaultRoute { metric: 600, link: 3, source: None },
            DefaultRoute { metric: 100, link: 2, source: "192.0.2.22".parse().ok() },
        ],
    }
}

fn chosen(machine: &Machine, address: Option<&str>, interface: Option<&str>) -> Option<String> {
    let cluster = "10.42.0.0/16".parse().unwrap();
    let address = address.map(|text| text.parse().unwrap());
    let uplink = machine.choose(Wish { address, interface, cluster })?;
    Some(format!("{} {}/{}", uplink.interface, uplink.address, uplink.prefix))
}

#[test]
fn the_link_to_the_other_nodes() {
    let mut machine = machine();
    let is = |machine: &Machine, address, interface, expected: Option<&str>| {
        assert_eq!(chosen(machine, address, interface).as_deref(), expected);
    };
    is(&machine, None, None, Some("eth0 192.0.2.22/24"));
    is(&machine, None, Some("wlan0"), Some("wlan0 203.0.113.3/24"));
    is(&machine, Some("192.0.2.2"), None, Some("eth0 192.0.2.2/24"));
    is(&machine, Some("192.0.2.2"), Some("wlan0"), None);
    is(&machine, Some("192.0.2.99"), None, None);
    is(&machine, Some("127.0.0.1"), None, None);
    is(&machine, Some("198.51.100.6"), None, None);
    machine.defaults.pop();
    is(&machine, None, None, Some("wlan0 203.0.113.3/24"));
    machine.defaults.clear();
    is(&machine, None, None, Some("eth0 192.0.2.2/24"));
    machine.addresses.retain(|address| address.link != 2 && address.link != 3);
    is(&machine, None, None, None);
}
