//! Boards as data: `board-configs/common/board.toml`, the family's, the board's, merged in this order, then that of the
//! variant in `image/variants/`, and there what only a suite of Debian needs (`<variant>.<suite>.toml`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use disk::layout::Sizes;
use serde::Deserialize;
use toml::{Table, Value};

const DIR: &str = "board-configs";
const COMMON: &str = "common";
const FILE: &str = "board.toml";
const VARIANTS: &str = "image/variants";
/// The variant that is the board as it is.
pub(crate) const RELEASE: &str = "release";
/// Says what of a table does not fit.
type Fits = fn(Value) -> Result<(), String>;

/// Keys of a board's file that are no tables, and the tables with what each must fit.
const PLAIN: [&str; 4] = ["name", "debian-arch", "cross", INHERITS];
/// In a variant's file: the variant it adds to.
const INHERITS: &str = "inherits";
const SECTIONS: &[(&str, Fits)] = &[
    ("disk", fits::<Disk>),
    ("debian", fits::<Debian>),
    ("packages", fits::<Packages>),
    ("kernel", fits::<Kernel>),
    ("modules", fits::<Modules>),
    ("parts", fits::<BTreeMap<String, Part>>),
    ("boot", fits::<Boot>),
    ("uboot", fits::<Uboot>),
    ("node", fits::<Node>),
    ("qemu", fits::<Qemu>),
    ("imager", fits::<Imager>),
];

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
    /// What the root has besides what every root has. PID 1 is told the parts' names.
    #[serde(default)]
    pub(crate) parts: BTreeMap<String, Part>,
    #[serde(default)]
    pub(crate) boot: Boot,
    /// Without it the board's firmware loads the kernel itself.
    pub(crate) uboot: Option<Uboot>,
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
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    pub(crate) keyring: String,
}

/// What the recipe asks Debian for, by duty.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Packages {
    pub(crate) kernel: String,
    pub(crate) busybox: String,
    pub(crate) certificates: String,
    pub(crate) checker: String,
    pub(crate) firmware: Option<String>,
    pub(crate) uboot: Option<String>,
}

impl Packages {
    /// Duty and request, in the order of fetching.
    fn by_duty(&self) -> Vec<(&'static str, &str)> {
        let rows = [
            ("kernel", Some(&self.kernel)),
            ("busybox", Some(&self.busybox)),
            ("certificates", Some(&self.certificates)),
            ("checker", Some(&self.checker)),
            ("firmware", self.firmware.as_ref()),
            ("uboot", self.uboot.as_ref()),
        ];
        rows.into_iter().filter_map(|(duty, name)| Some((duty, name?.as_str()))).collect()
    }
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
    /// In the root too, loaded when a device asks for them.
    #[serde(default)]
    pub(crate) devices: BTreeMap<String, Vec<String>>,
}

/// Something of Debian's for the root.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Part {
    pub(crate) packages: Vec<String>,
    /// Names of programs in them; they go to `/usr/bin`, and the libraries they need go along.
    pub(crate) programs: Vec<String>,
    /// Files and folders of the packages, as `<path in the package>`; they keep their place.
    pub(crate) files: Vec<String>,
    /// Modules of the kernel, loaded when a device asks for them.
    pub(crate) modules: Vec<String>,
    /// Symbolic links: name in the root to target.
    pub(crate) links: BTreeMap<String, String>,
}

/// What the boot partition holds besides the slots and what reads them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Boot {
    /// Names, without `.dtb`, of the kernel's device trees that the firmware chooses from.
    pub(crate) device_trees: Vec<String>,
    /// Files of packages: name on the boot partition to `<duty>:<path in the package>`.
    pub(crate) files: BTreeMap<String, String>,
    /// Groups of lines of the Raspberry Pi's config.txt; the groups' names give their order.
    pub(crate) config: BTreeMap<String, Vec<String>>,
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
    /// Variables of `uboot.env` on the boot partition, in place of those compiled in.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
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
    /// The machine's own when not given.
    pub(crate) cpu: Option<String>,
    pub(crate) accel: Option<String>,
    pub(crate) start: Start,
    /// Kernel arguments that only the emulation needs; added to the disks of tests.
    #[serde(default)]
    pub(crate) arguments: String,
    pub(crate) drive: Drive,
    /// Number of the serial port that is the console.
    #[serde(default)]
    pub(crate) serial: u32,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) devices: Vec<String>,
    /// The emulated watchdog. Without one the kernel counts itself.
    pub(crate) watchdog: Option<String>,
    /// For tests that plug something in; a board without cannot be tested for that.
    pub(crate) plugs: Option<Plugs>,
}

impl Qemu {
    /// All devices that are there from the start.
    pub(crate) fn all_devices(&self) -> impl Iterator<Item = &String> {
        let sockets = self.plugs.iter().flat_map(|plugs| &plugs.sockets);
        self.devices.iter().chain(&self.watchdog).chain(sockets)
    }
}

