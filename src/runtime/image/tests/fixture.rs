//! Images made for tests: documents and layers whose digests fit each other.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::tarball::{file, finish};
use crate::image::digest::Digest;
use crate::image::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::image::platform::Platform;

/// One image with everything it consists of.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) config: Vec<u8>,
    /// Compressed layers, lowest first.
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Fixture {
    /// An OCI image of these plain layers, each compressed by `compress`.
    pub(crate) fn new(plain: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>) -> Self {
        Self::make(plain, compress, OCI_MANIFEST)
    }

    pub(crate) fn docker(plain: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>) -> Self {
        Self::make(plain, compress, DOCKER_MANIFEST)
    }

    fn make(plain: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>, media_type: &'static str) -> Self {
        let diff_ids: Vec<Digest> = plain.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "config": {"Entrypoint": ["/bin/app"], "Cmd": null, "Env": ["A=b"], "User": "web", "WorkingDir": "/srv",
                       "StopSignal": "SIGQUIT", "Labels": {"k": "v"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<Vec<u8>> = plain.iter().map(|layer| compress(layer)).collect();
        let (config_type, layer_type) = if media_type == OCI_MANIFEST {
            (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )
        } else {
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": descriptor(config_type, &config),
            "layers": layers.iter().map(|layer| descriptor(layer_type, layer)).collect::<Vec<_>>(),
        });
        Self { manifest: manifest.to_string().into_bytes(), media_type, config, layers }
    }

    pub(crate) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Every blob by digest, the manifest among them.
    pub(crate) fn blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let parts = self.layers.iter().chain([&self.config, &self.manifest]);
        parts.map(|bytes| (Digest::of(bytes).to_string(), bytes.clone())).collect()
    }

    /// As an entry of an index.
    pub(crate) fn entry(&self, platform: Option<Value>, name: Option<&str>) -> Value {
        let mut entry = descriptor(self.media_type, &self.manifest);
        if let Some(platform) = platform {
            entry["platform"] = platform;
        }
        if let Some(name) = name {
            entry["annotations"] = json!({"io.containerd.image.name": name});
        }
        entry
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// This machine's platform, as an index has it.
pub(crate) fn host_platform() -> Value {
    let host = Platform::host();
    json!({"os": host.os, "architecture": host.architecture})
}

pub(crate) fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        .to_string()
        .into_bytes()
}

/// An OCI layout as a tar archive, the index last, as some tools write it.
pub(crate) fn oci_archive(images: &[&Fixture], index: &[u8], more: &[&[u8]]) -> Vec<u8> {
    let mut archive = Vec::new();
    file(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let blobs = images
        .iter()
        .flat_map(|image| image.blobs())
        .chain(more.iter().map(|bytes| (Digest::of(bytes).to_string(), bytes.to_vec())));
    for (digest, bytes) in blobs {
        file(
            &mut archive,
            &format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")),
            &bytes,
        );
    }
    file(&mut archive, "index.json", index);
    finish(archive)
}
