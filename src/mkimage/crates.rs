//! The crates that are linked into the board's programs, as Cargo resolves them for the board's target.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::tools::{self, run};

/// cross/build.sh's name of an architecture, and the target it builds.
const TARGETS: [(&str, &str); 3] = [
    ("x86_64", "x86_64-unknown-linux-musl"),
    ("aarch64", "aarch64-unknown-linux-musl"),
    ("armv7", "armv7-unknown-linux-musleabihf"),
];
/// Packages with a program on the board.
const ROOTS: [&str; 2] = ["copepod", "init"];
/// Corrections of licences that crates do not declare themselves; cargo-deny reads them too.
const DENY: &str = "deny.toml";
const LICENCE_STARTS: [&str; 6] =
    ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
const LICENCE_LENGTH_MAX: u64 = 256 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression, when the crate declares a licence.
    pub(crate) licence: Option<String>,
    /// SHA-256 of the package file; crates of this project have none.
    pub(crate) checksum: Option<String>,
    /// Where its source lies.
    pub(crate) source: PathBuf,
    /// Whom its manifest names.
    pub(crate) authors: Vec<String>,
}

/// What Cargo knows of a package beside its row in the tree.
struct Source {
    folder: PathBuf,
    authors: Vec<String>,
}

impl Crate {
    pub(crate) fn is_ours(&self) -> bool {
        self.checksum.is_none()
    }