/// Where devices are plugged in while the machine runs, and which.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Plugs {
    /// Devices with what is plugged into.
    sockets: Vec<String>,
    /// A network device, without its back end.
    pub(crate) network: String,
    /// What the board calls it.
    pub(crate) interface: String,
    /// What leads to a disk, and the disk without its back end.
    pub(crate) disk: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Imager {
    pub(crate) description: String,
    /// Imager's tags for the models that the image starts on, such as `pi4-64bit`.
    pub(crate) devices: Vec<String>,
}

/// What the emulated machine runs first.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum Start {
    /// A file of this machine.
    Bios(String),
    /// Two files of the boot partition, in place of the firmware: U-Boot and the device tree it gets.
    #[serde(rename_all = "kebab-case")]
    Loader {
        uboot: String,
        device_tree: String,
        /// The address U-Boot is linked for, where QEMU would put it elsewhere.
        #[serde(default)]
        moved: bool,
    },
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Drive {
    /// Named `disk`, for one of the devices.
    Named,
    /// The machine's card reader.
    Card,
}

impl Board {
    /// What Debian is asked for: duty and requests, in the order of fetching. A part's name is its duty.
    pub(crate) fn requests(&self) -> Vec<(&str, Vec<&str>)> {
        let parts = self.parts.iter().map(|(name, part)| {
            (name.as_str(), part.packages.iter().map(String::as_str).collect())
        });
        let packages = self.packages.by_duty().into_iter().map(|(duty, name)| (duty, vec![name]));
        packages.chain(parts).collect()
    }

    /// Reads a board with all it inherits.
    pub(crate) fn read(root: &Path, id: &str) -> Result<Board> {
        Board::variant(root, id, RELEASE)
    }

    /// The same, changed by a variant.
    pub(crate) fn variant(root: &Path, id: &str, variant: &str) -> Result<Board> {
        let dir = root.join(DIR);
        let Some((family, _)) = all(&dir)?.into_iter().find(|(_, board)| board == id) else {
            let known: Vec<String> = all(&dir)?.into_iter().map(|(_, board)| board).collect();
            bail!("there is no board {id:?} in {}; there is {}", dir.display(), known.join(", "));
        };
        let mut merged = Table::new();
        for dir in [dir.join(COMMON), dir.join(&family), dir.join(&family).join(id)] {
            add(&mut merged, &dir.join(FILE))?;
        }
        if variant != RELEASE {
            add_variant(&mut merged, &root.join(VARIANTS), variant)?;
        }
        merged.remove(INHERITS);
        let mut board: Board = merged.try_into().with_context(|| format!("board {id}"))?;
        id.clone_into(&mut board.id);
        Ok(board)
    }
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only the names of those that QEMU runs, which are tested.
    #[arg(long)]
    emulated: bool,
    /// Of those only the ones whose disk QEMU connects this way.
    #[arg(long, requires = "emulated")]
    drive: Option<Drive>,
}

