//! The text of a pod's /etc/hosts, /etc/hostname and /etc/resolv.conf.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
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

/// A parsed resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The pod's resolv.conf by `dnsPolicy`, with `dnsConfig` on top.
pub(crate) fn resolv_conf(spec: &PodSpec, namespace: &str, host: &str, dns: &ClusterDns) -> String {
    let host_network = spec.host_network == Some(true);
    let mut resolver = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Resolver::default(),
        "ClusterFirst" if !host_network && !dns.servers.is_empty() => cluster(namespace, host, dns),
        "ClusterFirstWithHostNet" if !dns.servers.is_empty() => cluster(namespace, host, dns),
        _ => parse(host),
    };
    if let Some(config) = &spec.dns_config {
        append(&mut resolver.nameservers, config.nameservers.iter().flatten());
        append(&mut resolver.searches, config.searches.iter().flatten());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            resolver.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            resolver.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    render(&resolver)
}

fn cluster(namespace: &str, host: &str, dns: &ClusterDns) -> Resolver {
    let domain = &dns.domain;
    let mut searches =
        vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    append(&mut searches, parse(host).searches.iter());
    Resolver {
        nameservers: dns.servers.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn append<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let rest =
            |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => resolver.searches = rest(words),
            Some("options") => resolver.options = rest(words),
            _ => {}
        }
    }
    resolver
}

fn render(resolver: &Resolver) -> String {
    let mut text = String::new();
    let searches = &resolver.searches[..resolver.searches.len().min(SEARCHES_MAX)];
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in resolver.nameservers.iter().take(NAMESERVERS_MAX) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !resolver.options.is_empty() {
        text.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    text
}
