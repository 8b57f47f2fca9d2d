//! Users and groups as an image's own `/etc/passwd` and `/etc/group` have them, read from its layers without mounting.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::error::Error;

/// Largest passwd or group file; the rest of a larger one is not seen.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Symbolic links followed on the way to a file.
const LINKS_MAX: u32 = 16;
const ADDITIONAL_GROUPS_MAX: usize = 1024;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    pub gid: u32,
    /// The groups that list the user; the primary one is there only if it does too.
    pub additional_gids: Vec<u32>,
    pub home: Option<String>,
}

/// Resolves `user`, `uid`, `user:group` or any mixture of names and numbers; an empty one is root. `layers` are topmost
/// first, as in [`super::Image`]. Reads files, so it blocks.
pub fn lookup_user(layers: &[PathBuf], user: &str) -> Result<UserIds, Error> {
    let fail = |reason: String| Error::User { user: user.to_owned(), reason };
    let passwd = read(layers, "etc/passwd")
        .map_err(|error| fail(format!("reading /etc/passwd: {error}")))?
        .unwrap_or_default();
    let group = read(layers, "etc/group")
        .map_err(|error| fail(format!("reading /etc/group: {error}")))?
        .unwrap_or_default();
    resolve(&passwd, &group, user).map_err(fail)
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { return None };
        Some(Account {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: rest.get(1).copied().unwrap_or_default(),
        })
    })
}

/// Name, id and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, rest @ ..] = fields.as_slice() else { return None };
        Some((*name, gid.parse().ok()?, rest.first().copied().unwrap_or_default()))
    })
}

fn resolve(passwd: &str, group: &str, user: &str) -> Result<UserIds, String> {
    let (wanted, wanted_group) = match user.split_once(':') {
        Some((wanted, group)) => (wanted, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let number = wanted.parse::<u32>().ok();
    let account = match number {
        Some(uid) => accounts(passwd).find(|account| account.uid == uid),
        None => accounts(passwd).find(|account| account.name == wanted),
    };
    let uid = account
        .as_ref()
        .map(|account| account.uid)
        .or(number)
        .ok_or("no matching entries in passwd file")?;
    let gid = match wanted_group {
        Some(name) => group_id(group, name)?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut additional_gids = Vec::new();
    if let Some(account) = &account {
        let member = |members: &str| members.split(',').any(|member| member == account.name);
        for (_, id, _) in groups(group).filter(|(_, _, members)| member(members)) {
            if !additional_gids.contains(&id) && additional_gids.len() < ADDITIONAL_GROUPS_MAX {
                additional_gids.push(id);
            }
        }
    }
    let home = account.map(|account| account.home.to_owned()).filter(|home| !home.is_empty());
    Ok(UserIds { uid, gid, additional_gids, home })
}

fn group_id(group: &str, wanted: &str) -> Result<u32, String> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    let found = groups(group).find(|(name, _, _)| *name == wanted);
    found
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| format!("group {wanted}: no matching entries in group file"))
}

/// What a name means in the stacked layers.
enum Node {
    Missing,
    /// The same directory in every layer that shows through, topmost first.
    Directory(Vec<OwnedFd>),
    Link(PathBuf),
    File(OwnedFd),
}

/// Reads a file of the merged tree; `None` if there is none.
fn read(layers: &[PathBuf], path: &str) -> Result<Option<String>, Errno> {
    let open = |layer: &PathBuf| {
        nix::fcntl::open(
            layer,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
    };
    let mut pending: Vec<String> = parts(Path::new(path));
    let mut walked: Vec<String> = Vec::new();
    let mut links = 0;
    'restart: loop {
        let mut here = layers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        for part in walked.clone() {
            match find(&here, &part)? {
                Node::Directory(next) => here = next,
                _ => return Ok(None),
            }
        }
        while let Some(part) = pending.pop() {
            if part == ".." {
                walked.pop();
                continue 'restart;
            }
            match find(&here, &part)? {
                Node::Missing => return Ok(None),
                Node::Directory(next) => {
                    walked.push(part);
                    here = next;
                }
                Node::File(file) => {
                    return Ok(if pending.is_empty() { Some(content(file)?) } else { None });
                }
                Node::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::ELOOP);
                    }
                    if target.is_absolute() {
                        walked.clear();
                    }
                    pending.extend(parts(&target));
                    continue 'restart;
                }
            }
        }
        return Ok(None);
    }
}

/// The components of a path, last first, without those that mean nothing.
fn parts(path: &Path) -> Vec<String> {
    use std::path::Component;
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    });
    let mut named: Vec<_> = named.collect();
    named.reverse();
    named
}

/// Looks a name up as overlayfs would: the topmost layer that knows it decides; directories merge until one is opaque.
fn find(here: &[OwnedFd], name: &str) -> Result<Node, Errno> {
    let mut merged = Vec::new();
    for layer in here {
        let found = match fstatat(layer, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFDIR && !merged.is_empty() {
            break;
        }
        if kind == SFlag::S_IFDIR {
            let directory = openat(
                layer,
                name,
                OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            let opaque = sys::xattr::get(&directory, c"trusted.overlay.opaque")
                .ok()
                .flatten()
                .is_some_and(|value| value == b"y");
            merged.push(directory);
            if opaque {
                break;
            }
        } else if kind == SFlag::S_IFLNK {
            return Ok(Node::Link(PathBuf::from(readlinkat(layer, name)?)));
        } else if kind == SFlag::S_IFREG {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            return Ok(Node::File(openat(layer, name, flags, Mode::empty())?));
        } else {
            // A whiteout, or something that cannot be read.
            return Ok(Node::Missing);
        }
    }
    Ok(if merged.is_empty() { Node::Missing } else { Node::Directory(merged) })
}

fn content(file: OwnedFd) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    File::from(file)
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
