//! One pull: resolve the name, choose the platform, fetch the missing layers, record the image.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::digest::Digest;
use super::error::Error;
use super::layers::Slot;
use super::manifest::{Configuration, Descriptor, Document, Manifest};
use super::platform::Platform;
use super::reference::Reference;
use super::registry::Registry;
use super::store::{
    Complete, Image, Inner, LAYERS_AT_ONCE, PullOptions, Record, blocking, transferred_size,
};

/// Indexes inside indexes.
const INDEX_DEPTH_MAX: u32 = 3;
/// Pieces of a download waiting to be unpacked.
const CHUNKS_WAITING_MAX: usize = 16;

/// Pulls `reference`; errors carry the text containerd shows.
pub(super) async fn pull(
    inner: &Arc<Inner>,
    reference: &Reference,
    platform: &Platform,
    options: PullOptions,
) -> Result<Image, Error> {
    let registry = Registry::new(reference, options.registries, options.auth);
    let image = reference.to_string();
    let pulled = async {
        let (bytes, digest) = registry
            .resolve()
            .await
            .map_err(|source| Error::Resolve { image: image.clone(), source: Arc::new(source) })?;
        pull_resolved(inner, &registry, reference, platform, bytes, digest).await
    };
    pulled.await.map_err(|source| Error::Pull { image: image.clone(), source: Arc::new(source) })
}

async fn pull_resolved(
    inner: &Arc<Inner>,
    registry: &Registry,
    reference: &Reference,
    platform: &Platform,
    top: Bytes,
    top_digest: Digest,
) -> Result<Image, Error> {
    let (manifest_bytes, manifest_digest, manifest) =
        choose(registry, platform, top, top_digest.clone()).await?;
    let config_bytes = registry.document(&manifest.config).await?;
    let what = format!("configuration {}", manifest.config.digest);
    let configuration = Configuration::parse(&what, &config_bytes)?;
    configuration.check_layers(&what, manifest.layers.len())?;
    let claims = layers(inner, registry, &manifest, &configuration).await?;
    let record = Record {
        id: manifest.config.digest.clone(),
        references: reference.tagged().into_iter().collect(),
        digests: BTreeSet::from([reference.with_digest(&top_digest)]),
        size: transferred_size(&manifest),
        manifest: manifest_digest,
    };
    let complete =
        Complete { record, configuration, manifest_bytes: manifest_bytes.to_vec(), config_bytes };
    let inner = inner.clone();
    let image = blocking(move || inner.commit(complete)).await;
    drop(claims);
    image
}

/// Descends from what the name means to one image's manifest.
async fn choose(
    registry: &Registry,
    platform: &Platform,
    mut bytes: Bytes,
    mut digest: Digest,
) -> Result<(Bytes, Digest, Manifest), Error> {
    for _ in 0..=INDEX_DEPTH_MAX {
        match Document::parse(&format!("manifest {digest}"), &bytes)? {
            Document::Manifest(manifest) => return Ok((bytes, digest, manifest)),
            Document::Index(index) => {
                let chosen = index.choose(platform)?;
                bytes = registry.manifest_by(chosen).await?;
                digest = chosen.digest.clone();
            }
        }
    }
    Err(Error::invalid(
        format!("manifest {digest}"),
        format!("indexes are nested deeper than {INDEX_DEPTH_MAX}"),
    ))
}

/// Brings all layers; the claims keep them until the image is recorded.
async fn layers(
    inner: &Arc<Inner>,
    registry: &Registry,
    manifest: &Manifest,
    configuration: &Configuration,
) -> Result<Vec<Arc<Slot>>, Error> {
    let mut seen = BTreeSet::new();
    let pairs = configuration
        .diff_ids
        .iter()
        .zip(&manifest.layers)
        .filter(|(diff_id, _)| seen.insert((*diff_id).clone()));
    let pairs: Vec<_> =
        pairs.map(|(diff_id, descriptor)| (diff_id.clone(), descriptor.clone())).collect();
    stream::iter(pairs)
        .map(|(diff_id, descriptor)| async move { layer(inner, registry, &diff_id, &descriptor).await })
        .buffer_unordered(LAYERS_AT_ONCE)
        .try_collect()
        .await
}

async fn layer(
    inner: &Arc<Inner>,
    registry: &Registry,
    diff_id: &Digest,
    descriptor: &Descriptor,
) -> Result<Arc<Slot>, Error> {
    let slot = inner.layers.claim(diff_id);
    // Two images with a layer in common: the second waits for the first instead of downloading again.
    let guard = slot.lock.lock().await;
    if !inner.layers.contains(diff_id) {
        let permit = inner
            .slots
            .acquire()
            .await
            .map_err(|error| Error::Worker { reason: error.to_string() })?;
        fetch(inner, registry, diff_id, descriptor).await?;
        drop(permit);
    }
    drop(guard);
    Ok(slot)
}

/// Downloads and unpacks at the same time, so that no compressed layer is ever written to the disk.
async fn fetch(
    inner: &Arc<Inner>,
    registry: &Registry,
    diff_id: &Digest,
    descriptor: &Descriptor,
) -> Result<(), Error> {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let worker = {
        let (inner, diff_id, descriptor) = (inner.clone(), diff_id.clone(), descriptor.clone());
        // Lives no longer than the channel: a pull given up closes it, which ends the unpacking.
        let slot = inner.layers.claim(&diff_id);
        blocking(move || {
            let _claim = slot;
            let source = Received { receiver, current: Bytes::new() };
            inner.layers.add(source, &diff_id, Some((&descriptor.digest, descriptor.size)))
        })
    };
    let (downloaded, unpacked) = tokio::join!(registry.download(descriptor, sender), worker);
    match (downloaded, unpacked) {
        // The reader went away first, so its reason is the one that counts.
        (Err(Error::Worker { .. }), Err(error)) | (Err(error), _) => Err(error),
        (Ok(()), unpacked) => unpacked,
    }
}

/// The download as a blocking reader. It ends where the download does; sizes and digests tell whether that was the end.
struct Received {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
