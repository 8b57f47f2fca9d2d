//! Ranges, allocations and encoding, without the kernel.

use std::fs;

use crate::addresses::{Cidr, hardware_address};
use crate::bridge::{BridgeNetwork, Config};
use crate::error::Error;
use crate::masquerade;
use crate::nft::{Batch, Encoded, Expression};
use crate::pool::{Pool, link_name};

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn ranges_are_parsed() {
    assert_eq!(cidr("10.42.0.7/24").to_string(), "10.42.0.0/24");
    assert_eq!(cidr("10.42.0.0/24").gateway().to_string(), "10.42.0.1");
    assert_eq!(cidr("10.42.0.0/16").mask().to_string(), "255.255.0.0");
    assert_eq!(hardware_address("10.42.0.1".parse().unwrap()), [0x0a, 0x58, 10, 42, 0, 1]);
    for (text, reason) in [
        ("10.42.0.0", "it has no prefix length"),
        ("fd00::/64", "it is not an IPv4 range"),
        ("10.42.0.0/x", "its prefix length is not a number"),
        ("10.42.0.0/31", "its prefix length is not between 8 and 30"),
        ("10.42.0.0/0", "its prefix length is not between 8 and 30"),
    ] {
        assert_eq!(
            text.parse::<Cidr>().unwrap_err().to_string(),
            format!("invalid pod cidr {text:?}: {reason}")
        );
    }
}

#[test]
fn addresses_are_handed_out_in_turn_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let range = cidr("10.42.0.0/29");
    let mut pool = Pool::open(directory.path()).unwrap();
    let addresses: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|uid| pool.allocate(uid, range).unwrap().address.to_string())
        .into();
    assert_eq!(addresses, ["10.42.0.2", "10.42.0.3", "10.42.0.4", "10.42.0.5", "10.42.0.6"]);
    assert_eq!(
        pool.allocate("f", range).unwrap_err().to_string(),
        "no free address in 10.42.0.0/29"
    );
    assert_eq!(
        pool.allocate("b", range).unwrap().address.to_string(),
        "10.42.0.3",
        "the same pod, the same address"
    );
    pool.release("a").unwrap();
    pool.release("d").unwrap();
    pool.release("d").unwrap();
    assert_eq!(pool.allocate("f", range).unwrap().address.to_string(), "10.42.0.2");

    let mut again = Pool::open(directory.path()).unwrap();
    assert_eq!(again.all().count(), 4);
    assert_eq!(again.get("f").unwrap().address.to_string(), "10.42.0.2");
    assert_eq!(again.allocate("g", range).unwrap().address.to_string(), "10.42.0.5");
    let other = again.allocate("b", cidr("10.43.0.0/24")).unwrap();
    assert_eq!(
        other.address.to_string(),
        "10.43.0.2",
        "an address outside of the range is replaced"
    );
}

#[test]
fn freed_addresses_are_not_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let mut pool = Pool::open(directory.path()).unwrap();
    let range = cidr("10.42.0.0/24");
    pool.allocate("a", range).unwrap();
    pool.release("a").unwrap();
    assert_eq!(pool.allocate("b", range).unwrap().address.to_string(), "10.42.0.3");
}

#[test]
fn broken_records_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let good = format!(r#"{{"uid":"good","address":"10.42.0.9","link":"{}"}}"#, link_name("good"));
    for (name, text) in [
        ("empty.json", ""),
        ("good.json", &good),
        ("other.json", &good),
        ("evil.json", r#"{"uid":"evil","address":"10.42.0.3","link":"eth0"}"#),
    ] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let pool = Pool::open(directory.path()).unwrap();
    assert_eq!(pool.all().map(|allocation| allocation.uid.as_str()).collect::<Vec<_>>(), ["good"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn uids_and_names_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let mut pool = Pool::open(directory.path()).unwrap();
    for uid in ["", "../x", "a/b", ".hidden", "a b", &"x".repeat(200)] {
        assert!(
            matches!(pool.allocate(uid, cidr("10.42.0.0/24")), Err(Error::Uid { .. })),
            "{uid}"
        );
    }
    assert_eq!(link_name("0b1f4d8e-1d4a-4a6e-9f7e-1c2d3e4f5a6b").len(), 15);
    assert_ne!(link_name("a"), link_name("b"));
    for (bridge, mtu, field) in
        [("way-too-long-a-name", 1500, "bridge"), ("a/b", 1500, "bridge"), ("br", 10, "mtu")]
    {
        let config = Config { bridge: bridge.to_owned(), mtu, ..Config::new(directory.path()) };
        let error = BridgeNetwork::new(config).err().unwrap().to_string();
        assert!(error.starts_with(&format!("invalid configuration: {field}: ")), "{error}");
    }
}

#[test]
fn the_rule_spares_the_cluster_and_multicast() {
    let rule = masquerade::rule(cidr("10.42.3.0/24"), cidr("10.42.0.0/16"));
    let address = |offset, mask, value, equal| Expression::Address { offset, mask, value, equal };
    assert_eq!(
        rule,
        [
            address(12, [255, 255, 255, 0], [10, 42, 3, 0], true),
            address(16, [255, 255, 0, 0], [10, 42, 0, 0], false),
            address(16, [240, 0, 0, 0], [224, 0, 0, 0], false),
            Expression::Masquerade,
        ]
    );
}

#[test]
fn batches_are_framed() {
    let mut batch = Batch::new();
    batch.replace_table("t");
    let Encoded { bytes, last } = batch.finish();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
    let mut messages = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        messages.push((half(at + 4), half(at + 6), word(at + 8)));
        at += word(at) as usize;
    }
    assert_eq!(at, bytes.len());
    // Begin, make, delete, make with the only acknowledgement, end.
    assert_eq!(
        messages,
        [(0x10, 1, 0), (0xa00, 0x401, 1), (0xa02, 1, 2), (0xa00, 0x405, 3), (0x11, 1, 4)]
    );
    assert_eq!(last, 3);
    assert_eq!(&bytes[18..20], [0, 10], "the subsystem, in network order");
    assert_eq!(&bytes[20 + 20..20 + 28], [6, 0, 1, 0, b't', 0, 0, 0]);
}

#[test]
fn a_kernel_without_nftables_is_told_from_a_refusal() {
    use nix::errno::Errno;
    let missing = |errno: Errno| masquerade::is_missing(&errno.into());
    for errno in [Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP, Errno::ENOENT, Errno::EAFNOSUPPORT] {
        assert!(missing(errno), "{errno}");
    }
    for errno in [Errno::EPERM, Errno::EINVAL, Errno::ENOBUFS, Errno::EAGAIN] {
        assert!(!missing(errno), "{errno}");
    }
}
