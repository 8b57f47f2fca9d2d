//! What an image says of itself, and whose updates it takes.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use minisign::{KeyPair, PublicKeyBox, SecretKey, SecretKeyBox};
use ota::Release;
use semver::Version;

use crate::root_tree::settle_modes;

/// Places in the root.
pub(crate) const RELEASE: &str = "etc/copepod/release.json";
const SYSTEM: &str = "etc/os-release";
const KEYS: &str = "etc/copepod/update-keys";
/// Key made for development, below the project's root.
const DEVELOPMENT_KEY: &str = "build/update-key";

/// Flags of an image's identity.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct ReleaseArgs {
    /// Version of the image; that of Copepod when not given.
    #[arg(long)]
    release: Option<Version>,
    /// Public key in minisign's format whose bundles the image takes; can be repeated. A development key when not given.
    #[arg(long)]
    update_key: Vec<PathBuf>,
}

/// Writes the description and the public keys into the root's folder.
pub(crate) fn write(
    tree: &Path,
    root: &Path,
    board: &str,
    build: u64,
    args: &ReleaseArgs,
) -> Result<()> {
    let version = match &args.release {
        Some(version) => version.clone(),
        None => env!("CARGO_PKG_VERSION").parse()?,
    };
    set(tree, &Release { board: board.to_owned(), version, build })?;
    let folder = tree.join(KEYS);
    fs::create_dir_all(&folder)?;
    let development;
    let keys = match args.update_key.as_slice() {
        [] => {
            println!(
                "WARNING: the image takes updates signed with the development key {DEVELOPMENT_KEY}.key"
            );
            println!("         images for others need --update-key");
            development_key(root)?;
            development = [root.join(DEVELOPMENT_KEY).with_extension("pub")];
            &development[..]
        }
        keys => keys,
    };
    for (number, path) in keys.iter().enumerate() {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let key = PublicKeyBox::from_string(&text).and_then(PublicKeyBox::into_public_key);
        ensure!(key.is_ok(), "{} is no public key in minisign's format", path.display());
        fs::write(folder.join(format!("{number}.pub")), text)?;
    }
    settle_modes(tree)
}

/// Replaces the description in the root's folder; the node shows it as its operating system.
pub(crate) fn set(tree: &Path, release: &Release) -> Result<()> {
    let version = &release.version;
    let system = format!(
        "ID=copepod\nNAME=Copepod\nVERSION_ID=\"{version}\"\nPRETTY_NAME=\"Copepod {version}\"\n"
    );
    for (name, text) in [(RELEASE, serde_json::to_string(release)?), (SYSTEM, system)] {
        let path = tree.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The key to sign with: the one given, which may ask for its password, or the development key.
pub(crate) fn secret_key(root: &Path, given: Option<&Path>) -> Result<SecretKey> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => {
            println!(
                "WARNING: signing with the development key {DEVELOPMENT_KEY}.key; only development images take this bundle"
            );
            return development_key(root);
        }
    };
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let opened = || SecretKeyBox::from_string(&text)?.into_unencrypted_secret_key();
    opened()
        .or_else(|_| SecretKeyBox::from_string(&text)?.into_secret_key(None))
        .with_context(|| format!("{} is no secret key in minisign's format", path.display()))
}

/// Reads the development key, or makes one.
fn development_key(root: &Path) -> Result<SecretKey> {
    let secret = root.join(DEVELOPMENT_KEY).with_extension("key");
    let public = secret.with_extension("pub");
    if !secret.exists() || !public.exists() {
        println!("WARNING: making a development key for updates, {}", secret.display());
        let pair = KeyPair::generate_unencrypted_keypair()?;
        fs::create_dir_all(secret.parent().unwrap_or(root))?;
        fs::write(&public, pair.pk.to_box()?.into_string())?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&secret)?;
        let text = pair.sk.to_box(Some("copepod development key"))?.into_string();
        std::io::Write::write_all(&mut file, text.as_bytes())?;
    }
    let text = fs::read_to_string(&secret)?;
    SecretKeyBox::from_string(&text)?
        .into_unencrypted_secret_key()
        .with_context(|| format!("read {}", secret.display()))
}
