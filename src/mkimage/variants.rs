//! Bundles for tests, made from an image that is built: another version, and something broken in it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use minisign::{KeyPair, SecretKey};
use ota::Release;

use crate::Place;
use crate::board::Board;
use crate::bundle::{self, Terms};
use crate::recipe::{epoch, verified_root};
use crate::release::{RELEASE, secret_key, set};
use crate::slot_files::{DESCRIPTION, SlotFiles};
use crate::tools::{run, tool};

const SETTINGS: &str = "etc/copepod/board.yaml";
const INIT: &str = "sbin/init";
const NO_ARGS: &str = "args: []";

/// What is wrong with a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    None,
    /// The boot loader cannot start the kernel.
    Kernel,
    /// The root's init cannot be executed.
    Init,
    /// The server ends at once, again and again.
    Server,
    /// The server runs, but no node with it.
    Health,
    /// It is signed with a key that no image knows.
    Signature,
    /// It is for another board.
    Board,
}

impl Fault {
    /// The fault if it lies in the root.
    fn of_root(self) -> Option<Fault> {
        matches!(self, Fault::Init | Fault::Server | Fault::Health).then_some(self)
    }
}

/// One bundle to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// Name of the bundle's file.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) fault: Fault,
    pub(crate) healthy_within: u32,
}

/// A root that is made, and its verity line.
struct Root {
    file: tempfile::NamedTempFile,
    verity: String,
}

/// Makes the bundles in `folder`.
pub(crate) fn make(
    place: &Place,
    board: &Board,
    variants: &[Variant],
    folder: &Path,
) -> Result<()> {
    let key = secret_key(&place.root, None)?;
    let mut roots = BTreeMap::new();
    for variant in variants {
        one(place, board, variant, folder, &key, &mut roots)
            .with_context(|| format!("make bundle {}", variant.name))?;
    }
    Ok(())
}

fn one(
    place: &Place,
    board: &Board,
    variant: &Variant,
    folder: &Path,
    key: &SecretKey,
    roots: &mut BTreeMap<(&'static str, Option<Fault>), Root>,
) -> Result<()> {
    let work = tempfile::Builder::new().prefix("copepod-").tempdir_in(folder)?;
    let text = fs::read(place.dir().join("root").join(RELEASE));
    let mut release: Release =
        serde_json::from_slice(&text.with_context(|| format!("read {RELEASE}"))?)?;
    release.version = variant.version.parse()?;
    // Packing a root takes far longer than everything else.
    let root = match roots.entry((variant.version, variant.fault.of_root())) {
        Entry::Occupied(made) => made.into_mut(),
        Entry::Vacant(place_of) => {
            place_of.insert(root(place, board, &release, variant.fault, folder)?)
        }
    };
    let slot = SlotFiles { boot: work.path().join("slot"), root: root.file.path().to_owned() };
    copy(&SlotFiles::of(&place.dir()).boot, &slot.boot)?;
    spoil_slot(variant.fault, &slot)?;
    let path = slot.boot.join(DESCRIPTION);
    let description = fs::read_to_string(&path)?;
    let lines = description.lines().map(|line| match line.starts_with("verity=") {
        true => format!("verity={}\n", root.verity),
        false => format!("{line}\n"),
    });
    fs::write(&path, lines.collect::<String>())?;
    let other;
    let key = match variant.fault {
        Fault::Signature => {
            other = KeyPair::generate_unencrypted_keypair()?.sk;
            &other
        }
        _ => key,
    };
    if variant.fault == Fault::Board {
        release.board.push_str("-other");
    }
    let terms = Terms { minimum: None, healthy_within: Some(variant.healthy_within) };
    bundle::make(&slot, &release, &terms, key, &folder.join(variant.name))
}

/// Packs the root of a release with what is wrong in it.
fn root(
    place: &Place,
    board: &Board,
    release: &Release,
    fault: Fault,
    folder: &Path,
) -> Result<Root> {
    let work = tempfile::Builder::new().prefix("copepod-").tempdir_in(folder)?;
    let tree = work.path().join("root");
    copy(&place.dir().join("root"), &tree)?;
    set(&tree, release)?;
    spoil_root(fault, &tree)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    let verity = verified_root(&tree, file.path(), &board.disk, epoch(&place.root)?)?.to_string();
    Ok(Root { file, verity })
}

fn spoil_root(fault: Fault, tree: &Path) -> Result<()> {
    match fault {
        Fault::Init => {
            fs::remove_file(tree.join(INIT))?;
            Ok(fs::write(tree.join(INIT), "no program\n")?)
        }
        Fault::Server => add_argument(tree, "--no-such-flag"),
        Fault::Health => add_argument(tree, "--disable-agent"),
        Fault::None | Fault::Kernel | Fault::Signature | Fault::Board => Ok(()),
    }
}

fn spoil_slot(fault: Fault, slot: &SlotFiles) -> Result<()> {
    if fault != Fault::Kernel {
        return Ok(());
    }
    let path = slot.boot.join("kernel");
    let length = fs::metadata(&path)?.len();
    fs::write(&path, [])?;
    Ok(fs::File::options().write(true).open(&path)?.set_len(length)?)
}

fn add_argument(tree: &Path, argument: &str) -> Result<()> {
    let path = tree.join(SETTINGS);
    let text = fs::read_to_string(&path).with_context(|| format!("read {SETTINGS}"))?;
    ensure!(text.contains(NO_ARGS), "{SETTINGS} has arguments already");
    Ok(fs::write(&path, text.replace(NO_ARGS, &format!("args: [{argument:?}]")))?)
}

fn copy(from: &PathBuf, to: &Path) -> Result<()> {
    run(tool("cp", 0).arg("-a").arg(from).arg(to)).map(drop)
}
