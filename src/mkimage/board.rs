//! Boards as data: `board-configs/common/board.toml`, the family's, the board's, merged in this order.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use disk::layout::Sizes;
use serde::Deserialize;
use toml::{Table, Value};

const DIR: &str = "board-configs";
const COMMON: &str = "common";
const FILE: &str = "board.toml";

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Board {
    /// The folder's name; not written in the file.
    #[serde(skip)]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) debian_arch: String,
    /// What cross/build.sh calls the architecture.
    pub(crate) cross: String,
    pub(crate) disk: Disk,
    pub(crate) debian: Debian,
    pub(crate) packages: Packages,
    pub(crate) kernel: Kernel,
    pub(crate) modules: Modules,
    pub(crate) uboot: Uboot,
    pub(crate) node: Node,
    pub(crate) qemu: Option<Qemu>,
    /// What Raspberry Pi Imager shows; only for boards it knows.
    pub(crate) imager: Option<Imager>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Disk {
    id: String,
    boot_mib: u64,
    root_mib: u64,
    data_mib: u64,
    pub(crate) salt: String,
    pub(crate) data_uuid: String,
    pub(crate) data_hash_seed: String,
}

impl Disk {
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes { boot: self.boot_mib, root: self.root_mib, data: self.data_mib }
    }

    pub(crate) fn id(&self) -> Result<u32> {
        u32::from_str_radix(&self.id, 16)
            .with_context(|| format!("disk.id {:?} is not a hexadecimal number", self.id))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Debian {
    pub(crate) mirror: String,
    pub(crate) suites: Vec<String>,
    pub(crate) keyring: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Packages {
    pub(crate) kernel: String,
    pub(crate) busybox: String,
    pub(crate) certificates: String,
    pub(crate) checker: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Kernel {
    pub(crate) args: String,
    pub(crate) compression: Compression,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compression {
    None,
    Gzip,
}

/// Groups of module names; the groups' names give their order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Modules {
    /// Loaded from the initramfs: what finding and mounting the root needs.
    pub(crate) root: BTreeMap<String, Vec<String>>,
    /// Loaded by PID 1 from the root.
    pub(crate) system: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Uboot {
    pub(crate) arch: String,
    pub(crate) boot: String,
    pub(crate) scratch: String,
    pub(crate) unpack: String,
    pub(crate) kernel: String,
    pub(crate) initrd: String,
    pub(crate) fdt: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Node {
    pub(crate) role: String,
    pub(crate) hostname: String,
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) host_port: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Qemu {
    pub(crate) program: String,
    pub(crate) machine: String,
    pub(crate) cpu: String,
    pub(crate) bios: String,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) devices: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Imager {
    pub(crate) description: String,
    /// Imager's tags for the models that the image starts on, such as `pi4-64bit`.
    pub(crate) devices: Vec<String>,
}

impl Board {
    /// Reads a board with all it inherits.
    pub(crate) fn read(root: &Path, id: &str) -> Result<Board> {
        let dir = root.join(DIR);
        let Some((family, _)) = all(&dir)?.into_iter().find(|(_, board)| board == id) else {
            let known: Vec<String> = all(&dir)?.into_iter().map(|(_, board)| board).collect();
            bail!("there is no board {id:?} in {}; there is {}", dir.display(), known.join(", "));
        };
        let mut merged = Table::new();
        for path in [dir.join(COMMON), dir.join(&family), dir.join(&family).join(id)] {
            let path = path.join(FILE);
            if path.exists() {
                merge(&mut merged, table(&path)?);
            }
        }
        let mut board: Board = merged.try_into().with_context(|| format!("board {id}"))?;
        id.clone_into(&mut board.id);
        Ok(board)
    }
}

/// Prints the boards.
pub(crate) fn list(root: &Path) -> Result<()> {
    for (_, id) in all(&root.join(DIR))? {
        println!("{id:16} {}", Board::read(root, &id)?.name);
    }
    Ok(())
}

/// Names of all boards.
pub(crate) fn ids(root: &Path) -> Result<Vec<String>> {
    Ok(all(&root.join(DIR))?.into_iter().map(|(_, id)| id).collect())
}

/// Family and name of every board.
fn all(dir: &Path) -> Result<Vec<(String, String)>> {
    let mut boards = Vec::new();
    for family in folders(dir)?.into_iter().filter(|name| name != COMMON) {
        boards
            .extend(folders(&dir.join(&family))?.into_iter().map(|board| (family.clone(), board)));
    }
    Ok(boards)
}

fn folders(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn table(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse().with_context(|| format!("parse {}", path.display()))
}

/// Tables are merged key by key; anything else of `over` replaces what was there.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_is_complete() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let boards = all(&root.join(DIR)).unwrap();
        assert!(!boards.is_empty());
        for (_, id) in boards {
            let board = Board::read(&root, &id).unwrap();
            board.disk.sizes().table(board.disk.id().unwrap()).unwrap().encode().unwrap();
        }
    }

    #[test]
    fn tables_are_merged_and_values_replaced() {
        let mut base: Table = "a = 1\nb = [1]\n[c]\nd = 1\ne = 1\n".parse().unwrap();
        merge(&mut base, "b = [2]\n[c]\ne = 2\nf = 3\n".parse().unwrap());
        assert_eq!(base, "a = 1\nb = [2]\n[c]\nd = 1\ne = 2\nf = 3\n".parse::<Table>().unwrap());
    }

    #[test]
    fn an_unknown_board_names_the_known_ones() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let error = Board::read(&root, "toaster").unwrap_err().to_string();
        assert!(error.contains("toaster") && error.contains("qemu-arm64"), "{error}");
    }
}
