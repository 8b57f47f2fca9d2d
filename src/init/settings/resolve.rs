//! From both files to what PID 1 acts on.

use super::last::given;
use super::mistakes::Mistake;
use super::{Addressing, Last, Link, Raw, Role, Settings};
use crate::kubeconfig;
use crate::phases::DATA;
use crate::wifi;

/// The name of a board that was given none.
pub(crate) const HOSTNAME: &str = "copepod";
const HEALTH_PORT: u16 = 6443;
/// Where the node finds what its arguments must not show.
pub(crate) const TOKEN_FILE: &str = "/run/copepod/token";
pub(crate) const REGISTRIES_FILE: &str = "/run/copepod/registries.yaml";

/// The owner's settings before those that held last, before the image's. Adds what is wrong with the owner's as a whole.
pub(crate) fn resolve(
    image: Raw,
    mut owner: Raw,
    last: &Last,
    mistakes: &mut Vec<Mistake>,
) -> Settings {
    last.fill(&mut owner, &image, mistakes);
    let role = owner.role.or(image.role).unwrap_or(Role::Server);
    let owner = checked(role, &image, owner, mistakes);
    let shell = image.has("shell");
    let mut links = if owner.links.is_empty() { image.links.clone() } else { owner.links.clone() };
    if links.is_empty() {
        let interface = owner.interface.clone().or(image.interface.clone());
        links = vec![Link { interface, addressing: Addressing::Dhcp }];
    }
    let wireless = |link: &Link| link.interface.as_deref() == Some(wifi::INTERFACE);
    if owner.wifi.is_some() && !links.iter().any(wireless) {
        let interface = Some(wifi::INTERFACE.to_owned());
        links.push(Link { interface, addressing: Addressing::Dhcp });
    }
    let mut node: Vec<String> = match role {
        Role::Server => {
            let path = kubeconfig::OF_NODE;
            ["server", "--data-dir", DATA, "--write-kubeconfig", path].map(str::to_owned).into()
        }
        Role::Agent => ["agent", "--data-dir", DATA].map(str::to_owned).into(),
    };
    let health_port = owner.health_port.or(image.health_port).unwrap_or(HEALTH_PORT);
    let (token, registries) =
        (owner.token.clone().or(image.token), owner.registries.clone().or(image.registries));
    node.extend(image.args);
    for (flag, value) in [("--node-name", &owner.node_name), ("--server", &owner.server)] {
        node.extend(value.iter().map(|value| format!("{flag}={value}")));
    }
    node.extend(token.iter().map(|_| format!("--token-file={TOKEN_FILE}")));
    node.extend(registries.iter().map(|_| format!("--private-registry={REGISTRIES_FILE}")));
    node.extend(own_address(&links).map(|address| format!("--node-ip={address}")));
    node.extend(owner.labels.iter().map(|label| format!("--node-label={label}")));
    node.extend(owner.taints.iter().map(|taint| format!("--node-taint={taint}")));
    node.extend(owner.args);
    Settings {
        role,
        hostname: owner.hostname.or(image.hostname).unwrap_or_else(|| HOSTNAME.to_owned()),
        node,
        links,
        dns: if owner.dns.servers.is_empty() && owner.dns.search.is_empty() {
            image.dns
        } else {
            owner.dns
        },
        ntp: if owner.ntp.is_empty() { image.ntp } else { owner.ntp },
        token,
        registries,
        build_epoch: image.build_epoch.unwrap_or_default(),
        shell,
        ssh_keys: owner.ssh_keys,
        wifi: owner.wifi,
        host_port: image.host_port.unwrap_or_default(),
        health_port: (role == Role::Server).then_some(health_port),
        kubeconfig_for_owner: owner.kubeconfig_for_owner,
    }
}

/// What the keys of the owner's file say together: leaves out what contradicts the rest, and says so.
fn checked(role: Role, image: &Raw, mut owner: Raw, mistakes: &mut Vec<Mistake>) -> Raw {
    let places = std::mem::take(&mut owner.places);
    let mut wrong = |path: &str, text: &str| {
        let place = |key: &str| places.iter().find(|(name, _)| name == key).map(|(_, at)| *at);
        // What is missing belongs to the key that wants it.
        let at = place(path).or_else(|| place("role"));
        mistakes.push(Mistake::of_key(at, path, text));
    };
    if role == Role::Server && owner.server.take().is_some() {
        wrong("server", "is for role agent; it is left out");
    }
    let named = places.iter().any(|(key, _)| key == "server");
    let missing = owner.server.is_none() && given(&owner.args, &["--server", "-s"]).is_none();
    if role == Role::Agent && !named && missing {
        wrong("server", "is missing: role agent needs the server's address");
    }
    if role == Role::Agent && std::mem::take(&mut owner.kubeconfig_for_owner) {
        wrong("kubeconfig", "is for role server: an agent has none");
    }
    if owner.token.is_some() && given(&owner.args, &["--token", "-t", "--token-file"]).is_some() {
        owner.token = None;
        wrong("token", "stands in args too; the one in args holds");
    }
    if !owner.links.is_empty() && owner.interface.is_some() {
        wrong("interface", "stands beside network, which holds");
    }
    if !owner.ssh_keys.is_empty() && !image.has("ssh") {
        owner.ssh_keys.clear();
        wrong("ssh-keys", "is for the debug variant of an image; this one has no SSH server");
    }
    if owner.wifi.is_some() && !image.has("wifi") {
        owner.wifi = None;
        wrong("wifi", "is for the wifi variant of an image; this one has nothing for it");
    }
    owner
}

/// The address of the first link, if it is known now: without a gateway the node could not tell it.
fn own_address(links: &[Link]) -> Option<std::net::Ipv4Addr> {
    match links.first()?.addressing {
        Addressing::Static { address, .. } => Some(address),
        Addressing::Dhcp => None,
    }
}
