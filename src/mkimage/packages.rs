//! Debian packages of the board's architecture, through apt with a state of its own.
//!
//! The host's apt sources, architectures and package state are neither used nor changed; only its programs and the
//! archive's keyring are. What the lock file names is taken while the mirror has it; when it is gone, the suite's newest
//! is taken, with a warning nobody can miss.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ring::digest::{SHA256, digest};

use crate::board::Debian;
use crate::lock::{Entry, Lock};
use crate::show::{mib, warn};
use crate::tools::{run, tool};

/// A private apt for one architecture.
pub(crate) struct Apt<'board> {
    dir: PathBuf,
    debian: &'board Debian,
    arch: &'board str,
    updated: bool,
}

/// A package file in the cache.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) entry: Entry,
    pub(crate) path: PathBuf,
}

impl<'board> Apt<'board> {
    /// `dir` keeps index and packages between builds.
    pub(crate) fn new(dir: &Path, debian: &'board Debian, arch: &'board str) -> Apt<'board> {
        Apt { dir: dir.to_owned(), debian, arch, updated: false }
    }

    /// The packages for a request: the locked versions where they can be had, else the newest, which then are locked.
    pub(crate) fn fetch(
        &mut self,
        request: &str,
        lock: &mut Lock,
        newest: bool,
    ) -> Result<Vec<Package>> {
        let pinned = lock.find(&self.debian.suite, self.arch, request);
        if !newest && !pinned.is_empty() {
            if let Some(packages) = self.pinned(&pinned)? {
                return Ok(packages);
            }
            warn(&[
                &format!(
                    "{} is not on the mirror any more (or has another content).",
                    names(&pinned)
                ),
                "Building with the newest instead; image/packages.lock will name it:",
                "commit that when the image works.",
            ]);
        }
        self.update()?;
        let packages = self.newest(request)?;
        lock.put(packages.iter().map(|package| package.entry.clone()).collect());
        lock.write()?;
        Ok(packages)
    }

    /// All of the locked packages, or None when one cannot be had.
    fn pinned(&mut self, entries: &[Entry]) -> Result<Option<Vec<Package>>> {
        let mut packages = Vec::new();
        for entry in entries {
            if let Some(package) = self.cached(entry)? {
                packages.push(package);
                continue;
            }
            self.update()?;
            if self.sha256(&entry.name, &entry.version)?.as_ref() != Some(&entry.sha256) {
                return Ok(None);
            }
            packages.push(self.download(entry.clone())?);
        }
        Ok(Some(packages))
    }

    fn newest(&self, request: &str) -> Result<Vec<Package>> {
        let fetch = |(name, version): (String, String)| {
            let sha256 = self.sha256(&name, &version)?;
            let sha256 =
                sha256.with_context(|| format!("{name} {version} has no SHA-256 in the index"))?;
            let (suite, arch) = (self.debian.suite.clone(), self.arch.to_owned());
            let request = request.to_owned();
            self.download(Entry { suite, request, arch, name, version, sha256 })
        };
        self.resolve(request)?.into_iter().map(fetch).collect()
    }

    /// A kernel's metapackage names the real ones in its dependencies, in newer suites over several steps.
    fn resolve(&self, request: &str) -> Result<BTreeSet<(String, String)>> {
        let text = self.show(request)?;
        let mut open = exact_dependencies(&text);
        if open.is_empty() {
            let version = field(&text, "Version")
                .with_context(|| format!("{request} has no version in the index"))?;
            return Ok(BTreeSet::from([(request.to_owned(), version.to_owned())]));
        }
        let mut found = BTreeSet::new();
        while let Some((name, version)) = open.pop() {
            if found.insert((name.clone(), version.clone())) {
                open.extend(exact_dependencies(&self.show(&format!("{name}={version}"))?));
            }
        }
        Ok(found)
    }

    fn show(&self, package: &str) -> Result<String> {
        run(self.apt("apt-cache")?.args(["show", "--no-all-versions", package]))
            .with_context(|| format!("Debian has no package {package} for {}", self.arch))
    }

    /// What the (signed) index says; None when it does not know this version.
    fn sha256(&self, name: &str, version: &str) -> Result<Option<String>> {
        let output =
            self.apt("apt-cache")?.arg("show").arg(format!("{name}={version}")).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(field(&text, "SHA256").map(str::to_owned))
    }

    fn cache_path(&self, entry: &Entry) -> PathBuf {
        let version = entry.version.replace(':', "_");
        self.dir.join("packages").join(format!("{}_{version}_{}.deb", entry.name, entry.arch))
    }

    fn cached(&self, entry: &Entry) -> Result<Option<Package>> {
        let path = self.cache_path(entry);
        if !path.exists() {
            return Ok(None);
        }
        let matches = file_sha256(&path)? == entry.sha256;
        Ok(matches.then(|| Package { entry: entry.clone(), path }))
    }

    fn download(&self, entry: Entry) -> Result<Package> {
        if let Some(package) = self.cached(&entry)? {
            return Ok(package);
        }
        let path = self.cache_path(&entry);
        let parent = path.parent().context("the package cache has no folder")?;
        fs::create_dir_all(parent)?;
        let place = tempfile::tempdir_in(parent)?;
        let wanted = format!("{}={}", entry.name, entry.version);
        run(self.apt("apt-get")?.args(["download", "-q", &wanted]).current_dir(place.path()))?;
        let found = fs::read_dir(place.path())?
            .flatten()
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|end| end == "deb"));
        let found = found.with_context(|| format!("apt-get downloaded no file for {wanted}"))?;
        let sha256 = file_sha256(&found)?;
        ensure!(sha256 == entry.sha256, "{wanted} has SHA-256 {sha256}, expected {}", entry.sha256);
        fs::rename(&found, &path)?;
        println!("    {wanted}: {}", mib(fs::metadata(&path)?.len()));
        Ok(Package { entry, path })
    }

    fn update(&mut self) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        for dir in ["lists/partial", "cache/archives/partial", "etc", "log"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        fs::write(self.dir.join("status"), "")?;
        let Debian { mirror, suite, components, keyring } = self.debian;
        if !Path::new(keyring).exists() {
            bail!(
                "the keyring {keyring} is missing\ninstall it with: apt-get install debian-archive-keyring"
            );
        }
        let source = format!(
            "deb [arch={} signed-by={keyring}] {mirror} {suite} {}\n",
            self.arch,
            components.join(" ")
        );
        fs::write(self.dir.join("etc/sources.list"), source)?;
        fs::write(self.config_path(), self.config()?)?;
        println!("    reading the package index of {mirror} ({suite}, {})", self.arch);
        let text = run(self.apt("apt-get")?.args(["update", "-q"]))?;
        ensure!(!text.contains("\nErr:"), "the package index cannot be read:\n{text}");
        self.updated = true;
        Ok(())
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("apt.conf")
    }

    fn config(&self) -> Result<String> {
        let dir = fs::canonicalize(&self.dir)?;
        let dir = dir.display();
        let arch = self.arch;
        Ok(format!(
            "Dir::State \"{dir}\";\nDir::State::Lists \"{dir}/lists\";\nDir::State::status \"{dir}/status\";\n\
             Dir::Cache \"{dir}/cache\";\nDir::Log \"{dir}/log\";\nDir::Etc::sourcelist \"{dir}/etc/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\nAPT::Architecture \"{arch}\";\n\
             APT::Architectures {{ \"{arch}\"; }};\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n"
        ))
    }

    fn apt(&self, name: &str) -> Result<Command> {
        let mut command = tool(name, 0);
        command
            .env_remove("SOURCE_DATE_EPOCH")
            .env("APT_CONFIG", fs::canonicalize(self.config_path())?);
        Ok(command)
    }
}

