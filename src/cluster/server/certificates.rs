//! Certificates of nodes: what a request may ask for, and what is signed.

use std::net::IpAddr;

use http::HeaderMap;

use crate::wire;

/// What a node says about itself in the headers of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) ips: Vec<IpAddr>,
}

impl Claim {
    /// Reads the headers; the message says which one is wrong.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Claim, String> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let name = text(wire::NODE_NAME).to_owned();
        if let Some(why) = api::names::dns1123_subdomain(&name).first() {
            return Err(format!("{}: {name:?} cannot name a node: {why}", wire::NODE_NAME));
        }
        let password = text(wire::NODE_PASSWORD).to_owned();
        let hex = password.bytes().all(|b| b.is_ascii_hexdigit());
        if password.len() < 2 * wire::NODE_PASSWORD_BYTES || password.len() > 128 || !hex {
            return Err(format!(
                "{}: expected {} random bytes as hex",
                wire::NODE_PASSWORD,
                wire::NODE_PASSWORD_BYTES
            ));
        }
        let addresses = text(wire::NODE_IP).split(',').map(str::trim).filter(|t| !t.is_empty());
        let ips = addresses
            .map(|t| t.parse().map_err(|_| format!("{}: {t:?} is no address", wire::NODE_IP)))
            .collect::<Result<Vec<IpAddr>, String>>()?;
        if ips.len() > wire::NODE_IPS_MAX {
            return Err(format!("{}: more than {} addresses", wire::NODE_IP, wire::NODE_IPS_MAX));
        }
        Ok(Claim { name, password, ips })
    }

    /// A name or address the claim has in common with the server's own certificate: a node that got a certificate for it
    /// could pose as the server.
    pub(crate) fn poses_as<'a>(&self, server_names: &'a [String]) -> Option<&'a str> {
        let own = ["localhost", "127.0.0.1", "::1"];
        let wanted: Vec<String> =
            self.ips.iter().map(IpAddr::to_string).chain([self.name.clone()]).collect();
        server_names
            .iter()
            .map(String::as_str)
            .filter(|name| !own.contains(name))
            .find(|name| wanted.iter().any(|w| w == name))
    }

    pub(crate) fn serving(&self, seconds: i64) -> pki::Request {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let mut ips = vec![loopback];
        ips.extend(self.ips.iter().filter(|ip| **ip != loopback));
        let subject = pki::Subject {
            common_name: self.name.clone(),
            organization: None,
            dns_names: vec![self.name.clone(), "localhost".to_owned()],
            ips,
        };
        pki::Request { subject, server: true, client: false, seconds }
    }

    pub(crate) fn client(&self, seconds: i64) -> pki::Request {
        let subject = pki::Subject {
            common_name: format!("{}{}", wire::NODE_USER_PREFIX, self.name),
            organization: Some(wire::NODES_GROUP.to_owned()),
            ..Default::default()
        };
        pki::Request { subject, server: false, client: true, seconds }
    }
}
