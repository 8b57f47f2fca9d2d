//! The keys of both files, as tables.

use super::field::{Field, Row, read};
use super::mistakes::Mistake;
use super::{Addressing, Link, Raw, Secret, Wifi, WifiNetwork, registries, tree, values};

/// Keys of the owner's file; the image's may have them too.
const SHARED: &[Row<Raw>] = &[
    ("role", |raw, field, notes| raw.role = field.parsed(values::role, notes)),
    ("server", |raw, field, notes| raw.server = field.parsed(values::server, notes)),
    ("token", |raw, field, notes| raw.token = field.parsed(values::secret, notes).map(Secret)),
    ("hostname", |raw, field, notes| raw.hostname = field.parsed(values::host_name, notes)),
    ("node-name", |raw, field, notes| raw.node_name = field.parsed(values::node_name, notes)),
    ("labels", |raw, field, notes| raw.labels = labels(field, notes)),
    ("taints", |raw, field, notes| raw.taints = field.list(values::taint, notes)),
    ("interface", |raw, field, notes| raw.interface = field.parsed(values::interface, notes)),
    ("network", |raw, field, notes| raw.links = links(field, notes)),
    ("wifi", |raw, field, notes| raw.wifi = wifi(field, notes)),
    ("dns", |raw, field, notes| dns(raw, field, notes)),
    ("ntp", |raw, field, notes| raw.ntp = field.list(values::time_server, notes)),
    ("registries", |raw, field, notes| raw.registries = registries::read(field, notes).map(Secret)),
    ("ssh-keys", |raw, field, notes| raw.ssh_keys = field.list(values::ssh_key, notes)),
    ("kubeconfig", |raw, field, notes| {
        raw.kubeconfig_for_owner = field.parsed(values::kubeconfig, notes).is_some();
    }),
    ("args", |raw, field, notes| raw.args = field.list(values::any, notes)),
];

/// Keys of the image's file alone.
const IMAGE: &[Row<Raw>] = &[
    ("build-epoch", |raw, field, notes| raw.build_epoch = field.parsed(values::number, notes)),
    ("host-port", |raw, field, notes| raw.host_port = field.parsed(values::switch, notes)),
    ("health-port", |raw, field, notes| raw.health_port = field.parsed(values::number, notes)),
    ("parts", |raw, field, notes| raw.parts = field.list(values::any, notes)),
];

pub(crate) fn parse_owner(text: &str) -> (Raw, Vec<Mistake>) {
    parse(text, &[SHARED])
}

pub(crate) fn parse_image(text: &str) -> (Raw, Vec<Mistake>) {
    parse(text, &[SHARED, IMAGE])
}

fn parse(text: &str, rows: &[&[Row<Raw>]]) -> (Raw, Vec<Mistake>) {
    let (entries, mut mistakes) = tree::parse(text);
    let places = entries.iter().map(|entry| (entry.key.clone(), entry.at)).collect();
    let mut raw = Raw { places, ..Raw::default() };
    read(&mut raw, rows, "", &entries, &mut mistakes);
    (raw, mistakes)
}

/// A mapping, or a list of `key=value`.
fn labels(field: &Field<'_>, notes: &mut Vec<Mistake>) -> Vec<String> {
    let pair = |text: &str| match text.split_once('=') {
        Some((key, value)) => values::label(key, value),
        None => Err(format!("expected key=value, found {text:?}")),
    };
    if !matches!(field.node.content, tree::Content::Map(_)) {
        return field.list(pair, notes);
    }
    let members = field.members(notes);
    let label = |(key, member): &(&str, Field<'_>), notes: &mut Vec<Mistake>| {
        if member.node.content == tree::Content::Nothing {
            return values::label(key, "").map_err(|text| member.wrong(&text, notes)).ok();
        }
        member.parsed(|value| values::label(key, value), notes)
    };
    members.iter().filter_map(|member| label(member, notes)).collect()
}

/// A list of servers, or a mapping with `servers` and `search`.
fn dns(raw: &mut Raw, field: &Field<'_>, notes: &mut Vec<Mistake>) {
    const KEYS: &[Row<Raw>] = &[
        ("servers", |raw, field, notes| raw.dns.servers = field.list(values::address, notes)),
        ("search", |raw, field, notes| raw.dns.search = field.list(values::domain, notes)),
    ];
    match &field.node.content {
        tree::Content::Map(entries) => read(raw, &[KEYS], &field.path, entries, notes),
        _ => raw.dns.servers = field.list(values::address, notes),
    }
}

