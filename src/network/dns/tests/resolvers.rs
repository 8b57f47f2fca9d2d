//! The list of resolvers.

use std::net::{IpAddr, SocketAddr};

use crate::dns::resolv_conf::{Refused, Upstreams, parse};

#[test]
fn nameserver_lines() {
    let text = "# nameserver 192.0.2.9\n; x\nsearch lan\nnameserver 192.0.2.1\n\tnameserver\t2001:db8::1 \n\
                nameserver fe80::1%eth0\nnameserver\nnameserver none\nnameservers 192.0.2.8\noptions ndots:2\n\
                nameserver 192.0.2.2 # second";
    let found: Vec<String> = parse(text).map(|address| address.to_string()).collect();
    assert_eq!(found, ["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
}

async fn used(text: &str, addresses: &[&str], sockets: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    std::fs::write(&path, text).unwrap();
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let sockets: Vec<SocketAddr> = sockets.iter().map(|text| text.parse().unwrap()).collect();
    let upstreams = Upstreams::new(path, 53, Refused { addresses, sockets });
    let current = upstreams.current().await;
    assert!(!upstreams.current().await.changed);
    current.servers.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_leads_back_is_refused() {
    let text = "nameserver 10.43.0.10\nnameserver 127.0.0.53\nnameserver 0.0.0.0\nnameserver ::1\n";
    assert_eq!(
        used(text, &["10.43.0.10"], &["10.43.0.10:53"]).await,
        ["127.0.0.53:53", "[::1]:53"]
    );
    assert_eq!(used(text, &["10.43.0.10"], &["0.0.0.0:53"]).await, [""; 0]);
    assert_eq!(used("nameserver 127.0.0.1", &[], &["127.0.0.1:5353"]).await, ["127.0.0.1:53"]);
}

#[tokio::test]
async fn few_and_each_once() {
    let text: String = (1..9).map(|last| format!("nameserver 192.0.2.{}\n", last / 2)).collect();
    assert_eq!(
        used(&text, &[], &[]).await,
        ["192.0.2.0:53", "192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"]
    );
}
