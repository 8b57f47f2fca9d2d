//! A pod's /etc/resolv.conf: where its names are looked up, by `dnsPolicy` and `dnsConfig`, within what resolvers take.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use crate::netfiles::ClusterDns;

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;
const DOMAIN_BYTES_MAX: usize = 253;

/// A parsed resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The pod's resolv.conf, and what was left out of it, in upstream's words.
pub(crate) fn resolv_conf(
    spec: &PodSpec,
    namespace: &str,
    host: &str,
    dns: &ClusterDns,
) -> (String, Vec<String>) {
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
    let left_out = fit(&mut resolver);
    (render(&resolver), left_out)
}

/// Cuts what C libraries would not read; says what was applied.
fn fit(resolver: &mut Resolver) -> Vec<String> {
    let mut left_out = Vec::new();
    if resolver.nameservers.len() > NAMESERVERS_MAX {
        resolver.nameservers.truncate(NAMESERVERS_MAX);
        let line = resolver.nameservers.join(" ");
        left_out.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}"
        ));
    }
    let searches = &mut resolver.searches;
    let before = searches.len();
    searches.truncate(SEARCHES_MAX);
    searches.retain(|domain| domain.len() <= DOMAIN_BYTES_MAX);
    while searches.iter().map(|domain| domain.len() + 1).sum::<usize>() > SEARCH_BYTES_MAX + 1 {
        searches.pop();
    }
    if searches.len() < before {
        let line = searches.join(" ");
        left_out.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}"
        ));
    }
    left_out
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
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let bare = |s: &str| if s == "." { s } else { s.trim_end_matches('.') }.to_owned();
                resolver.searches = words.map(bare).collect();
            }
            Some("options") => {
                let more: Vec<String> = words.map(str::to_owned).collect();
                append(&mut resolver.options, more.iter());
            }
            _ => {}
        }
    }
    resolver
}

fn render(resolver: &Resolver) -> String {
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        text.push_str(&format!("search {}\n", resolver.searches.join(" ")));
    }
    for server in &resolver.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !resolver.options.is_empty() {
        text.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(spec: Value, host: &str) -> (String, Vec<String>) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let dns =
            ClusterDns { servers: vec![[10, 43, 0, 10].into()], domain: "cluster.local".into() };
        resolv_conf(&spec, "shop", host, &dns)
    }

    #[test]
    fn every_policy() {
        let host = "search lan. corp\nnameserver 192.168.1.1\noptions edns0\noptions rotate\n";
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local lan corp\n\
                       nameserver 10.43.0.10\noptions ndots:5\n";
        let hosts = "search lan corp\nnameserver 192.168.1.1\noptions edns0 rotate\n";
        let cases = [
            (json!({}), cluster),
            (json!({"dnsPolicy": "ClusterFirst"}), cluster),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), hosts),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster),
            (json!({"dnsPolicy": "Default"}), hosts),
            (json!({"dnsPolicy": "None"}), ""),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"],
                    "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
            ),
            (
                json!({"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["192.168.1.1", "1.1.1.1"],
                    "searches": ["corp", "more"], "options": [{"name": "rotate"}]}}),
                "search lan corp more\nnameserver 192.168.1.1\nnameserver 1.1.1.1\noptions edns0 rotate\n",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                &cluster.replace("ndots:5", "ndots:1"),
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(made(spec.clone(), host), (wanted.to_owned(), Vec::new()), "{spec}");
        }
    }

    #[test]
    fn limits() {
        let servers = ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"];
        let many: Vec<String> = (0..40).map(|n| format!("d{n}")).collect();
        let (text, told) = made(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": servers, "searches": many}}),
            "",
        );
        assert_eq!(text.matches("nameserver").count(), 3);
        assert!(told[0].ends_with("the applied nameserver line is: 1.1.1.1 1.1.1.2 1.1.1.3"));
        assert!(told[1].starts_with("Search Line limits") && told[1].ends_with(" d31"), "{told:?}");
        let long: Vec<String> =
            (0..20).map(|n| format!("d{n:02}{}", ".abcdefghi".repeat(15))).collect();
        let (text, told) = made(json!({"dnsPolicy": "None", "dnsConfig": {"searches": long}}), "");
        let line = text.lines().next().and_then(|l| l.strip_prefix("search ")).expect("a line");
        assert_eq!((line.split(' ').count(), told.len()), (13, 1));
        assert!(line.len() <= SEARCH_BYTES_MAX);
    }
}