/// Prints the boards.
pub(crate) fn list(root: &Path, args: &ListArgs) -> Result<()> {
    for (_, id) in all(&root.join(DIR))? {
        let board = Board::read(root, &id)?;
        if !args.emulated {
            println!("{id:16} {}", board.name);
        } else if board.qemu.is_some_and(|qemu| args.drive.is_none_or(|drive| qemu.drive == drive))
        {
            println!("{id}");
        }
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

/// Merges a variant into the board, after what it inherits.
fn add_variant(merged: &mut Table, dir: &Path, variant: &str) -> Result<()> {
    let path = dir.join(format!("{variant}.toml"));
    ensure!(path.exists(), "there is no variant {variant:?}: {} is missing", path.display());
    if let Some(base) = table(&path)?.get(INHERITS) {
        let base = base.as_str().filter(|base| *base != variant);
        let wrong = || format!("{}: {INHERITS} is not the name of another variant", path.display());
        add_variant(merged, dir, base.with_context(wrong)?)?;
    }
    add(merged, &path)?;
    let suite = merged.get("debian").and_then(|debian| debian.get("suite")).and_then(Value::as_str);
    let path = dir.join(format!("{variant}.{}.toml", suite.unwrap_or_default()));
    add(merged, &path)
}

/// Merges a file into the board, if it is there.
fn add(merged: &mut Table, path: &Path) -> Result<()> {
    if path.exists() {
        let layer = table(path)?;
        check(&layer, path)?;
        merge(merged, layer);
    }
    Ok(())
}

fn table(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse().with_context(|| format!("parse {}", path.display()))
}

/// Whether the keys of one file are known and their values of the right kind; what is missing may come from another file.
fn check(table: &Table, path: &Path) -> Result<()> {
    for (key, value) in table {
        let section = SECTIONS.iter().find(|(name, _)| name == key);
        match section {
            Some((_, fits)) => without_removals(value.clone())
                .map_or(Ok(()), fits)
                .map_err(|reason| anyhow!("{}: [{key}]: {reason}", path.display()))?,
            None if PLAIN.contains(&key.as_str()) => {}
            None => bail!("{}: unknown key {key:?}", path.display()),
        }
    }
    Ok(())
}

fn fits<T: serde::de::DeserializeOwned>(value: Value) -> Result<(), String> {
    match value.try_into::<T>() {
        Err(error) if !error.message().starts_with("missing field") => {
            Err(error.message().to_owned())
        }
        _ => Ok(()),
    }
}

/// What is left without the keys that only take away what was inherited.
fn without_removals(value: Value) -> Option<Value> {
    match value {
        Value::Boolean(false) => None,
        Value::Table(table) => {
            let left =
                table.into_iter().filter_map(|(key, value)| Some((key, without_removals(value)?)));
            Some(Value::Table(left.collect()))
        }
        value => Some(value),
    }
}

/// Tables are merged key by key; anything else of `over` replaces what was there. `false` removes what was there,
/// unless that was `true` or `false` too.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            (Some(old), Value::Boolean(false)) if old.as_bool().is_none() => {
                base.remove(&key);
            }
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
            let duties: Vec<&str> = board.requests().iter().map(|row| row.0).collect();
            for source in board.boot.files.values() {
                let (duty, _) = source.split_once(':').unwrap();
                assert!(duties.contains(&duty), "{id}: {source}");
            }
        }
    }

    #[test]
    fn variants_add_to_every_board() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for id in ids(&root).unwrap() {
            let parts = |variant| -> Vec<String> {
                Board::variant(&root, &id, variant).unwrap().parts.into_keys().collect()
            };
            let (debug, release) = (parts("debug"), parts(RELEASE));
            for part in ["shell", "ssh"] {
                let has = |parts: &[String]| parts.iter().any(|name| name == part);
                assert!(has(&debug) && !has(&release), "{id}: {part}");
            }
        }
        let error = Board::variant(&root, "rpi4", "slim").unwrap_err().to_string();
        assert!(error.contains("no variant \"slim\""), "{error}");
    }

    #[test]
    fn variants_inherit_and_differ_by_suite() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("plain.toml", "name = \"plain\"\n[kernel]\nargs = \"a\"\n"),
            ("plain.new.toml", "[kernel]\nargs = \"b\"\n"),
            ("more.toml", "inherits = \"plain\"\nname = \"more\"\n"),
            ("self.toml", "inherits = \"self\"\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let rows = [("old", "plain", "plain", "a"), ("old", "more", "more", "a")];
        for (suite, variant, name, args) in rows.into_iter().chain([("new", "more", "more", "b")]) {
            let mut merged = format!("[debian]\nsuite = {suite:?}\n").parse().unwrap();
            add_variant(&mut merged, dir.path(), variant).unwrap();
            let found = (merged["name"].as_str(), merged["kernel"]["args"].as_str());
            assert_eq!(found, (Some(name), Some(args)), "{suite} {variant}");
        }
        let error = add_variant(&mut Table::new(), dir.path(), "self").unwrap_err().to_string();
        assert!(
            error.ends_with("self.toml: inherits is not the name of another variant"),
            "{error}"
        );
    }

    #[test]
    fn tables_are_merged_and_values_replaced() {
        let mut base: Table = "a = 1\nb = [1]\n[c]\nd = 1\ne = 1\n".parse().unwrap();
        merge(&mut base, "b = [2]\n[c]\ne = 2\nf = 3\n".parse().unwrap());
        assert_eq!(base, "a = 1\nb = [2]\n[c]\nd = 1\ne = 2\nf = 3\n".parse::<Table>().unwrap());
    }

    #[test]
    fn mistakes_name_file_and_key() {
        let cases = [
            ("colour = 1\n", "x/board.toml: unknown key \"colour\""),
            ("[disk]\nroot-mb = 1\n", "x/board.toml: [disk]: unknown field `root-mb`"),
            ("[qemu]\ncpus = \"two\"\n", "x/board.toml: [qemu]: invalid type: string \"two\""),
            ("[qemu.start.loader]\nboot = 1\n", "x/board.toml: [qemu]: unknown field `boot`"),
        ];
        for (text, expected) in cases {
            let error = check(&text.parse().unwrap(), Path::new("x/board.toml")).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        for text in
            ["name = \"x\"\n[disk]\nroot-mib = 1\n", "uboot = false\n[boot]\nfiles = false\n"]
        {
            check(&text.parse().unwrap(), Path::new("x")).unwrap();
        }
    }

    #[test]
    fn false_removes_what_is_no_switch() {
        let mut base: Table = "a = true\n[b]\nd = 1\n[c]\nd = \"x\"\ne = 1\n".parse().unwrap();
        merge(&mut base, "a = false\nb = false\n[c]\nd = false\n".parse().unwrap());
        assert_eq!(base, "a = false\n[c]\ne = 1\n".parse::<Table>().unwrap());
    }

    #[test]
    fn an_unknown_board_names_the_known_ones() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let error = Board::read(&root, "toaster").unwrap_err().to_string();
        assert!(error.contains("toaster") && error.contains("qemu-arm64"), "{error}");
    }
}
