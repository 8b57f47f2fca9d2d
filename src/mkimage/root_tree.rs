//! The folder that becomes the read-only root, and the initramfs that finds it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::board::Board;
use crate::cpio::Archive;
use crate::kernel_modules::{Index, content, image_name};
use crate::parts;
use crate::recipe::copy_sparse;
use crate::sources::Sources;

const FOLDERS: [&str; 17] = [
    "boot",
    "dev",
    "etc/copepod",
    "etc/ssl/certs",
    "mnt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "usr/lib/copepod/modules",
    "usr/share/copepod/images",
    "var/lib/copepod",
    "opt",
];
const LINKS: [(&str, &str); 5] = [
    ("sbin/init", "../usr/bin/copepod"),
    ("etc/machine-id", "../run/machine-id"),
    ("etc/resolv.conf", "../run/resolv.conf"),
    ("var/run", "../run"),
    ("var/log", "../run/log"),
];
const FILES: [(&str, &str); 4] = [
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
    ("etc/os-release", "ID=copepod\nNAME=Copepod\nPRETTY_NAME=\"Copepod\"\n"),
];

/// Everything that goes into a root.
pub(crate) struct Ingredients<'parts> {
    pub(crate) board: &'parts Board,
    pub(crate) binary: &'parts Path,
    pub(crate) sources: &'parts Sources,
    /// The empty data file system, for a factory reset; its zeros take no room.
    pub(crate) data: &'parts Path,
    /// Preloaded container images, by file name.
    pub(crate) images: &'parts [(&'parts str, Vec<u8>)],
    /// Bill of materials and licences, by path.
    pub(crate) documents: &'parts [(String, Vec<u8>)],
    pub(crate) order: &'parts [String],
    pub(crate) epoch: u64,
}

/// Builds the root's folder from nothing.
pub(crate) fn build(root: &Path, parts: &Ingredients<'_>) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    for name in FOLDERS {
        fs::create_dir_all(root.join(name))?;
    }
    for (name, target) in LINKS {
        symlink(target, root.join(name))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text)?;
    }
    fs::write(root.join("etc/passwd"), accounts(parts.board))?;
    for (name, part) in &parts.board.parts {
        let packages = parts.sources.dir(name)?;
        parts::install(part, packages, root).with_context(|| format!("[parts.{name}]"))?;
    }
    let binary = root.join("usr/bin/copepod");
    fs::copy(parts.binary, &binary).with_context(|| format!("copy {}", parts.binary.display()))?;
    fs::set_permissions(&binary, Permissions::from_mode(0o755))?;
    fs::write(root.join("etc/copepod/board.yaml"), config(parts.board, parts.epoch))?;
    let mozilla = parts.sources.dir("certificates")?.join("usr/share/ca-certificates/mozilla");
    fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), certificates(&mozilla)?)?;
    let checker = root.join("usr/sbin/e2fsck");
    let source = parts.sources.checker()?;
    fs::copy(&source, &checker).with_context(|| format!("copy {}", source.display()))?;
    let mut data = fs::File::create(root.join("usr/share/copepod/data.img"))?;
    copy_sparse(parts.data, &mut data)?;
    data.set_len(fs::metadata(parts.data)?.len())?;
    for (name, bytes) in parts.images {
        fs::write(root.join("usr/share/copepod/images").join(name), bytes)?;
    }
    for (name, bytes) in parts.documents {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(path, bytes)?;
    }
    let target = root.join("usr/lib/copepod/modules");
    let modules = parts.sources.modules();
    let index = Index::read(&modules)?;
    let mut devices = wanted(&parts.board.modules.devices);
    devices.extend(parts.board.parts.values().flat_map(|part| part.modules.clone()));
    for file in parts.order.iter().chain(&index.order(&devices, parts.order)?) {
        fs::write(target.join(image_name(file)), content(&modules.join(file))?)?;
    }
    let aliases = modules.join("modules.alias");
    let aliases =
        fs::read_to_string(&aliases).with_context(|| format!("read {}", aliases.display()))?;
    let drivers = index.drivers(&devices, &aliases)?;
    fs::write(target.join("aliases"), drivers.aliases)?;
    fs::write(target.join("files"), drivers.files)?;
    fs::write(target.join("order"), order_text(parts.order))?;
    settle_modes(root)
}

/// The modes of a folder and all below it, whatever the umask of the person who builds: programs stay programs.
pub(crate) fn settle_modes(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let runs = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
    fs::set_permissions(path, Permissions::from_mode(if runs { 0o755 } else { 0o644 }))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)?.flatten() {
            settle_modes(&entry.path())?;
        }
    }
    Ok(())
}

/// Root has a shell only where there is one.
fn accounts(board: &Board) -> String {
    let shell = if board.parts.contains_key("shell") { "/bin/sh" } else { "/sbin/nologin" };
    format!("root:x:0:0:root:/root:{shell}\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
}

/// The image's settings for PID 1.
pub(crate) fn config(board: &Board, epoch: u64) -> String {
    let node = &board.node;
    let args = node.args.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>().join(", ");
    let parts: Vec<&str> = board.parts.keys().map(String::as_str).collect();
    let parts = parts.join(", ");
    format!(
        "role: {}\nhostname: {}\nargs: [{args}]\nbuild-epoch: {epoch}\nhost-port: {}\nparts: [{parts}]\n",
        node.role, node.hostname, node.host_port
    )
}

/// All certificates of the folder, in the order of their names.
fn certificates(dir: &Path) -> Result<Vec<u8>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut bundle = Vec::new();
    for file in files {
        bundle.extend(fs::read(&file)?);
    }
    Ok(bundle)
}

fn order_text(order: &[String]) -> String {
    order.iter().map(|file| image_name(file) + "\n").collect()
}

/// The initramfs: stage 1 and the modules it loads.
pub(crate) fn initramfs(stage1: &Path, modules: &Path, order: &[String]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "root", "modules"] {
        archive.directory(name)?;
    }
    // The kernel opens it before anything is mounted.
    archive.device("dev/console", 5, 1)?;
    let binary = fs::read(stage1).with_context(|| format!("read {}", stage1.display()))?;
    archive.file("init", 0o755, &binary)?;
    archive.file("modules/order", 0o644, order_text(order).as_bytes())?;
    for file in order {
        archive.file(
            &format!("modules/{}", image_name(file)),
            0o644,
            &content(&modules.join(file))?,
        )?;
    }
    archive.finish()
}

/// Names of all wanted modules, group by group.
pub(crate) fn wanted(groups: &std::collections::BTreeMap<String, Vec<String>>) -> Vec<String> {
    groups.values().flatten().cloned().collect()
}

/// The loading orders of initramfs and root: what the first loads is not loaded again.
pub(crate) fn orders(board: &Board, modules: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let index = Index::read(modules)?;
    let first = index.order(&wanted(&board.modules.root), &[])?;
    let second = index.order(&wanted(&board.modules.system), &first)?;
    Ok((first, second))
}
