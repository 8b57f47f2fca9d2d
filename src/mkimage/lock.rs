//! `image/packages.lock`: which version of each Debian package an image was last built from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const HEADER: &str = "# Debian packages the images are made of. Written by `mkimage image --update-lock`; commit it.\n\n";

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Lock {
    #[serde(default)]
    package: Vec<Entry>,
    #[serde(skip)]
    path: PathBuf,
}

/// One pinned package. `request` is what the recipe asks for; a kernel's metapackage leads to one or more others.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) suite: String,
    pub(crate) request: String,
    pub(crate) arch: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
}

impl Lock {
    pub(crate) fn read(path: &Path) -> Result<Lock> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        let mut lock: Lock =
            toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        path.clone_into(&mut lock.path);
        Ok(lock)
    }

    /// The packages a request led to; none when it is new.
    pub(crate) fn find(&self, suite: &str, arch: &str, request: &str) -> Vec<Entry> {
        let asked = |entry: &&Entry| entry.key() == (suite, arch, request);
        self.package.iter().filter(asked).cloned().collect()
    }

    /// Replaces what the same requests led to.
    pub(crate) fn put(&mut self, entries: Vec<Entry>) {
        self.package.retain(|old| entries.iter().all(|new| new.key() != old.key()));
        self.package.extend(entries);
        self.package.sort_by(|a, b| (a.key(), &a.name).cmp(&(b.key(), &b.name)));
    }

    pub(crate) fn write(&self) -> Result<()> {
        fs::write(&self.path, self.text()).with_context(|| format!("write {}", self.path.display()))
    }

    fn text(&self) -> String {
        let entries = self.package.iter().map(|entry| {
            let Entry { suite, request, arch, name, version, sha256 } = entry;
            format!(
                "[[package]]\nsuite = {suite:?}\nrequest = {request:?}\narch = {arch:?}\nname = {name:?}\n\
                 version = {version:?}\nsha256 = {sha256:?}\n"
            )
        });
        HEADER.to_owned() + &entries.collect::<Vec<_>>().join("\n")
    }
}

impl Entry {
    fn key(&self) -> (&str, &str, &str) {
        (&self.suite, &self.arch, &self.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(request: &str, version: &str) -> Entry {
        let text = str::to_owned;
        Entry {
            suite: text("bookworm"),
            request: text(request),
            arch: text("arm64"),
            name: text(request),
            version: text(version),
            sha256: text("00"),
        }
    }

    #[test]
    fn a_lock_is_written_sorted_and_read_back() {
        let mut lock = Lock::default();
        lock.put(vec![entry("linux", "1")]);
        lock.put(vec![entry("busybox", "1:2")]);
        let modules = Entry { name: "linux-modules".to_owned(), ..entry("linux", "2") };
        lock.put(vec![modules.clone(), entry("linux", "2")]);
        let back: Lock = toml::from_str(&lock.text()).unwrap();
        assert_eq!(back.package, [entry("busybox", "1:2"), entry("linux", "2"), modules.clone()]);
        assert_eq!(back.find("bookworm", "arm64", "linux"), [entry("linux", "2"), modules]);
        assert!(back.find("bookworm", "armhf", "linux").is_empty());
        assert!(back.find("forky", "arm64", "linux").is_empty());
    }

    #[test]
    fn the_lock_has_what_every_board_asks_for_and_is_written_as_it_is() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let path = root.join("image/packages.lock");
        let lock = Lock::read(&path).unwrap();
        assert_eq!(lock.text(), fs::read_to_string(&path).unwrap());
        for id in crate::board::ids(&root).unwrap() {
            let wireless =
                ["rpi3", "rpi4", "rpi5", "rpi-arm64", "rpi-zero2w"].contains(&id.as_str());
            let variants = ["debug", "wifi"].into_iter().take(1 + usize::from(wireless));
            let boards = variants.map(|it| crate::board::Board::variant(&root, &id, it).unwrap());
            for board in boards {
                for request in board.requests().into_iter().flat_map(|(_, requests)| requests) {
                    let found = lock.find(&board.debian.suite, &board.debian_arch, request);
                    assert!(!found.is_empty(), "{id}: {request}");
                }
            }
        }
    }
}
