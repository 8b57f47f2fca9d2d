//! The image store: records of images, their documents, and the layers they share.
//!
//! ```text
//! <root>/blobs/<hex>        manifests and configurations, named by digest
//! <root>/layers/<hex>/      unpacked layers, named by the digest of their plain tar archive
//! <root>/images/<hex>.json  one record per image id: its references, digests, manifest
//! <root>/imports/<hex>.json which archives were imported
//! <root>/tmp/               everything unfinished; emptied when the store is opened
//! ```
//! Everything is complete and on disk before its final name exists. A lost or broken record is made again, without its
//! tags, from the manifest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::auth::Auth;
use super::digest::Digest;
use super::error::Error;
use super::imported::Imported;
use super::layers::{Layers, remove_tree};
use super::manifest::{Configuration, Document, ImageConfig, Manifest};
use super::platform::Platform;
use super::reference::{Reference, is_hex_id};
use super::registries::Registries;
use super::unpack::Limits;

/// Layers downloaded and unpacked at the same time, over all pulls.
pub(super) const LAYERS_AT_ONCE: usize = 3;
/// Longest `images/*.json`.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;
/// References and digests one image may collect.
const NAMES_MAX: usize = 1000;

/// An image that is completely there.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration, `sha256:...`.
    pub id: String,
    /// Tags, `docker.io/library/busybox:1.36`.
    pub references: Vec<String>,
    /// `repository@sha256:...`.
    pub digests: Vec<String>,
    /// Bytes of the image as transferred.
    pub size: u64,
    pub config: ImageConfig,
    /// Unpacked layers, topmost first, ready as lower directories of an overlay mount.
    pub layers: Vec<PathBuf>,
}

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// For the image's own registry; those of mirrors come from `registries`.
    pub auth: Option<Auth>,
    pub registries: Arc<Registries>,
    /// This machine's if not given.
    pub platform: Option<Platform>,
}

/// Handle to the store; clones share it.
#[derive(Clone)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    root: PathBuf,
    pub(super) layers: Layers,
    pub(super) imported: Imported,
    /// Serializes changes of records and blobs on disk.
    writer: Mutex<()>,
    images: Mutex<BTreeMap<Digest, Stored>>,
    pulls: Mutex<HashMap<PullKey, WeakShared<PullFuture>>>,
    pub(super) slots: Semaphore,
}

type PullFuture = BoxFuture<'static, Result<Image, Error>>;

/// Pulls that may share a result.
#[derive(PartialEq, Eq, Hash)]
struct PullKey {
    reference: Reference,
    platform: Platform,
    auth: Option<Auth>,
}

/// `images/<hex>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) id: Digest,
    pub(super) references: BTreeSet<String>,
    pub(super) digests: BTreeSet<String>,
    pub(super) manifest: Digest,
    pub(super) size: u64,
}

#[derive(Clone)]
struct Stored {
    record: Record,
    configuration: Arc<Configuration>,
}

/// An image whose layers are there, ready to be recorded.
pub(super) struct Complete {
    pub(super) record: Record,
    pub(super) configuration: Configuration,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) config_bytes: Vec<u8>,
}

