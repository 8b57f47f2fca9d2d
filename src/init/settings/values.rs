//! Reading single values; every error says what was expected. Values of secrets are never repeated.

use std::net::{IpAddr, Ipv4Addr};

use super::Role;

const NAME_MAX: usize = 253;
/// An RSA key of 16384 bits has less.
const SSH_KEY_MAX: usize = 4096;

pub(crate) fn role(text: &str) -> Result<Role, String> {
    match text {
        "server" => Ok(Role::Server),
        "agent" => Ok(Role::Agent),
        _ => Err(format!("expected server or agent, found {text:?}")),
    }
}

pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("expected true or false, found {text:?}")),
    }
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a number, found {text:?}"))
}

pub(crate) fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// A name the kernel and DHCP servers take: up to 63 lower-case letters, digits and inner hyphens.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    let wrong = || {
        format!("expected a host name (lower-case letters, digits, inner hyphens), found {text:?}")
    };
    api::names::dns1123_label(text).is_empty().then(|| text.to_owned()).ok_or_else(wrong)
}

pub(crate) fn node_name(text: &str) -> Result<String, String> {
    let wrong = || format!("expected a node name such as kitchen or kitchen.lan, found {text:?}");
    api::names::dns1123_subdomain(text).is_empty().then(|| text.to_owned()).ok_or_else(wrong)
}

pub(crate) fn server(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").unwrap_or_default();
    let fits = is_authority(rest.strip_suffix('/').unwrap_or(rest));
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("expected https://HOST:6443, found {text:?}"))
}

/// What is wrong with it is not shown: it may hold a password.
pub(crate) fn web_address(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let (authority, path) =
        rest.map_or(("", ""), |rest| rest.split_at(rest.find('/').unwrap_or(rest.len())));
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
    (is_authority(authority) && path.bytes().all(plain)).then(|| text.to_owned()).ok_or_else(|| {
        "expected an address such as https://registry.lan:5000, without a name or a query"
            .to_owned()
    })
}

/// A name or an address, IPv6 in brackets, and maybe a port.
fn is_authority(text: &str) -> bool {
    let (is_host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host.parse::<std::net::Ipv6Addr>().is_ok(), port),
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            let named = (1..=NAME_MAX).contains(&host.len()) && host.bytes().all(plain);
            (named, port)
        }
    };
    let number = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(number))
}

/// One line without spaces; what is wrong with it is not shown.
pub(crate) fn secret(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.chars().all(|char| char.is_ascii_graphic());
    plain.then(|| text.to_owned()).ok_or_else(|| "expected one word".to_owned())
}

/// The one place where an owner may have the administrator's kubeconfig.
pub(crate) fn kubeconfig(text: &str) -> Result<(), String> {
    let wrong = || format!("expected boot-partition, found {text:?}");
    (text == "boot-partition").then_some(()).ok_or_else(wrong)
}

/// Key and value of a label, checked by the rules of Kubernetes.
pub(crate) fn label(key: &str, value: &str) -> Result<String, String> {
    let problems = [api::names::qualified_name(key), api::names::label_value(value)].concat();
    match problems.first() {
        None => Ok(format!("{key}={value}")),
        Some(problem) => Err(format!("{key}={value} is no label: {problem}")),
    }
}

/// A taint as `key=value:effect` or `key:effect`.
pub(crate) fn taint(text: &str) -> Result<String, String> {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let parts = text.rsplit_once(':').filter(|(_, effect)| EFFECTS.contains(effect));
    let Some((pair, _)) = parts else {
        return Err(format!(
            "expected key=value:effect with effect {}, found {text:?}",
            EFFECTS.join(", ")
        ));
    };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    label(key, value).map(|_| text.to_owned())
}

pub(crate) fn interface(text: &str) -> Result<String, String> {
    // The kernel's limit is 16 bytes with the terminator.
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if plain && (1..16).contains(&text.len()) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err(format!("expected the name of an interface such as eth0, found {text:?}"))
}

pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("expected an address such as 192.168.1.1, found {text:?}"))
}

pub(crate) fn gateway(text: &str) -> Result<Ipv4Addr, String> {
    let wrong = || format!("expected an IPv4 address such as 192.168.1.1, found {text:?}");
    text.parse::<Ipv4Addr>().ok().filter(|address| is_of_host(*address)).ok_or_else(wrong)
}

/// An address with the length of its network.
pub(crate) fn interface_address(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let wrong = || {
        format!("expected an IPv4 address with its prefix such as 192.168.1.5/24, found {text:?}")
    };
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if !(1..=32).contains(&prefix) || !is_of_host(address) {
        return Err(wrong());
    }
    Ok((address, prefix))
}

fn is_of_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

/// Whether both lie in the network of this length.
pub(crate) fn same_network(one: Ipv4Addr, other: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    u32::from(one) & mask == u32::from(other) & mask
}

/// Letters, digits, dots, hyphens: what may stand in resolv.conf without changing its meaning.
pub(crate) fn domain(text: &str) -> Result<String, String> {
    let wrong = || format!("expected a domain such as home.arpa, found {text:?}");
    crate::dhcp::is_domain(text).then(|| text.to_owned()).ok_or_else(wrong)
}

/// A time server: name or address, and maybe a port.
pub(crate) fn time_server(text: &str) -> Result<String, String> {
    let (host, port) = crate::clock::host_and_port(text);
    let is_named = host.len() <= NAME_MAX && crate::dhcp::is_domain(host);
    let is_host = is_named || host.parse::<IpAddr>().is_ok();
    let wrong = || format!("expected a name or an address such as pool.ntp.org, found {text:?}");
    (is_host && port != 0).then(|| text.to_owned()).ok_or_else(wrong)
}

/// Two letters, such as DE.
pub(crate) fn country(text: &str) -> Result<String, String> {
    let plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let wrong = || format!("expected a country as two letters such as DE, found {text:?}");
    plain.then(|| text.to_ascii_uppercase()).ok_or_else(wrong)
}

/// The name of a wireless network: any characters, at most 32 bytes.
pub(crate) fn ssid(text: &str) -> Result<String, String> {
    let wrong = || format!("expected the name of a network, 1 to 32 bytes, found {text:?}");
    (1..=32).contains(&text.len()).then(|| text.to_owned()).ok_or_else(wrong)
}

/// As IEEE 802.11 has it: 8 to 63 printable ASCII characters, or the 64 hexadecimal digits that are made of them. What is
/// wrong with it is not shown.
pub(crate) fn wifi_password(text: &str) -> Result<String, String> {
    let printable = || text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let fits = match text.len() {
        8..=63 => printable(),
        64 => text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => false,
    };
    fits.then(|| text.to_owned()).ok_or_else(|| {
        "expected 8 to 63 letters, digits and signs of ASCII, or 64 hexadecimal digits".to_owned()
    })
}

/// A line of an `authorized_keys` file without options in front, which would run commands.
pub(crate) fn ssh_key(text: &str) -> Result<String, String> {
    const KINDS: [&str; 5] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
    ];
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let mut words = text.split(' ');
    let kind = words.next().is_some_and(|word| KINDS.contains(&word));
    let key = words.next().is_some_and(|word| word.starts_with("AAAA") && word.bytes().all(base64));
    let wrong =
        || format!("expected a public key such as \"ssh-ed25519 AAAA... me\", found {text:?}");
    let one_line = text.len() <= SSH_KEY_MAX && !text.chars().any(char::is_control);
    (kind && key && one_line).then(|| text.to_owned()).ok_or_else(wrong)
}
