//! Manifests, indexes and configurations, Docker schema 2 and OCI alike: bytes in, checked values out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::Error;
use super::platform::Platform;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Largest manifest, index or configuration read into memory.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Overlayfs stacks no more lower directories than this.
pub(super) const LAYERS_MAX: usize = 500;
/// Manifests an index may list.
const INDEX_ENTRIES_MAX: usize = 1000;
/// Largest compressed layer.
pub(super) const LAYER_BLOB_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// A pointer to a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<PlatformEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// The platform an index gives for one of its manifests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PlatformEntry {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
}

/// One image: its configuration and layers, lowest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// Several images under one name.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

/// What a manifest request can bring.
#[derive(Debug)]
pub(super) enum Document {
    Manifest(Manifest),
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Decides by content, because servers and archives get media types wrong; a document that is both is refused.
    pub(super) fn parse(what: &str, bytes: &[u8]) -> Result<Self, Error> {
        let probe: Probe =
            serde_json::from_slice(bytes).map_err(|error| Error::invalid(what, error))?;
        if probe.fs_layers.is_some() || probe.schema_version == Some(1) {
            return Err(Error::invalid(
                what,
                "manifest schema version 1 is no longer supported; push the image again",
            ));
        }
        match (probe.manifests.is_some(), probe.layers.is_some()) {
            (true, false) => {
                let index: Index =
                    serde_json::from_slice(bytes).map_err(|error| Error::invalid(what, error))?;
                if index.manifests.len() > INDEX_ENTRIES_MAX {
                    let reason = format!(
                        "it lists {} manifests, at most {INDEX_ENTRIES_MAX} are read",
                        index.manifests.len()
                    );
                    return Err(Error::invalid(what, reason));
                }
                Ok(Self::Index(index))
            }
            (false, true) => {
                let manifest: Manifest =
                    serde_json::from_slice(bytes).map_err(|error| Error::invalid(what, error))?;
                manifest.check(what)?;
                Ok(Self::Manifest(manifest))
            }
            (true, true) => Err(Error::invalid(what, "it has both \"manifests\" and \"layers\"")),
            (false, false) => {
                Err(Error::invalid(what, "it is neither an image manifest nor an index"))
            }
        }
    }
}

impl Manifest {
    fn check(&self, what: &str) -> Result<(), Error> {
        if self.layers.len() > LAYERS_MAX {
            let reason =
                format!("it has {} layers, at most {LAYERS_MAX} can be mounted", self.layers.len());
            return Err(Error::invalid(what, reason));
        }
        if self.config.size > DOCUMENT_BYTES_MAX {
            return Err(Error::TooLarge {
                what: format!("configuration {}", self.config.digest),
                limit: DOCUMENT_BYTES_MAX,
            });
        }
        match self.layers.iter().find(|layer| layer.size > LAYER_BLOB_BYTES_MAX) {
            Some(layer) => Err(Error::TooLarge {
                what: format!("layer {}", layer.digest),
                limit: LAYER_BLOB_BYTES_MAX,
            }),
            None => Ok(()),
        }
    }
}

impl Index {
    /// The manifest that fits `platform` best; entries without a platform are the last resort.
    pub(super) fn choose(&self, platform: &Platform) -> Result<&Descriptor, Error> {
        let ranked =
            self.manifests.iter().filter(|entry| !entry.is_attestation()).filter_map(|entry| {
                let rank = match &entry.platform {
                    Some(offered) => platform.rank(offered)?,
                    None => u32::MAX,
                };
                Some((rank, entry))
            });
        let best = ranked.min_by_key(|(rank, _)| *rank);
        best.map(|(_, entry)| entry)
            .ok_or_else(|| Error::Platform { platform: platform.to_string() })
    }
}

impl Descriptor {
    /// Build tools list provenance documents beside images.
    fn is_attestation(&self) -> bool {
        self.annotations.as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
    }
}

/// The parts of an image configuration that running a container needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    config: Option<RawRuntime>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawRuntime {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    stop_signal: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

/// A decoded configuration: what to run, and the digests of the unpacked layers, lowest first.
#[derive(Debug, Clone)]
pub(super) struct Configuration {
    pub(super) run: ImageConfig,
    pub(super) diff_ids: Vec<Digest>,
}

impl Configuration {
    pub(super) fn parse(what: &str, bytes: &[u8]) -> Result<Self, Error> {
        let raw: RawConfig =
            serde_json::from_slice(bytes).map_err(|error| Error::invalid(what, error))?;
        let rootfs = raw.rootfs.ok_or_else(|| {
            Error::invalid(what, "it has no rootfs, so this is not a container image")
        })?;
        let run = raw.config.unwrap_or_default();
        let run = ImageConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            labels: run.labels.unwrap_or_default(),
        };
        Ok(Self { run, diff_ids: rootfs.diff_ids.unwrap_or_default() })
    }

    /// Pairs compressed layers with their unpacked digests.
    pub(super) fn check_layers(&self, what: &str, layers: usize) -> Result<(), Error> {
        if self.diff_ids.len() == layers {
            return Ok(());
        }
        Err(Error::invalid(
            what,
            format!("it names {} layers, the manifest {layers}", self.diff_ids.len()),
        ))
    }
}
