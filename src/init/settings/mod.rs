//! What the image and the owner say about this machine: `/etc/copepod/board.yaml`, then `copepod.yaml` on the boot
//! partition, key by key; `args` of both are kept.
//!
//! Nothing in the owner's file stops a boot: what is wrong is noted with its place, and the rest holds.

mod field;
mod keys;
mod last;
pub(crate) mod mistakes;
mod proof;
mod registries;
mod resolve;
mod tree;
mod values;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::phases::BOOT;
use mistakes::Mistake;

pub(crate) use keys::{parse_image, parse_owner};
pub(crate) use last::Last;
pub(crate) use proof::{Judge, proven};
pub(crate) use resolve::{REGISTRIES_FILE, TOKEN_FILE, resolve};

// Not config.yaml: that name is the node's own, for its flags.
const IMAGE_FILE: &str = "/etc/copepod/board.yaml";
pub(crate) const OWNER_FILE: &str = "copepod.yaml";
const FILE_MAX: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Server,
    Agent,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Agent => "agent",
        }
    }
}

/// Text that is neither logged nor shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(not shown)")
    }
}

/// A file as written, without what is wrong in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raw {
    hostname: Option<String>,
    node_name: Option<String>,
    role: Option<Role>,
    server: Option<String>,
    token: Option<Secret>,
    labels: Vec<String>,
    taints: Vec<String>,
    args: Vec<String>,
    interface: Option<String>,
    links: Vec<Link>,
    dns: Dns,
    ntp: Vec<String>,
    registries: Option<Secret>,
    build_epoch: Option<u64>,
    host_port: Option<bool>,
    health_port: Option<u16>,
    kubeconfig_for_owner: bool,
    ssh_keys: Vec<String>,
    wifi: Option<Wifi>,
    /// What the image has that not every image has: `shell`, `ssh`, `wifi`.
    parts: Vec<String>,
    /// Where the keys stand, for what only shows when all is read.
    places: Vec<(String, mistakes::Place)>,
}

/// How one interface gets its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The first Ethernet one when not named.
    pub(crate) interface: Option<String>,
    pub(crate) addressing: Addressing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Addressing {
    Dhcp,
    Static { address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr> },
}

/// Servers and search domains that stand before what DHCP says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dns {
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) search: Vec<String>,
}

/// Networks without a cable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wifi {
    /// Whose rules for channels and power hold, as ISO 3166 names it; those that hold everywhere when none.
    pub(crate) country: Option<String>,
    /// In the order of preference.
    pub(crate) networks: Vec<WifiNetwork>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WifiNetwork {
    pub(crate) ssid: String,
    pub(crate) password: Secret,
    /// It does not announce its name.
    pub(crate) hidden: bool,
}

/// What PID 1 acts on; cannot be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) role: Role,
    pub(crate) hostname: String,
    /// Arguments of the node, the role first.
    pub(crate) node: Vec<String>,
    pub(crate) links: Vec<Link>,
    pub(crate) dns: Dns,
    /// Time servers; those of DHCP or the pool when there are none.
    pub(crate) ntp: Vec<String>,
    /// Content of the files that the node's arguments name.
    pub(crate) token: Option<Secret>,
    pub(crate) registries: Option<Secret>,
    /// When the image was built, in seconds since 1970.
    pub(crate) build_epoch: u64,
    /// Whether the console has a shell; the debug variant's has.
    pub(crate) shell: bool,
    /// Who may come in by SSH; nobody but on images that have a server for it.
    pub(crate) ssh_keys: Vec<String>,
    /// The networks to join without a cable.
    pub(crate) wifi: Option<Wifi>,
    /// Whether to serve the hypervisor's port, which hands out the kubeconfig.
    pub(crate) host_port: bool,
    /// The node is healthy when it accepts connections here; an agent only has to stay up.
    pub(crate) health_port: Option<u16>,
    /// Whether the owner wants the kubeconfig on the boot partition.
    pub(crate) kubeconfig_for_owner: bool,
}

impl Raw {
    fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|name| name == part)
    }
}

impl Settings {
    /// Before any file can be read.
    pub(crate) fn none() -> Settings {
        resolve(Raw::default(), Raw::default(), &Last::default(), &mut Vec::new())
    }

    /// Reads both files; returns what is wrong as lines to show. `judge` says whether a node would start.
    pub(crate) fn read(judge: Judge<'_>) -> (Settings, Vec<String>) {
        let image_path = Path::new(IMAGE_FILE);
        // Not tried in a child: it is ours and verified, and whatever happens the machine cannot do without it.
        let (image, problems) = load(image_path, parse_image, |_| true);
        let mut lines = mistakes::shown(&problems, IMAGE_FILE);
        let survives = |text: &str| crate::trial::survives(|| drop(parse_owner(text)));
        let (owner, mut problems) = load(&Path::new(BOOT).join(OWNER_FILE), parse_owner, survives);
        let last = Last::read();
        let owner = proven(&image, owner, &last, judge, &mut problems);
        let settings = resolve(image, owner, &last, &mut problems);
        lines.extend(mistakes::shown(&problems, OWNER_FILE));
        (settings, lines)
    }
}

/// What is wrong with the text of an owner's file on an image with these settings, one line each.
pub(crate) fn check(text: &str, image: &str) -> Vec<String> {
    let (owner, mut problems) = parse_owner(text);
    resolve(parse_image(image).0, owner, &Last::default(), &mut problems);
    mistakes::shown(&problems, OWNER_FILE)
}

type Parse = fn(&str) -> (Raw, Vec<Mistake>);

fn load(path: &Path, parse: Parse, survives: impl Fn(&str) -> bool) -> (Raw, Vec<Mistake>) {
    match text(path) {
        Ok(Some(text)) if survives(&text) => parse(&text),
        Ok(Some(_)) => {
            let text = "it could not be read in a process of its own, or reading it fails in an unexpected way; all of it is left out".to_owned();
            (Raw::default(), vec![Mistake::of_file(text)])
        }
        Ok(None) => Default::default(),
        Err(error) => (Raw::default(), vec![Mistake::of_file(error.to_string())]),
    }
}

/// The content of a file that need not be there; what is not UTF-8 becomes replacement characters.
fn text(path: &Path) -> Result<Option<String>, Error> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(Error::file("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::TooLarge { path: path.to_owned(), max: FILE_MAX });
    }
    // Editors of other systems begin a file with a byte order mark.
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned()))
}
