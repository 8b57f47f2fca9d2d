//! The address of cluster DNS in the kernel.

use std::process::Command;

use super::isolated;
use crate::dns::{LINK, ensure_address};

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn is_local_however_often_it_is_asked_for() {
    isolated(|| async {
        let (v4, v6) = ("10.43.0.10".parse().unwrap(), "fd00:43::a".parse().unwrap());
        for _ in 0..3 {
            ensure_address(v4).await.unwrap();
            ensure_address(v6).await.unwrap();
        }
        let shown = ip(&format!("-o addr show dev {LINK}"));
        assert_eq!(shown.matches(" 10.43.0.10/32 ").count(), 1, "{shown}");
        assert_eq!(shown.matches(" fd00:43::a/128 ").count(), 1, "{shown}");
        assert!(ip(&format!("link show dev {LINK}")).contains(",UP"));
        std::net::UdpSocket::bind("10.43.0.10:53").unwrap();
        std::net::UdpSocket::bind("[fd00:43::a]:53").unwrap();

        ip(&format!("link set {LINK} down"));
        ip(&format!("addr del 10.43.0.10/32 dev {LINK}"));
        ensure_address(v4).await.unwrap();
        std::net::UdpSocket::bind("10.43.0.10:53").unwrap();
        assert!(ip(&format!("link show dev {LINK}")).contains(",UP"));
    });
}

#[test]
fn errors_name_what_failed() {
    isolated(|| async {
        ensure_address("10.43.0.10".parse().unwrap()).await.unwrap();
        let error = ensure_address("::".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot add address ::/128 to link copepod-dns: "), "{error}");
        assert!(error.contains("os error"), "{error}");
    });
}
