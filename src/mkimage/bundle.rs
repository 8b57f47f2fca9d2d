//! Bundles for updates: made from what the recipe leaves of an image, signed.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ota::{
    Compression, FORMAT, INDEX, Manifest, Part, ROOT, Release, Sha256, encode_head, hex, index_of,
};
use semver::Version;

use crate::Place;
use crate::release::{RELEASE, secret_key};
use crate::show::{mib, step};
use crate::slot_files::SlotFiles;
use crate::tools::{run, tool};

/// Files shrink at least to this share of their size, or are left as they are: unpacking costs the board time.
const WORTHWHILE_PERCENT: u64 = 90;

#[derive(clap::Args)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    place: Place,
    /// Secret key in minisign's format; the development key when not given.
    #[arg(long)]
    key: Option<PathBuf>,
    /// Where the bundle goes; into the board's folder when not given.
    #[arg(long)]
    to: Option<PathBuf>,
    #[command(flatten)]
    terms: Terms,
}

/// What a bundle demands.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Terms {
    /// Oldest version from which the bundle can be installed.
    #[arg(long)]
    pub(crate) minimum: Option<Version>,
    /// Seconds within which the new version must be healthy, else the old one comes back; 300 when not given.
    #[arg(long)]
    pub(crate) healthy_within: Option<u32>,
}

const HEALTHY_WITHIN: u32 = 300;

/// Makes a bundle of the image built last.
pub(crate) fn build(args: &BundleArgs) -> Result<()> {
    let dir = args.place.dir();
    let path = dir.join("root").join(RELEASE);
    let text = fs::read(&path).with_context(|| {
        format!(
            "read {}; build the image first: make image BOARD={}",
            path.display(),
            args.place.board
        )
    })?;
    let release: Release = serde_json::from_slice(&text)?;
    let name = format!("copepod-{}-{}.bundle", release.board, release.version);
    let target = args.to.clone().unwrap_or_else(|| dir.join(name));
    let key = secret_key(&args.place.root, args.key.as_deref())?;
    make(&SlotFiles::of(&dir), &release, &args.terms, &key, &target)
}

/// Writes the bundle of a slot.
pub(crate) fn make(
    slot: &SlotFiles,
    release: &Release,
    terms: &Terms,
    key: &minisign::SecretKey,
    target: &Path,
) -> Result<()> {
    let doing = step("make the bundle");
    let mut parts = Parts::default();
    let root = fs::read(&slot.root).with_context(|| format!("read {}", slot.root.display()))?;
    parts.add(INDEX.to_owned(), &index_of(root.as_slice())?, None);
    parts.add(ROOT.to_owned(), &root, None);
    for path in files(&slot.boot)? {
        let name = path.strip_prefix(&slot.boot)?.to_string_lossy().into_owned();
        let bytes = fs::read(&path)?;
        let packed = pack(&path, &bytes, target.parent().unwrap_or(Path::new(".")))?;
        let is_worthwhile = packed.len() as u64 * 100 <= bytes.len() as u64 * WORTHWHILE_PERCENT;
        parts.add(name, &bytes, is_worthwhile.then_some(&packed));
    }
    let manifest = Manifest {
        format: FORMAT,
        board: release.board.clone(),
        version: release.version.clone(),
        build: release.build,
        minimum: terms.minimum.clone(),
        healthy_within: terms.healthy_within.unwrap_or(HEALTHY_WITHIN),
        parts: parts.list,
    };
    let encoded = manifest.encode()?;
    let comment = format!("copepod {} for {}", release.version, release.board);
    let signature = minisign::sign(None, key, Cursor::new(&encoded), Some(&comment), None)?;
    let mut file = File::create(target).with_context(|| format!("create {}", target.display()))?;
    file.write_all(&encode_head(&encoded, signature.into_string().as_bytes()))?;
    file.write_all(&parts.payload)?;
    let length = file.metadata()?.len();
    doing.done(format!("{}: {}, version {}", target.display(), mib(length), release.version));
    Ok(())
}

/// Parts one after the other.
#[derive(Default)]
struct Parts {
    list: Vec<Part>,
    payload: Vec<u8>,
}

impl Parts {
    fn add(&mut self, name: String, bytes: &[u8], packed: Option<&Vec<u8>>) {
        let stored = packed.map_or(bytes, Vec::as_slice);
        self.list.push(Part {
            name,
            size: bytes.len() as u64,
            sha256: hex(&Sha256::of(bytes)),
            offset: self.payload.len() as u64,
            stored: stored.len() as u64,
            compression: if packed.is_some() { Compression::Zstd } else { Compression::None },
        });
        self.payload.extend_from_slice(stored);
    }
}

/// All files below a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The compressed file. It is kept beside the bundle under its hash, because most files are the same in many bundles.
fn pack(path: &Path, bytes: &[u8], folder: &Path) -> Result<Vec<u8>> {
    let target = folder.join(format!("{}.zst", hex(&Sha256::of(bytes))));
    if !target.exists() {
        let new = target.with_extension("new");
        run(tool("zstd", 0).args(["-q", "-f", "-19", "-T1"]).arg(path).arg("-o").arg(&new))?;
        fs::rename(&new, &target)?;
    }
    Ok(fs::read(&target)?)
}
