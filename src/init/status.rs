//! What a person at the board wants to see: name, addresses, version, slot, components, last error. A block of lines on
//! the serial console when something changes, the whole screen on the first virtual terminal.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// The screen of a board with HDMI.
const SCREEN: &str = "/dev/tty1";
const INTERFACES: &str = "/sys/class/net";
const ADDRESSES_MAX: usize = 8;
const TEXT_MAX: usize = 120;
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) slot: String,
    pub(crate) addresses: Vec<String>,
    /// Name and state, in the order to show.
    pub(crate) components: Vec<(&'static str, String)>,
    pub(crate) last_error: Option<String>,
}

impl Status {
    pub(crate) fn lines(&self) -> Vec<String> {
        let addresses = match self.addresses.as_slice() {
            [] => "no address".to_owned(),
            addresses => addresses.join(", "),
        };
        let Status { name, version, slot, .. } = self;
        let components: Vec<String> =
            self.components.iter().map(|(name, state)| format!("{name} {state}")).collect();
        let mut lines = vec![
            format!("{name}: {addresses}, copepod {version}, slot {slot}"),
            components.join(", "),
        ];
        lines.extend(self.last_error.iter().map(|error| format!("last error: {error}")));
        lines.iter().map(|line| clean(line)).collect()
    }

    /// The same for a screen that shows nothing else.
    pub(crate) fn screen(&self) -> String {
        let Status { name, version, slot, .. } = self;
        let mut text = format!("{CLEAR}Copepod {version}, slot {slot}\r\n\r\n");
        let mut row = |key: &str, value: &str| {
            text.push_str(&format!("  {key:10} {}\r\n", clean(value)));
        };
        row("name", name);
        for address in &self.addresses {
            row("address", address);
        }
        for (component, state) in &self.components {
            row(component, state);
        }
        row("last error", self.last_error.as_deref().unwrap_or("none"));
        text
    }

    /// Draws the screen, where there is one.
    pub(crate) fn draw(&self) {
        let flags = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).bits();
        if let Ok(mut screen) = OpenOptions::new().write(true).custom_flags(flags).open(SCREEN) {
            // A screen nobody looks at must not hold up PID 1.
            let _ = screen.write_all(self.screen().as_bytes());
        }
    }
}

/// Without what moves the cursor, and no longer than a line.
fn clean(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(TEXT_MAX).collect()
}

/// Addresses of the interfaces that belong to devices, without those that reach no further than the cable.
pub(crate) fn addresses() -> Vec<String> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let outside = |name: &str| Path::new(INTERFACES).join(name).join("device").exists();
    let shown = all.filter(|one| outside(&one.interface_name)).filter_map(|one| {
        let address = one.address?;
        let four = address.as_sockaddr_in().map(|four| four.ip().to_string());
        let six = || address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip);
        four.or_else(|| six().filter(|six| !six.is_unicast_link_local()).map(|six| six.to_string()))
    });
    shown.take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            name: "kitchen".to_owned(),
            version: "1".to_owned(),
            slot: "a".to_owned(),
            addresses: vec!["10.0.0.5".to_owned(), "fd00::5".to_owned()],
            components: vec![("network", "up".to_owned()), ("node", "up".to_owned())],
            last_error: None,
        }
    }

    #[test]
    fn a_block_says_it_all_in_few_lines() {
        let mut status = status();
        let first = "kitchen: 10.0.0.5, fd00::5, copepod 1, slot a";
        assert_eq!(status.lines(), [first, "network up, node up"]);
        status.addresses.clear();
        status.last_error = Some("node\x1b[2J ended".to_owned());
        let lines = status.lines();
        assert_eq!(lines[0], "kitchen: no address, copepod 1, slot a");
        assert_eq!(lines[2], "last error: node[2J ended");
    }

    #[test]
    fn a_screen_is_drawn_from_its_corner() {
        let text = status().screen();
        assert!(text.starts_with("\x1b[2J\x1b[HCopepod 1, slot a\r\n"), "{text:?}");
        assert!(text.contains("\r\n  address    fd00::5\r\n"), "{text:?}");
        assert!(text.ends_with("  last error none\r\n"), "{text:?}");
    }
}