/// Unpacks the files of packages into `dir`, unless the same ones lie there already.
pub(crate) fn unpack(packages: &[Package], dir: &Path) -> Result<()> {
    let stamp = dir.with_extension("sha256");
    let sums: String = packages.iter().map(|package| package.entry.sha256.clone() + "\n").collect();
    if fs::read_to_string(&stamp).is_ok_and(|text| text == sums) {
        return Ok(());
    }
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    for package in packages {
        run(tool("dpkg-deb", 0).arg("-x").arg(&package.path).arg(dir))?;
    }
    fs::write(stamp, sums)?;
    Ok(())
}

/// Names and versions, for people.
fn names(entries: &[Entry]) -> String {
    let words = entries.iter().map(|entry| format!("{} {}", entry.name, entry.version));
    words.collect::<Vec<_>>().join(", ")
}

/// The kernel packages that a package's description demands in exactly one version.
fn exact_dependencies(text: &str) -> Vec<(String, String)> {
    let words = field(text, "Depends").unwrap_or_default().split(", ");
    let kernels = words.filter(|word| word.starts_with("linux-"));
    let exact = kernels.filter_map(|word| {
        let (name, version) = word.split_once(" (= ")?;
        Some((name.to_owned(), version.strip_suffix(')')?.to_owned()))
    });
    exact.collect()
}

/// The value of the first `name:` line.
fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

pub(crate) fn file_sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(sha256(&bytes))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_kernel_dependencies_are_followed() {
        let text = "Package: linux-image-7\nDepends: kmod, linux-base (>= 4.3~), linux-binary-7 (= 7.2-1), libc6 (= 2)\n";
        assert_eq!(exact_dependencies(text), [("linux-binary-7".to_owned(), "7.2-1".to_owned())]);
        assert!(exact_dependencies("Package: busybox-static\nVersion: 1\n").is_empty());
    }
}
