//! The node's name and address, from flags or from the machine; and tokens from flags or files.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli;

/// Any address outside; nothing is sent to it.
const OUTSIDE: &str = "192.0.2.1:9";

/// The node's name, which is kept in `folder` (DATA/agent) as far as it is made up.
pub(crate) fn node_name(flags: &cli::Node, folder: &Path) -> Result<String> {
    let base = match &flags.node_name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let name = cluster::node_name(folder, &base, flags.with_node_id)
        .context("making up the node's number")?;
    check_node_name(&name)?;
    Ok(name)
}

pub(crate) fn check_node_name(name: &str) -> Result<()> {
    match api::names::dns1123_subdomain(name).first() {
        Some(why) => bail!("--node-name: {name:?} cannot name a node: {why}"),
        None => Ok(()),
    }
}

fn host_name() -> Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host name")?;
    Ok(name.trim().to_lowercase())
}

/// The address with which this machine reaches others, or at least `server`.
pub(crate) fn default_address(server: Option<&str>) -> Option<IpAddr> {
    towards(OUTSIDE).or_else(|| towards(server?))
}

/// Connecting a datagram socket sends nothing, but chooses the address.
fn towards(target: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(target).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// A token given directly or in a file; `flag` names the file's flag.
pub(crate) fn token(
    token: Option<&String>,
    file: Option<&Path>,
    flag: &str,
) -> Result<Option<String>> {
    match (token, file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("{flag} {}", file.display()))?;
            Ok(Some(text.trim().to_owned()))
        }
        (None, None) => Ok(None),
    }
}
