//! What the proxy wants of the kernel besides rules.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

const OWN_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The node must not tell pods of one bridge to talk to each other directly: answers have to pass its translation.
pub(crate) fn quiet_redirects(bridge: &str) {
    for link in ["all", "default", bridge] {
        let path = format!("/proc/sys/net/ipv4/conf/{link}/send_redirects");
        match fs::write(&path, "0") {
            // The bridge may come later.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path, %error, "failed to switch redirects off");
            }
            _ => {}
        }
    }
}

/// Keeps the node's own connections off the ports of Services, where the ranges overlap: their answers would be led to
/// endpoints.
pub(crate) fn reserve_ports(ports: &RangeInclusive<u16>) {
    let reserve = || {
        let wanted =
            reserved(&fs::read_to_string(OWN_PORTS)?, &fs::read_to_string(RESERVED_PORTS)?, ports);
        wanted.map_or(Ok(()), |wanted| fs::write(RESERVED_PORTS, wanted))
    };
    if let Err(error) = reserve() {
        tracing::warn!(path = RESERVED_PORTS, %error, "failed to reserve the ports of Services");
    }
}

/// The list of reserved ports with those of Services, unless it has them or need not.
pub(crate) fn reserved(own: &str, list: &str, ports: &RangeInclusive<u16>) -> Option<String> {
    let mut own = own.split_whitespace().filter_map(|port| port.parse::<u16>().ok());
    let (first, last) = (own.next()?, own.next()?);
    if last < *ports.start() || *ports.end() < first {
        return None;
    }
    let (list, range) = (list.trim(), format!("{}-{}", ports.start(), ports.end()));
    if list.split(',').any(|part| part == range) {
        return None;
    }
    Some(if list.is_empty() { range } else { format!("{list},{range}") })
}
