//! Who this board was at its last start, kept on the data partition.
//!
//! Another role or name makes another node, which takes away everything that the pods of the former one have stored. So
//! these change only when the owner's file says so, never because a key is misspelt or the file cannot be read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mistakes::{Mistake, Place};
use super::resolve::HOSTNAME;
use super::{Raw, Role, Settings, values};
use crate::Error;
use crate::phases::DATA;

const FILE: &str = "identity.json";
const FILE_MAX: u64 = 4096;
const NUMBERED: &str = "--with-node-id";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Last {
    pub(crate) role: Option<Role>,
    /// The server of an agent.
    pub(crate) server: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) node_name: Option<String>,
    /// Whether the name has a number that is kept too.
    pub(crate) with_node_id: bool,
}

impl Last {
    /// What is kept; nothing on a board that is new, was reset, or whose file is damaged.
    pub(crate) fn read() -> Last {
        use std::io::Read;
        let mut text = String::new();
        let read = std::fs::File::open(path())
            .and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
        read.map_or_else(|_| Last::default(), |_| Last::parse(&text))
    }

    pub(crate) fn parse(text: &str) -> Last {
        let Last { role, server, hostname, node_name, with_node_id } =
            serde_json::from_str(text).unwrap_or_default();
        let good = |value: Option<String>, check: fn(&str) -> Result<String, String>| {
            value.and_then(|value| check(&value).ok())
        };
        Last {
            role,
            server: good(server, values::server),
            hostname: good(hostname, values::host_name),
            node_name: good(node_name, values::node_name),
            with_node_id,
        }
    }

    /// Keeps who the board is now.
    pub(crate) fn keep(settings: &Settings) -> Result<(), Error> {
        let last = Last::of(settings);
        if last == Last::read() {
            return Ok(());
        }
        let path = path();
        let text = serde_json::to_string(&last).unwrap_or_default() + "\n";
        sys::atomic_write(&path, text.as_bytes(), 0o600).map_err(Error::file("write", &path))
    }

    pub(crate) fn of(settings: &Settings) -> Last {
        let flag = |names: &[&str]| given(&settings.node, names).map(str::to_owned);
        Last {
            role: Some(settings.role),
            server: flag(&["--server", "-s"]),
            hostname: Some(settings.hostname.clone()),
            node_name: flag(&["--node-name"]),
            with_node_id: settings.node.iter().any(|arg| arg == NUMBERED),
        }
    }

    /// Puts what held last where the owner's file has nothing usable, and says so.
    pub(crate) fn fill(&self, owner: &mut Raw, image: &Raw, mistakes: &mut Vec<Mistake>) {
        let mut kept = |key: &str, value: &str| {
            let text =
                format!("is not given in a usable form; {value} holds, as at the last start");
            mistakes.push(Mistake::of_key(owner_place(&owner.places, key), key, &text));
        };
        let by_image = image.role.unwrap_or(Role::Server);
        if let Some(role) = self.role.filter(|role| owner.role.is_none() && *role != by_image) {
            owner.role = Some(role);
            kept("role", role.name());
        }
        let role = owner.role.unwrap_or(by_image);
        let by_args = |flags: &[&str]| given(&owner.args, flags).is_some();
        if let Some(server) = &self.server
            && role == Role::Agent
            && owner.server.is_none()
            && !by_args(&["--server", "-s"])
        {
            owner.server = Some(server.clone());
            kept("server", server);
        }
        if let Some(name) = &self.node_name
            && owner.node_name.is_none()
            && !by_args(&["--node-name"])
        {
            owner.node_name = Some(name.clone());
            kept("node-name", name);
        }
        if self.with_node_id && owner_place(&owner.places, "args").is_none() {
            owner.args.push(NUMBERED.to_owned());
            kept("args", NUMBERED);
        }
        let by_image = image.hostname.as_deref().unwrap_or(HOSTNAME);
        if let Some(name) = &self.hostname
            && owner.hostname.is_none()
            && name != by_image
        {
            owner.hostname = Some(name.clone());
            kept("hostname", name);
        }
    }
}

fn owner_place(places: &[(String, Place)], key: &str) -> Option<Place> {
    places.iter().find(|(name, _)| name == key).map(|(_, at)| *at)
}

fn path() -> PathBuf {
    Path::new(DATA).join(FILE)
}

/// The value that the last of these flags has among the arguments.
pub(crate) fn given<'args>(args: &'args [String], flags: &[&str]) -> Option<&'args str> {
    let mut found = None;
    for (index, arg) in args.iter().enumerate() {
        match arg.split_once('=') {
            Some((name, value)) if flags.contains(&name) => found = Some(value),
            None if flags.contains(&arg.as_str()) => {
                found = Some(args.get(index + 1).map_or("", String::as_str));
            }
            _ => {}
        }
    }
    found
}
