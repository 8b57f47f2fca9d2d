//! Which module drives which device: the patterns of depmod's modules.alias, for the modules of the image.

use std::collections::BTreeMap;

/// The tables the image tool leaves beside the modules.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    /// Pattern of device names and the module for it.
    aliases: Vec<(String, String)>,
    /// A module's files in the order of loading, its own last.
    files: BTreeMap<String, Vec<String>>,
}

impl Drivers {
    /// `aliases` has lines `<pattern> <module>`, `files` lines `<module> <file> ...`; other lines are skipped.
    pub(crate) fn parse(aliases: &str, files: &str) -> Drivers {
        let pair = |line: &str| {
            let (pattern, module) = line.rsplit_once(' ')?;
            Some((pattern.to_owned(), module.to_owned()))
        };
        let row = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, words.collect()))
        };
        Drivers {
            aliases: aliases.lines().filter_map(pair).collect(),
            files: files.lines().filter_map(row).collect(),
        }
    }

    /// Files of the modules for a device, in the order of loading.
    pub(crate) fn files_for(&self, device: &str) -> Vec<&str> {
        let fits = self.aliases.iter().filter(|(pattern, _)| matches(pattern, device));
        let files = fits.filter_map(|(_, module)| self.files.get(module));
        files.flatten().map(String::as_str).collect()
    }
}

/// A pattern of the shell's kind: `*`, `?` and `[a-c]`.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // Where the last star stands, and what it has swallowed so far.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(seen) {
        let rest = pattern.get(at..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
        } else if let Some(length) = one(rest, byte) {
            at += length;
            seen += 1;
        } else if let Some((place, swallowed)) = star {
            at = place + 1;
            seen = swallowed + 1;
            star = Some((place, seen));
        } else {
            return false;
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// The length of the pattern's first piece if it fits the byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let length = class.iter().position(|byte| *byte == b']')?;
            in_class(class.get(..length)?, byte).then_some(length + 2)
        }
        [first, ..] => (*first == byte).then_some(1),
        [] => None,
    }
}

fn in_class(class: &[u8], byte: u8) -> bool {
    match class {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || in_class(rest, byte),
        [one, rest @ ..] => *one == byte || in_class(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_the_shell() {
        for (pattern, text, fits) in [
            ("virtio:d00000004v*", "virtio:d00000004v00001AF4", true),
            ("virtio:d00000004v*", "virtio:d00000001v00001AF4", false),
            ("usb:v0BDAp8152d*dc*dsc*", "usb:v0BDAp8152d3000dc00dsc00", true),
            ("usb:v*p*d0[0-2]*", "usb:v1p2d01ff", true),
            ("usb:v*p*d0[0-2]*", "usb:v1p2d03ff", false),
            ("of:N*T*Cgpio-keys", "of:Ngpio-keysT(null)Cgpio-keys", true),
            ("of:N*T*Cgpio-keys", "of:Ngpio-keysT(null)Cgpio-keys-polled", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "a", false),
            ("[", "[", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_patterns_take_little_time() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }

    #[test]
    fn a_device_brings_its_modules_and_what_they_need() {
        let drivers = Drivers::parse(
            "usb:v0BDAp8152* r8152\nusb:v0BDA* odd\nnonsense\n",
            "r8152 mii.ko usbnet.ko r8152.ko\nother other.ko\n",
        );
        assert_eq!(drivers.files_for("usb:v0BDAp8152d1"), ["mii.ko", "usbnet.ko", "r8152.ko"]);
        assert!(drivers.files_for("usb:v0001p0001d1").is_empty());
    }
}
