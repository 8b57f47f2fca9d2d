//! The text of a pod's /etc/hosts and /etc/hostname.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

const HOSTNAME_MAX: usize = 63;

const HOSTS_HEAD: &str = "# Kubernetes-managed hosts file.\n\
    127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    fe00::\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// The cluster's DNS as the node was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterDns {
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) domain: String,
}

/// The pod's host name, cut to what the kernel's name field may hold.
pub(crate) fn hostname(spec: &PodSpec, pod_name: &str, node_name: &str) -> String {
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return name.to_owned();
    }
    if spec.host_network == Some(true) {
        return node_name.to_owned();
    }
    let name = spec.hostname.as_deref().filter(|n| !n.is_empty()).unwrap_or(pod_name);
    let mut end = name.len().min(HOSTNAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// The pod's domain where it has a subdomain: `sub.namespace.svc.cluster.local`.
pub(crate) fn pod_domain(spec: &PodSpec, namespace: &str, dns: &ClusterDns) -> Option<String> {
    let sub = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{sub}.{namespace}.svc.{}", dns.domain))
}

pub(crate) fn hosts(
    spec: &PodSpec,
    ips: &[IpAddr],
    hostname: &str,
    domain: Option<&str>,
) -> String {
    let mut text = HOSTS_HEAD.to_owned();
    for ip in ips {
        match domain {
            Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
            None => text.push_str(&format!("{ip}\t{hostname}\n")),
        }
    }
    text.push_str(&aliases(spec));
    text
}

/// With the host's network a pod sees the host's names.
pub(crate) fn host_network_hosts(spec: &PodSpec, host: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{host}{}", aliases(spec))
}

fn aliases(spec: &PodSpec) -> String {
    let list = spec.host_aliases.as_deref().unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in list {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}
