//! The administrator's kubeconfig on the boot partition, for an owner who asks for it: a release image has no shell, and
//! whoever holds the card owns the board anyway.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use crate::phases::BOOT;
use crate::{Error, mounts};

/// Where the node writes it.
pub(crate) const OF_NODE: &str = "/var/lib/copepod/kubeconfig.yaml";
/// Its name on the boot partition.
pub(crate) const FOR_OWNER: &str = "kubeconfig.yaml";
const LENGTH_MAX: u64 = 64 * 1024;
/// How the node names itself, since it cannot know which of its addresses others reach.
const LOOPBACK: &str = "https://127.0.0.1:";

/// Puts the node's kubeconfig, with an address that others reach, onto the boot partition unless it is there already.
/// Whether something was written.
pub(crate) fn publish(address: IpAddr) -> Result<bool, Error> {
    let source = Path::new(OF_NODE);
    let text = match read(source) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        text => text.map_err(Error::file("read", source))?,
    };
    let target = Path::new(BOOT).join(FOR_OWNER);
    let text = reached_at(&text, address);
    if read(&target).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    mounts::with_writable_boot(|| {
        sys::atomic_write(&target, text.as_bytes(), 0o600).map_err(Error::file("write", &target))
    })?;
    Ok(true)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LENGTH_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The kubeconfig with the server at this address.
pub(crate) fn reached_at(text: &str, address: IpAddr) -> String {
    let host = match address {
        IpAddr::V4(four) => four.to_string(),
        IpAddr::V6(six) => format!("[{six}]"),
    };
    text.replace(LOOPBACK, &format!("https://{host}:"))
}
