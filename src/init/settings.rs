//! What the image and the owner say about this machine: `/etc/copepod/board.yaml`, then `copepod.yaml` on the boot
//! partition, field by field; `args` of both are kept.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;
use crate::phases::{BOOT, DATA};

// Not config.yaml: that name is the node's own, for its flags.
const IMAGE_FILE: &str = "/etc/copepod/board.yaml";
const OWNER_FILE: &str = "copepod.yaml";
const FILE_MAX: u64 = 64 * 1024;
const HOSTNAME: &str = "copepod";
const HEALTH_PORT: u16 = 6443;

/// The file as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    hostname: Option<String>,
    role: Option<Role>,
    args: Vec<String>,
    interface: Option<String>,
    build_epoch: Option<u64>,
    host_port: Option<bool>,
    health_port: Option<u16>,
    kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    Server,
    Agent,
}

/// What PID 1 acts on; cannot be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) hostname: String,
    /// Arguments of the node, the role first.
    pub(crate) node: Vec<String>,
    /// The interface to configure; the first Ethernet one when not named.
    pub(crate) interface: Option<String>,
    /// No clock is right that shows an earlier time (seconds since 1970).
    pub(crate) clock_floor: u64,
    /// Whether to serve the hypervisor's port, which hands out the kubeconfig.
    pub(crate) host_port: bool,
    /// The node is healthy when it accepts connections here; an agent only has to stay up.
    pub(crate) health_port: Option<u16>,
    pub(crate) kubeconfig: PathBuf,
}

impl Settings {
    /// Reads both files. A file that is wrong is left out, and said.
    pub(crate) fn read() -> (Settings, Vec<Error>) {
        let mut problems = Vec::new();
        let mut take = |path: &Path| match read(path) {
            Ok(raw) => raw,
            Err(error) => {
                problems.push(error);
                Raw::default()
            }
        };
        let settings =
            resolve(take(Path::new(IMAGE_FILE)), take(&Path::new(BOOT).join(OWNER_FILE)));
        (settings, problems)
    }
}

fn read(path: &Path) -> Result<Raw, Error> {
    use std::io::Read;
    let mut text = String::new();
    match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Raw::default()),
        Err(error) => return Err(Error::file("open", path)(error)),
        Ok(file) => {
            file.take(FILE_MAX).read_to_string(&mut text).map_err(Error::file("read", path))?
        }
    };
    parse(&text).map_err(|reason| Error::Settings { path: path.to_owned(), reason })
}

pub(crate) fn parse(text: &str) -> Result<Raw, String> {
    if text.trim().is_empty() {
        return Ok(Raw::default());
    }
    let raw: Raw = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    match &raw.hostname {
        Some(name) if !is_host_name(name) => Err(format!("hostname {name:?} is not a host name")),
        _ => Ok(raw),
    }
}

pub(crate) fn resolve(image: Raw, owner: Raw) -> Settings {
    let kubeconfig = owner.kubeconfig.or(image.kubeconfig);
    let kubeconfig = kubeconfig.unwrap_or_else(|| Path::new(DATA).join("kubeconfig.yaml"));
    let role = owner.role.or(image.role).unwrap_or(Role::Server);
    let mut node: Vec<String> = match role {
        Role::Server => {
            let path = kubeconfig.to_string_lossy();
            ["server", "--data-dir", DATA, "--write-kubeconfig", &path].map(str::to_owned).into()
        }
        Role::Agent => ["agent", "--data-dir", DATA].map(str::to_owned).into(),
    };
    node.extend(image.args);
    node.extend(owner.args);
    Settings {
        hostname: owner.hostname.or(image.hostname).unwrap_or_else(|| HOSTNAME.to_owned()),
        node,
        interface: owner.interface.or(image.interface),
        clock_floor: image.build_epoch.unwrap_or_default(),
        host_port: owner.host_port.or(image.host_port).unwrap_or_default(),
        health_port: (role == Role::Server)
            .then(|| owner.health_port.or(image.health_port).unwrap_or(HEALTH_PORT)),
        kubeconfig,
    }
}

/// A name the kernel and DHCP servers take: up to 63 lower-case letters, digits and inner hyphens.
fn is_host_name(name: &str) -> bool {
    let inner = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
