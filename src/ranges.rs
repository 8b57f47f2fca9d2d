//! The cluster's address ranges, as the flags give them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};

/// Host of the range that is the cluster DNS' address, as K3s has it.
const DNS_HOST: u32 = 10;

/// Addresses derived from `--service-cidr` and `--cluster-dns`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClusterNetwork {
    /// ClusterIP of the Service `kubernetes`.
    pub(crate) kubernetes: IpAddr,
    pub(crate) dns: IpAddr,
}

impl ClusterNetwork {
    pub(crate) fn resolve(
        cluster_cidr: &str,
        service_cidr: &str,
        dns: Option<IpAddr>,
    ) -> Result<ClusterNetwork> {
        range("--cluster-cidr", cluster_cidr, 24)?;
        let services = range("--service-cidr", service_cidr, 28)?;
        let host = |n: u32| IpAddr::V4(Ipv4Addr::from(u32::from(services) + n));
        Ok(ClusterNetwork { kubernetes: host(1), dns: dns.unwrap_or_else(|| host(DNS_HOST)) })
    }
}

/// The first address of an IPv4 range no longer than `prefix_max`.
fn range(flag: &str, text: &str, prefix_max: u8) -> Result<Ipv4Addr> {
    let parsed = text
        .split_once('/')
        .and_then(|(a, p)| Some((a.parse::<Ipv4Addr>().ok()?, p.parse::<u8>().ok()?)));
    match parsed {
        Some((address, prefix)) if (8..=prefix_max).contains(&prefix) => {
            let mask = u32::MAX << (32 - u32::from(prefix));
            Ok(Ipv4Addr::from(u32::from(address) & mask))
        }
        _ => bail!(
            "{flag}: expected an IPv4 range such as 10.42.0.0/16, of 8 to {prefix_max} bits, not {text:?}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let network = ClusterNetwork::resolve("10.42.0.0/16", "10.43.0.7/16", None).unwrap();
        assert_eq!(network.kubernetes.to_string(), "10.43.0.1");
        assert_eq!(network.dns.to_string(), "10.43.0.10");
        for bad in ["", "10.0.0.0", "10.0.0/16", "10.0.0.0/33", "10.0.0.0/30", "fd00::/64"] {
            let error = ClusterNetwork::resolve("10.42.0.0/16", bad, None).unwrap_err().to_string();
            assert!(error.starts_with("--service-cidr"), "{error}");
        }
    }
}
