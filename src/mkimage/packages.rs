//! Debian packages of the board's architecture, through apt with a state of its own.
//!
//! The host's apt sources, architectures and package state are neither used nor changed; only its programs and the
//! archive's keyring are. What the lock file names is taken while the mirror has it; when it is gone, the suite's newest
//! is taken, with a warning nobody can miss.

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

    /// The package for a request: the locked version where it can be had, else the newest, which then is locked.
    pub(crate) fn fetch(
        &mut self,
        request: &str,
        lock: &mut Lock,
        newest: bool,
    ) -> Result<Package> {
        let pinned = lock.find(request, self.arch).filter(|_| !newest).cloned();
        if let Some(entry) = pinned {
            if let Some(package) = self.cached(&entry)? {
                return Ok(package);
            }
            self.update()?;
            if self.sha256(&entry.name, &entry.version)?.as_ref() == Some(&entry.sha256) {
                return self.download(entry);
            }
            let package = self.newest(request)?;
            let Entry { name, version, .. } = &package.entry;
            warn(&[
                &format!(
                    "{} {} is not on the mirror any more (or has another content).",
                    entry.name, entry.version
                ),
                &format!("Building with {name} {version} instead."),
                "image/packages.lock now names it: commit that when the image works.",
            ]);
            lock.put(package.entry.clone());
            lock.write()?;
            return Ok(package);
        }
        self.update()?;
        let package = self.newest(request)?;
        lock.put(package.entry.clone());
        lock.write()?;
        Ok(package)
    }

    fn newest(&self, request: &str) -> Result<Package> {
        let (name, version) = self.resolve(request)?;
        let sha256 = self.sha256(&name, &version)?;
        let sha256 =
            sha256.with_context(|| format!("{name} {version} has no SHA-256 in the index"))?;
        let (request, arch) = (request.to_owned(), self.arch.to_owned());
        self.download(Entry { request, arch, name, version, sha256 })
    }

    /// A kernel metapackage names the real one in its dependencies.
    fn resolve(&self, request: &str) -> Result<(String, String)> {
        let text = run(self.apt("apt-cache")?.args(["show", "--no-all-versions", request]))
            .with_context(|| format!("Debian has no package {request} for {}", self.arch))?;
        if request.starts_with("linux-image-")
            && let Some(depends) = field(&text, "Depends")
            && let Some((name, rest)) = depends.split_once(" (= ")
        {
            let version = rest.split(')').next().unwrap_or_default();
            return Ok((name.to_owned(), version.to_owned()));
        }
        let version = field(&text, "Version")
            .with_context(|| format!("{request} has no version in the index"))?;
        Ok((request.to_owned(), version.to_owned()))
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
        let Debian { mirror, suites, keyring } = self.debian;
        if !Path::new(keyring).exists() {
            bail!(
                "the keyring {keyring} is missing\ninstall it with: apt-get install debian-archive-keyring"
            );
        }
        let source =
            |suite| format!("deb [arch={} signed-by={keyring}] {mirror} {suite} main\n", self.arch);
        fs::write(
            self.dir.join("etc/sources.list"),
            suites.iter().map(source).collect::<String>(),
        )?;
        fs::write(self.config_path(), self.config()?)?;
        println!(
            "    reading the package index of {mirror} ({}, {})",
            suites.join(", "),
            self.arch
        );
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

impl Package {
    /// Unpacks the files into a folder of their own, unless the same package lies there already.
    pub(crate) fn unpack(&self, dir: &Path) -> Result<PathBuf> {
        let target = dir.join(&self.entry.name);
        let stamp = dir.join(format!("{}.sha256", self.entry.name));
        if fs::read_to_string(&stamp).is_ok_and(|text| text == self.entry.sha256) {
            return Ok(target);
        }
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::create_dir_all(&target)?;
        run(tool("dpkg-deb", 0).arg("-x").arg(&self.path).arg(&target))?;
        fs::write(stamp, &self.entry.sha256)?;
        Ok(target)
    }
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
