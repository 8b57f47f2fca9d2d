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

/// One pinned package. `request` is what the recipe asks for; a metapackage leads to another `name`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
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

    pub(crate) fn find(&self, request: &str, arch: &str) -> Option<&Entry> {
        self.package.iter().find(|entry| entry.request == request && entry.arch == arch)
    }

    /// Replaces the entry for the same request.
    pub(crate) fn put(&mut self, entry: Entry) {
        self.package.retain(|old| (&old.request, &old.arch) != (&entry.request, &entry.arch));
        self.package.push(entry);
        self.package.sort_by(|a, b| (&a.arch, &a.request).cmp(&(&b.arch, &b.request)));
    }

    pub(crate) fn write(&self) -> Result<()> {
        fs::write(&self.path, self.text()).with_context(|| format!("write {}", self.path.display()))
    }

    fn text(&self) -> String {
        let entries = self.package.iter().map(|entry| {
            let Entry { request, arch, name, version, sha256 } = entry;
            format!(
                "[[package]]\nrequest = {request:?}\narch = {arch:?}\nname = {name:?}\nversion = {version:?}\n\
                 sha256 = {sha256:?}\n"
            )
        });
        HEADER.to_owned() + &entries.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(request: &str, version: &str) -> Entry {
        let text = str::to_owned;
        Entry {
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
        lock.put(entry("linux", "1"));
        lock.put(entry("busybox", "1:2"));
        lock.put(entry("linux", "2"));
        let back: Lock = toml::from_str(&lock.text()).unwrap();
        assert_eq!(back.package, [entry("busybox", "1:2"), entry("linux", "2")]);
        assert_eq!(back.find("linux", "arm64"), Some(&entry("linux", "2")));
        assert_eq!(back.find("linux", "armhf"), None);
    }
}
