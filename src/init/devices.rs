//! Devices and their modules: those that are there at the start, by walking /sys, and those that come later, by the
//! kernel's events.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};

use crate::alias::Drivers;

pub(crate) const MODULES: &str = "/usr/lib/copepod/modules";
const DEVICES: &str = "/sys/devices";
/// Buses below buses; a deeper tree is not walked.
const DEPTH_MAX: usize = 24;
/// A driver may bring new buses, whose devices are looked for again this often.
const PASSES_MAX: usize = 4;
/// The kernel's own group of events.
const KERNEL_GROUP: u32 = 1;
const EVENT_MAX: usize = 8192;
/// Events taken at one look; more wait for the next.
const EVENTS_MAX: usize = 64;

/// Loads modules as devices ask for them.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    drivers: Drivers,
    events: Option<OwnedFd>,
    /// Files that were loaded, or that failed once.
    done: BTreeSet<String>,
}

impl Devices {
    /// Begins to listen before it looks, so that nothing is missed. `loaded` are files that are there already.
    pub(crate) fn start(loaded: &str) -> (Devices, Vec<String>) {
        let read =
            |name: &str| fs::read_to_string(Path::new(MODULES).join(name)).unwrap_or_default();
        let mut devices = Devices {
            drivers: Drivers::parse(&read("aliases"), &read("files")),
            events: listen().ok(),
            done: loaded.lines().map(str::to_owned).collect(),
        };
        let mut failures = Vec::new();
        for _ in 0..PASSES_MAX {
            let before = devices.done.len();
            for alias in present() {
                failures.extend(devices.load_for(&alias));
            }
            if devices.done.len() == before {
                break;
            }
        }
        (devices, failures)
    }

    /// Becomes readable when devices come.
    pub(crate) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// Loads what new devices ask for; returns what failed.
    pub(crate) fn follow(&mut self) -> Vec<String> {
        let Some(socket) = self.events.as_ref().map(AsRawFd::as_raw_fd) else { return Vec::new() };
        let mut buffer = vec![0; EVENT_MAX];
        let mut failures = Vec::new();
        for _ in 0..EVENTS_MAX {
            match recvfrom::<NetlinkAddr>(socket, &mut buffer) {
                // Processes may send to the group too; only the kernel has the address 0.
                Ok((read, Some(sender))) if sender.pid() == 0 => {
                    let event = buffer.get(..read).unwrap_or_default();
                    if let Some(alias) = added(event).map(str::to_owned) {
                        failures.extend(self.load_for(&alias));
                    }
                }
                Ok(_) => {}
                // More came than the socket keeps.
                Err(nix::errno::Errno::ENOBUFS) => {
                    for alias in present() {
                        failures.extend(self.load_for(&alias));
                    }
                }
                Err(_) => break,
            }
        }
        failures
    }

    fn load_for(&mut self, alias: &str) -> Vec<String> {
        let files: Vec<String> =
            self.drivers.files_for(alias).into_iter().map(str::to_owned).collect();
        let mut failures = Vec::new();
        for file in files {
            if !self.done.insert(file.clone()) {
                continue;
            }
            if let Err(error) = sys::module::load(&Path::new(MODULES).join(&file)) {
                failures.push(format!("module {file}: {error}"));
            }
        }
        failures
    }
}

fn listen() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kind = SockProtocol::NetlinkKObjectUEvent;
    let fd = socket(AddressFamily::Netlink, SockType::Datagram, flags, kind)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(fd)
}

/// What an event says is the name of a device that has come: `add@/devices/...`, then `KEY=value`, ended by NUL each.
pub(crate) fn added(event: &[u8]) -> Option<&str> {
    let mut fields =
        event.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
    if !fields.next()?.starts_with("add@") {
        return None;
    }
    fields.find_map(|field| field.strip_prefix("MODALIAS="))
}

/// Names of the devices that are there.
fn present() -> Vec<String> {
    let mut aliases = Vec::new();
    let mut folders: Vec<(PathBuf, usize)> = vec![(DEVICES.into(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        if let Ok(text) = fs::read_to_string(folder.join("modalias")) {
            aliases.extend(text.lines().map(str::to_owned));
        }
        if depth == DEPTH_MAX {
            continue;
        }
        // Links lead back up and sideways; what is new is always a folder.
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(inner.map(|entry| (entry.path(), depth + 1)));
    }
    aliases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_devices_with_a_name_are_taken_from_events() {
        for (event, alias) in [
            ("add@/devices/a\0ACTION=add\0MODALIAS=usb:v1\0SEQNUM=3\0", Some("usb:v1")),
            ("remove@/devices/a\0MODALIAS=usb:v1\0", None),
            ("add@/devices/a\0ACTION=add\0", None),
            ("libudev\0MODALIAS=usb:v1\0", None),
            ("", None),
        ] {
            assert_eq!(added(event.as_bytes()), alias, "{event:?}");
        }
        assert_eq!(added(b"add@/x\0\xff\xfe\0MODALIAS=m\0"), Some("m"));
    }
}
