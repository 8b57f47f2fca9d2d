//! Programs of Debian's packages in the root, with the libraries they load.
//!
//! What a program needs is read from the program itself, so that a package's other files stay out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::board::Part;
use crate::tools::{run, tool};

const PROGRAMS: &str = "usr/bin";
/// The loader looks here last, on every architecture.
const LIBRARIES: &str = "usr/lib";
const PROGRAM_FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];
const LIBRARY_FOLDERS: [&str; 2] = ["lib", "usr/lib"];

/// Puts a part, whose packages are unpacked in `packages`, into the root's folder.
pub(crate) fn install(part: &Part, packages: &Path, root: &Path) -> Result<()> {
    for name in &part.programs {
        let program = first(packages, &PROGRAM_FOLDERS, name)?;
        copy(&program, &root.join(PROGRAMS).join(name))?;
        libraries(&program, packages, root)?;
    }
    for name in &part.files {
        let found = [packages.join(name), packages.join("usr").join(name)];
        let [old, merged] = &found;
        copy_all(if old.exists() { old } else { merged }, &root.join(name))?;
    }
    for (name, target) in &part.links {
        let link = root.join(name);
        fs::create_dir_all(link.parent().unwrap_or(root))?;
        std::os::unix::fs::symlink(target, &link)
            .with_context(|| format!("make the link {}", link.display()))?;
    }
    Ok(())
}

/// Everything that the program loads, and what that loads.
fn libraries(program: &Path, packages: &Path, root: &Path) -> Result<()> {
    let needs = needs(program)?;
    let Some(loader) = needs.loader else { return Ok(()) };
    let loader = loader.trim_start_matches('/').to_owned();
    let name = Path::new(&loader).file_name().unwrap_or_default().to_string_lossy().into_owned();
    copy(&library(packages, &name)?, &root.join(&loader))?;
    let mut known = BTreeSet::from([name]);
    let mut open = needs.libraries;
    while let Some(name) = open.pop() {
        if known.insert(name.clone()) {
            let path = library(packages, &name)?;
            copy(&path, &root.join(LIBRARIES).join(&name))?;
            open.extend(self::needs(&path)?.libraries);
        }
    }
    Ok(())
}

/// What the dynamic section of a file asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    /// None in a program that loads nothing.
    loader: Option<String>,
    libraries: Vec<String>,
}

fn needs(file: &Path) -> Result<Needs> {
    Ok(parse(&run(tool("readelf", 0).args(["-W", "-l", "-d"]).arg(file))?))
}

fn parse(text: &str) -> Needs {
    let bracketed = |line: &str, before: &str| {
        let (_, rest) = line.split_once(before)?;
        rest.split_once(']').map(|(word, _)| word.to_owned())
    };
    Needs {
        loader: text.lines().find_map(|line| bracketed(line, "[Requesting program interpreter: ")),
        libraries: text
            .lines()
            .filter(|line| line.contains("(NEEDED)"))
            .filter_map(|line| bracketed(line, "Shared library: ["))
            .collect(),
    }
}

fn library(packages: &Path, name: &str) -> Result<PathBuf> {
    let mut folders: Vec<String> = LIBRARY_FOLDERS.map(str::to_owned).into();
    for folder in LIBRARY_FOLDERS {
        let entries = fs::read_dir(packages.join(folder)).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.path().is_dir());
        folders.extend(inner.filter_map(|entry| {
            Some(format!("{folder}/{}", entry.file_name().into_string().ok()?))
        }));
    }
    folders.sort();
    first(packages, &folders, name)
}

/// The file of this name in the first folder that has it.
fn first(packages: &Path, folders: &[impl AsRef<str>], name: &str) -> Result<PathBuf> {
    let paths = folders.iter().map(|folder| packages.join(folder.as_ref()).join(name));
    let found = paths.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("{name} is in none of the packages in {}", packages.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

/// A file, or a folder with all that is in it.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        return copy(from, to);
    }
    if !from.is_dir() {
        bail!("{} is in none of the packages", from.display());
    }
    for entry in fs::read_dir(from)?.flatten() {
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_from_what_readelf_prints() {
        let dynamic = "  INTERP 0x000238 0x1\n      [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n\
             0x0000000000000001 (NEEDED)  Shared library: [libtomcrypt.so.1]\n\
             0x0000000000000001 (NEEDED)  Shared library: [libc.so.6]\n\
             0x000000000000000e (SONAME)  Library soname: [libx.so.1]\n";
        let rows = [
            (dynamic, Some("/lib/ld-linux-aarch64.so.1"), &["libtomcrypt.so.1", "libc.so.6"][..]),
            ("There is no dynamic section in this file.\n", None, &[]),
        ];
        for (text, loader, libraries) in rows {
            let found = parse(text);
            assert_eq!(
                (found.loader.as_deref(), found.libraries.as_slice()),
                (
                    loader,
                    libraries.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().as_slice()
                )
            );
        }
    }

    #[test]
    fn what_no_package_has_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let part = Part { programs: vec!["dropbear".to_owned()], ..Part::default() };
        let error = install(&part, dir.path(), dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("dropbear is in none of the packages"), "{error}");
    }
}