impl ImageStore {
    /// Opens or creates the store: unfinished leftovers go, records are read and, where lost, made again. Blocks.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_with(root, Limits::default())
    }

    /// As `open`, with other limits for layers.
    pub fn open_with(root: &Path, limits: Limits) -> Result<Self, Error> {
        let temporary = root.join("tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(Error::io("empty", &temporary))?;
        }
        for name in ["blobs", "layers", "images", "tmp"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(Error::io("create directory", &path))?;
        }
        // Layers hold set-user-id programs: nobody but root may reach them.
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(Error::io("set mode of", root))?;
        let inner = Inner {
            root: root.to_owned(),
            layers: Layers::new(root.join("layers"), temporary, limits),
            imported: Imported::open(root.join("imports"))?,
            writer: Mutex::new(()),
            images: Mutex::new(BTreeMap::new()),
            pulls: Mutex::new(HashMap::new()),
            slots: Semaphore::new(LAYERS_AT_ONCE),
        };
        inner.load()?;
        inner.rebuild()?;
        inner.collect()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Pulls an image unless everything of it is there already. Pulls of the same image share one download; it goes on
    /// as long as one caller waits.
    pub async fn pull(&self, reference: &str, options: PullOptions) -> Result<Image, Error> {
        let reference = Reference::parse(reference)?;
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let key = PullKey {
            reference: reference.clone(),
            platform: platform.clone(),
            auth: options.auth.clone(),
        };
        let shared = self.shared_pull(key, || {
            let inner = self.inner.clone();
            async move { super::pull::pull(&inner, &reference, &platform, options).await }.boxed()
        });
        shared.await
    }

    fn shared_pull(&self, key: PullKey, start: impl FnOnce() -> PullFuture) -> Shared<PullFuture> {
        let mut pulls = lock(&self.inner.pulls);
        pulls.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        if let Some(running) = pulls.get(&key).and_then(WeakShared::upgrade) {
            return running;
        }
        let shared = start().shared();
        if let Some(weak) = shared.downgrade() {
            pulls.insert(key, weak);
        }
        shared
    }

    /// Loads the images of an archive: an OCI layout or the output of `docker save`, plain, gzip or zstd.
    pub async fn import(&self, archive: &Path) -> Result<Vec<Image>, Error> {
        let (inner, path) = (self.inner.clone(), archive.to_owned());
        blocking(move || super::archive::import(&inner, &path)).await
    }

    /// Finds an image by tag, digest, or image id with or without `sha256:`.
    pub fn resolve(&self, reference: &str) -> Option<Image> {
        let id =
            if is_hex_id(reference) { format!("sha256:{reference}") } else { reference.to_owned() };
        let images = lock(&self.inner.images);
        if let Ok(id) = Digest::parse(&id) {
            drop(images);
            return self.inner.find(&id);
        }
        let reference = Reference::parse(reference).ok()?;
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.tagged()?,
        };
        let found = images.values().find(|stored| {
            stored.record.references.contains(&name) || stored.record.digests.contains(&name)
        });
        found.map(|stored| self.inner.image(stored))
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Image> {
        lock(&self.inner.images).values().map(|stored| self.inner.image(stored)).collect()
    }

    /// Removes an image, given by id or any of its names, with all its names and every layer no other image needs.
    /// Nothing happens if it does not exist. The caller knows that no container uses it.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let Some(image) = self.resolve(id) else { return Ok(()) };
        let id = Digest::parse(&image.id)?;
        let inner = self.inner.clone();
        blocking(move || inner.remove(&id)).await
    }
}

impl Inner {
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    fn record_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    fn image(&self, stored: &Stored) -> Image {
        let mut seen = BTreeSet::new();
        // Overlayfs refuses one directory twice; the upper of two equal layers hides the lower anyway.
        let layers =
            stored.configuration.diff_ids.iter().rev().filter(|diff_id| seen.insert(*diff_id));
        Image {
            id: stored.record.id.to_string(),
            references: stored.record.references.iter().cloned().collect(),
            digests: stored.record.digests.iter().cloned().collect(),
            size: stored.record.size,
            config: stored.configuration.run.clone(),
            layers: layers.map(|diff_id| self.layers.path(diff_id)).collect(),
        }
    }

    /// The image with this id.
    pub(super) fn find(&self, id: &Digest) -> Option<Image> {
        lock(&self.images).get(id).map(|stored| self.image(stored))
    }

    /// Whether a tag in canonical form means some image.
    pub(super) fn is_named(&self, tag: &str) -> bool {
        lock(&self.images).values().any(|stored| stored.record.references.contains(tag))
    }

    /// Writes an image's documents and record; a tag it takes over leaves its former image.
    pub(super) fn commit(&self, complete: Complete) -> Result<Image, Error> {
        let _writer = lock(&self.writer);
        let Complete { mut record, configuration, manifest_bytes, config_bytes } = complete;
        self.write_blob(&record.manifest, &manifest_bytes)?;
        self.write_blob(&record.id, &config_bytes)?;
        let known = lock(&self.images).clone();
        if let Some(former) = known.get(&record.id) {
            record.references.extend(former.record.references.iter().cloned());
            record.digests.extend(former.record.digests.iter().cloned());
        }
        if record.references.len() + record.digests.len() > NAMES_MAX {
            return Err(Error::invalid(
                format!("image {}", record.id),
                format!("it has more than {NAMES_MAX} names"),
            ));
        }
        for (id, former) in &known {
            if *id != record.id && !former.record.references.is_disjoint(&record.references) {
                let mut former = former.clone();
                former.record.references.retain(|name| !record.references.contains(name));
                self.write_record(&former.record)?;
                lock(&self.images).insert(id.clone(), former);
            }
        }
        self.write_record(&record)?;
        let stored = Stored { record, configuration: Arc::new(configuration) };
        let image = self.image(&stored);
        lock(&self.images).insert(stored.record.id.clone(), stored);
        Ok(image)
    }

    fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let path = self.blob_path(digest);
        // A blob of that name is complete, and its name says what is in it, unless the disk lost it.
        if fs::read(&path).is_ok_and(|known| Digest::of(&known) == *digest) {
            return Ok(());
        }
        sys::atomic_write(&path, bytes, 0o600).map_err(Error::io("write", &path))
    }

    fn write_record(&self, record: &Record) -> Result<(), Error> {
        let path = self.record_path(&record.id);
        let bytes =
            serde_json::to_vec(record).map_err(|error| Error::invalid("image record", error))?;
        sys::atomic_write(&path, &bytes, 0o600).map_err(Error::io("write", &path))
    }

    fn remove(&self, id: &Digest) -> Result<(), Error> {
        {
            let _writer = lock(&self.writer);
            let path = self.record_path(id);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            let images = self.root.join("images");
            sys::files::sync_dir(&images).map_err(Error::io("sync", &images))?;
            lock(&self.images).remove(id);
        }
        self.collect()
    }

    /// Deletes layers and documents no record needs.
    pub(super) fn collect(&self) -> Result<(), Error> {
        let _writer = lock(&self.writer);
        let (mut layers, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        for stored in lock(&self.images).values() {
            layers.extend(stored.configuration.diff_ids.iter().cloned());
            blobs.extend([stored.record.id.clone(), stored.record.manifest.clone()]);
        }
        for path in self.layers.sweep(|diff_id| layers.contains(diff_id))? {
            remove_tree(&path);
        }
        for (digest, path) in self.blobs()? {
            if !digest.is_some_and(|digest| blobs.contains(&digest)) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// All files among the blobs; those whose name is no digest are leftovers.
    fn blobs(&self) -> Result<Vec<(Option<Digest>, PathBuf)>, Error> {
        let directory = self.root.join("blobs");
        let entries = fs::read_dir(&directory).map_err(Error::io("list", &directory))?;
        entries
            .map(|entry| {
                let entry = entry.map_err(Error::io("list", &directory))?;
                let digest = entry
                    .file_name()
                    .to_str()
                    .and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok());
                Ok((digest, entry.path()))
            })
            .collect()
    }

    /// Reads the records; one that is broken or lacks a part is dropped.
    fn load(&self) -> Result<(), Error> {
        let directory = self.root.join("images");
        for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
            let path = entry.map_err(Error::io("list", &directory))?.path();
            match self.load_record(&path) {
                Ok(stored) => drop(lock(&self.images).insert(stored.record.id.clone(), stored)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "dropping an image record that is not usable");
                    fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    fn load_record(&self, path: &Path) -> Result<Stored, Error> {
        let what = || path.display().to_string();
        let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
        if length > RECORD_BYTES_MAX {
            return Err(Error::TooLarge { what: what(), limit: RECORD_BYTES_MAX });
        }
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| Error::invalid(what(), error))?;
        if self.record_path(&record.id) != path {
            return Err(Error::invalid(what(), "its name is not that of its image"));
        }
        self.read_blob(&record.manifest)?;
        let configuration = self.read_configuration(&record.id)?;
        Ok(Stored { record, configuration: Arc::new(configuration) })
    }

    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let actual = Digest::of(&bytes);
        if actual == *digest {
            return Ok(bytes);
        }
        Err(Error::Mismatch {
            what: path.display().to_string(),
            expected: digest.to_string(),
            actual: actual.to_string(),
        })
    }

    /// The configuration `id`, if all its layers are there.
    fn read_configuration(&self, id: &Digest) -> Result<Configuration, Error> {
        let configuration =
            Configuration::parse(&format!("configuration {id}"), &self.read_blob(id)?)?;
        match configuration.diff_ids.iter().find(|diff_id| !self.layers.contains(diff_id)) {
            Some(missing) => {
                Err(Error::NotFound { what: format!("layer {missing} of image {id}") })
            }
            None => Ok(configuration),
        }
    }

    /// Makes records for complete images that have none.
    fn rebuild(&self) -> Result<(), Error> {
        for (digest, path) in self.blobs()? {
            let Some(digest) = digest else { continue };
            let Ok(Document::Manifest(manifest)) =
                self.read_blob(&digest).and_then(|bytes| Document::parse("manifest", &bytes))
            else {
                continue;
            };
            if lock(&self.images).contains_key(&manifest.config.digest) {
                continue;
            }
            let Ok(configuration) = self.read_configuration(&manifest.config.digest) else {
                continue;
            };
            tracing::warn!(path = %path.display(), image = %manifest.config.digest, "making a lost image record again, without its tags");
            let record = Record {
                id: manifest.config.digest.clone(),
                references: BTreeSet::new(),
                digests: BTreeSet::new(),
                size: transferred_size(&manifest),
                manifest: digest,
            };
            self.write_record(&record)?;
            lock(&self.images).insert(
                record.id.clone(),
                Stored { record, configuration: Arc::new(configuration) },
            );
        }
        Ok(())
    }
}

/// What the kubelet reports as an image's size.
pub(super) fn transferred_size(manifest: &Manifest) -> u64 {
    manifest.layers.iter().fold(manifest.config.size, |sum, layer| sum.saturating_add(layer.size))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs file work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Worker { reason: error.to_string() }),
    }
}
