//! Bundles for tests, made from an image that is built: another version, and something broken in it.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// One bundle to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// Name of the bundle's file.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) fault: Fault,
    pub(crate) healthy_within: u32,
}

/// Makes the bundles in `folder`.
pub(crate) fn make(
    place: &Place,
    board: &Board,
    variants: &[Variant],
    folder: &Path,
) -> Result<()> {
    let key = secret_key(&place.root, None)?;
    for variant in variants {
        one(place, board, variant, folder, &key)
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
) -> Result<()> {
    let built = SlotFiles::of(&place.dir());
    let work = tempfile::Builder::new().prefix("copepod-").tempdir_in(folder)?;
    let slot = SlotFiles { boot: work.path().join("slot"), root: work.path().join("root.img") };
    let tree = work.path().join("root");
    copy(&place.dir().join("root"), &tree)?;
    copy(&built.boot, &slot.boot)?;
    let text = fs::read(tree.join(RELEASE)).with_context(|| format!("read {RELEASE}"))?;
    let mut release: Release = serde_json::from_slice(&text)?;
    release.version = variant.version.parse()?;
    set(&tree, &release)?;
    spoil(variant.fault, &tree, &slot)?;
    let verity = verified_root(&tree, &slot.root, &board.disk, epoch(&place.root)?)?;
    let path = slot.boot.join(DESCRIPTION);
    let description = fs::read_to_string(&path)?;
    let lines = description.lines().map(|line| match line.starts_with("verity=") {
        true => format!("verity={verity}\n"),
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

fn spoil(fault: Fault, tree: &Path, slot: &SlotFiles) -> Result<()> {
    match fault {
        Fault::None | Fault::Signature | Fault::Board => Ok(()),
        Fault::Kernel => {
            let path = slot.boot.join("kernel");
            let length = fs::metadata(&path)?.len();
            fs::write(&path, [])?;
            Ok(fs::File::options().write(true).open(&path)?.set_len(length)?)
        }
        Fault::Init => {
            fs::remove_file(tree.join(INIT))?;
            Ok(fs::write(tree.join(INIT), "no program\n")?)
        }
        Fault::Server => add_argument(tree, "--no-such-flag"),
        Fault::Health => add_argument(tree, "--disable-agent"),
    }
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
