//! What the network tells this machine: name servers, search domains, time servers; as the files others read.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::Error;
use crate::dhcp::Lease;
use crate::settings::Dns;

const RESOLV_CONF: &str = "/run/resolv.conf";
/// Time servers that DHCP named, one a line.
pub(crate) const TIME_SERVERS: &str = "/run/copepod/time-servers";
/// Name servers and search domains that resolvers read.
const NAME_SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;

/// What the leases of all interfaces say.
#[derive(Debug, Default)]
pub(crate) struct Told {
    own: Dns,
    leases: Vec<Option<Lease>>,
}

impl Told {
    /// `own` is what the owner says; it stands first.
    pub(crate) fn new(own: Dns, interfaces: usize) -> Told {
        Told { own, leases: vec![None; interfaces] }
    }

    /// Notes the lease of interface `number`.
    pub(crate) fn note(&mut self, number: usize, lease: Option<Lease>) {
        if let Some(slot) = self.leases.get_mut(number) {
            *slot = lease;
        }
    }

    /// Writes the files.
    pub(crate) fn write(&self) -> Result<(), Error> {
        for (path, text) in [(RESOLV_CONF, self.resolv_conf()), (TIME_SERVERS, self.time_servers())]
        {
            let path = Path::new(path);
            sys::replace_file(path, text.as_bytes(), 0o644).map_err(Error::file("write", path))?;
        }
        Ok(())
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter().flatten()
    }

    /// The owner's name servers replace those of the leases, as do his search domains.
    pub(crate) fn resolv_conf(&self) -> String {
        let mut search = self.own.search.clone();
        if search.is_empty() {
            search = distinct(self.leases().filter_map(|lease| lease.domain.clone()));
        }
        let mut servers = self.own.servers.clone();
        if servers.is_empty() {
            let told = self.leases().flat_map(|lease| lease.name_servers.iter().copied());
            servers = distinct(told.map(IpAddr::V4));
        }
        search.truncate(SEARCH_MAX);
        let search = if search.is_empty() {
            String::new()
        } else {
            format!("search {}\n", search.join(" "))
        };
        let servers = servers.iter().take(NAME_SERVERS_MAX);
        search + &servers.map(|server| format!("nameserver {server}\n")).collect::<String>()
    }

    fn time_servers(&self) -> String {
        let told: Vec<Ipv4Addr> =
            distinct(self.leases().flat_map(|lease| lease.time_servers.iter().copied()));
        told.iter().map(|server| format!("{server}\n")).collect()
    }
}

fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