    /// Licence files of its source, by name.
    pub(crate) fn licence_texts(&self) -> Result<Vec<(String, String)>> {
        let entries = fs::read_dir(&self.source)
            .with_context(|| format!("list {}", self.source.display()))?;
        let mut texts = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_licence =
                LICENCE_STARTS.iter().any(|start| name.to_ascii_uppercase().starts_with(start));
            let metadata = entry.metadata()?;
            if is_licence && metadata.is_file() && metadata.len() <= LICENCE_LENGTH_MAX {
                let bytes = fs::read(entry.path())?;
                texts.push((name, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        texts.sort();
        Ok(texts)
    }
}

#[derive(Deserialize)]
struct LockFile {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// All crates in the programs for an architecture, sorted; neither build scripts nor macros are part of a program.
pub(crate) fn linked(root: &Path, cross: &str) -> Result<Vec<Crate>> {
    let Some((_, target)) = TARGETS.iter().find(|(name, _)| *name == cross) else {
        bail!("there is no target for {cross:?}");
    };
    let tree = run(cargo(root, "tree")
        .args(ROOTS.iter().flat_map(|name| ["-p", name]))
        .args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--target", target])
        .args(["--format", "{p}\t{l}"]))?;
    let metadata =
        run(cargo(root, "metadata").args(["--format-version", "1", "--filter-platform", target]))?;
    let sources = sources(&metadata)?;
    let lock: LockFile = read_toml(&root.join("Cargo.lock"))?;
    let corrected = corrections(&read_toml(&root.join(DENY))?);
    let mut crates = Vec::new();
    for (name, version, licence) in rows(&tree)? {
        let key = (name.clone(), version.clone());
        let source =
            sources.get(&key).with_context(|| format!("{name} {version} has no source"))?;
        let locked = lock.package.iter().find(|p| (&p.name, &p.version) == (&name, &version));
        let licence = match (&*licence, corrected.get(&name)) {
            ("", correction) => correction.cloned(),
            (declared, _) => {
                Some(expression(declared).with_context(|| format!("{name} {version}"))?)
            }
        };
        crates.push(Crate {
            licence,
            checksum: locked.and_then(|package| package.checksum.clone()),
            source: source.folder.clone(),
            authors: source.authors.clone(),
            name,
            version,
        });
    }
    ensure!(!crates.is_empty(), "cargo tree shows no crates for {target}");
    Ok(crates)
}

fn cargo(root: &Path, command: &str) -> Command {
    let mut cargo = tools::program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .arg(command)
        .args(["--quiet", "--locked", "--manifest-path"])
        .arg(root.join("Cargo.toml"));
    cargo
}

/// Name, version and declared licence of each line of `cargo tree`, every crate once.
fn rows(tree: &str) -> Result<BTreeSet<(String, String, String)>> {
    let mut rows = BTreeSet::new();
    for line in tree.lines().map(|line| line.trim_end_matches(" (*)")).filter(|l| !l.is_empty()) {
        let wrong = || format!("cargo tree printed {line:?}");
        let (package, licence) = line.split_once('\t').with_context(wrong)?;
        let mut words = package.split(' ');
        let (name, version) = (words.next(), words.next().and_then(|word| word.strip_prefix('v')));
        let (name, version) = name.zip(version).with_context(wrong)?;
        rows.insert((name.to_owned(), version.to_owned(), licence.to_owned()));
    }
    Ok(rows)
}

/// A declared licence as a valid expression: older crates separate alternatives by a slash.
fn expression(declared: &str) -> Result<String> {
    let text = spdx::Expression::canonicalize(declared)
        .with_context(|| format!("the licence {declared:?}"))?
        .unwrap_or_else(|| declared.to_owned());
    spdx::Expression::parse(&text).with_context(|| format!("the licence {declared:?}"))?;
    Ok(text)
}

fn sources(metadata: &str) -> Result<BTreeMap<(String, String), Source>> {
    let metadata: Value =
        serde_json::from_str(metadata).context("read what cargo metadata says")?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    let packages = packages.context("cargo metadata names no packages")?;
    let text = |package: &Value, key| package.get(key).and_then(Value::as_str).map(str::to_owned);
    let sources = packages.iter().filter_map(|package| {
        let manifest = PathBuf::from(text(package, "manifest_path")?);
        let key = (text(package, "name")?, text(package, "version")?);
        let authors = package.get("authors").and_then(Value::as_array).into_iter().flatten();
        let authors = authors.filter_map(|author| author.as_str().map(str::to_owned)).collect();
        Some((key, Source { folder: manifest.parent()?.to_owned(), authors }))
    });
    Ok(sources.collect())
}

/// Licences that cargo-deny's settings clarify, by crate.
fn corrections(deny: &toml::Table) -> BTreeMap<String, String> {
    let clarified = deny.get("licenses").and_then(|table| table.get("clarify"));
    let rows = clarified.and_then(|rows| rows.as_array()).into_iter().flatten();
    rows.filter_map(|row| {
        let text = |key| row.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        Some((text("crate")?, text("expression")?))
    })
    .collect()
}

fn read_toml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree_are_taken_once() {
        let tree = "copepod v0.1.0 (/work)\tApache-2.0\nlibc v0.2.1\tMIT/Apache-2.0\n\n\
            libc v0.2.1\tMIT/Apache-2.0 (*)\nrust-criu v0.5.0\t\n";
        let rows: Vec<_> = rows(tree).unwrap().into_iter().collect();
        let row = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        let expected = [
            row("copepod", "0.1.0", "Apache-2.0"),
            row("libc", "0.2.1", "MIT/Apache-2.0"),
            row("rust-criu", "0.5.0", ""),
        ];
        assert_eq!(rows, expected);
        assert!(super::rows("something else").is_err());
    }

    #[test]
    fn licences_become_valid_expressions() {
        let rows = [
            ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
            ("Apache-2.0 / MIT", "Apache-2.0 OR MIT"),
            ("(Apache-2.0 OR MIT) AND BSD-3-Clause", "(Apache-2.0 OR MIT) AND BSD-3-Clause"),
        ];
        for (declared, expected) in rows {
            assert_eq!(expression(declared).unwrap(), expected);
        }
        assert!(expression("as I like it").is_err());
    }

    #[test]
    fn every_crate_of_each_target_has_a_licence_and_a_checksum() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for (cross, _) in TARGETS.iter().skip(1) {
            let crates = linked(&root, cross).unwrap();
            let named = |name: &str| crates.iter().find(|krate| krate.name == name).unwrap();
            assert!(named("init").is_ours() && !named("tokio").is_ours());
            assert_eq!(named("rust-criu").licence.as_deref(), Some("MIT"));
            assert!(crates.iter().all(|krate| krate.licence.is_some()));
            assert!(!crates.iter().any(|krate| krate.name == "serde_derive"));
        }
        assert!(linked(&root, "mips").is_err());
    }
}