#[derive(Default)]
struct RawWifi {
    country: Option<String>,
    ssid: Option<String>,
    password: Option<Secret>,
    hidden: Option<bool>,
}

/// A network, or several; the country of one holds for all.
fn wifi(field: &Field<'_>, notes: &mut Vec<Mistake>) -> Option<Wifi> {
    const KEYS: &[Row<RawWifi>] = &[
        ("country", |raw, field, notes| raw.country = field.parsed(values::country, notes)),
        ("ssid", |raw, field, notes| raw.ssid = field.parsed(values::ssid, notes)),
        ("password", |raw, field, notes| {
            raw.password = field.parsed(values::wifi_password, notes).map(Secret);
        }),
        ("hidden", |raw, field, notes| raw.hidden = field.parsed(values::switch, notes)),
    ];
    let mut wifi = Wifi::default();
    for item in field.items(notes) {
        let mut raw = RawWifi::default();
        let entries = item.entries(notes).to_vec();
        read(&mut raw, &[KEYS], &item.path, &entries, notes);
        wifi.country = wifi.country.or(raw.country);
        let hidden = raw.hidden.unwrap_or_default();
        match (raw.ssid, raw.password) {
            (Some(ssid), Some(password)) => {
                wifi.networks.push(WifiNetwork { ssid, password, hidden });
            }
            _ => item.wrong("lacks a valid ssid or password; it is left out", notes),
        }
    }
    (!wifi.networks.is_empty()).then_some(wifi)
}

#[derive(Default)]
struct RawLink {
    interface: Option<String>,
    dhcp: Option<bool>,
    address: Option<(std::net::Ipv4Addr, u8)>,
    gateway: Option<std::net::Ipv4Addr>,
}

fn links(field: &Field<'_>, notes: &mut Vec<Mistake>) -> Vec<Link> {
    let items = field.items(notes);
    let several = items.len() > 1;
    let mut links: Vec<Link> = Vec::new();
    for item in &items {
        let link = link(item, notes);
        if several && link.interface.is_none() {
            item.wrong("lacks interface, which tells several entries apart", notes);
        } else if links.iter().any(|known| known.interface == link.interface) {
            item.wrong("names an interface again; the first entry holds", notes);
        } else {
            links.push(link);
        }
    }
    links
}

/// An interface whose address is wrong asks by DHCP: so the board can be reached.
fn link(field: &Field<'_>, notes: &mut Vec<Mistake>) -> Link {
    const KEYS: &[Row<RawLink>] = &[
        ("interface", |raw, field, notes| raw.interface = field.parsed(values::interface, notes)),
        ("dhcp", |raw, field, notes| raw.dhcp = field.parsed(values::switch, notes)),
        ("address", |raw, field, notes| {
            raw.address = field.parsed(values::interface_address, notes);
        }),
        ("gateway", |raw, field, notes| raw.gateway = field.parsed(values::gateway, notes)),
    ];
    let mut raw = RawLink::default();
    let entries = field.entries(notes).to_vec();
    read(&mut raw, &[KEYS], &field.path, &entries, notes);
    let addressing = match (raw.address, raw.dhcp) {
        (Some((address, prefix)), dhcp) => {
            if dhcp == Some(true) {
                field.wrong("has dhcp and an address; the address holds", notes);
            }
            let gateway =
                raw.gateway.filter(|gateway| values::same_network(address, *gateway, prefix));
            if gateway != raw.gateway {
                field.wrong(
                    "has a gateway outside the network of its address; it is left out",
                    notes,
                );
            }
            Addressing::Static { address, prefix, gateway }
        }
        (None, dhcp) => {
            let meant = |entry: &tree::Entry| matches!(entry.key.as_str(), "address" | "gateway");
            if dhcp == Some(false) || entries.iter().any(meant) {
                field.wrong("has no valid address; DHCP is used", notes);
            }
            Addressing::Dhcp
        }
    };
    Link { interface: raw.interface, addressing }
}
