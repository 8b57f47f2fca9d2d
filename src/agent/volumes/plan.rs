//! Which volumes a pod has, what kind they are, and what they need from the API server.

use std::collections::BTreeSet;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, HostPathVolumeSource, PodSpec,
    ProjectedVolumeSource, SecretProjection, Volume, VolumeProjection,
};

use crate::env::References;

const MODE_DEFAULT: i32 = 0o644;
const TOKEN_SECONDS_DEFAULT: i64 = 3600;

/// One volume, reduced to what has to be done for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    EmptyDir {
        memory: bool,
        size: Option<u64>,
    },
    HostPath(HostPathVolumeSource),
    /// Files made from objects. configMap, secret and downwardAPI volumes are projected volumes with one source.
    Files {
        directory: &'static str,
        memory: bool,
        sources: Vec<VolumeProjection>,
        mode: i32,
    },
    Unsupported(&'static str),
}

/// A token that a projected volume wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWish {
    pub(crate) audience: String,
    pub(crate) seconds: i64,
}

pub(crate) fn kind(volume: &Volume) -> Kind {
    if let Some(source) = &volume.empty_dir {
        let size = source.size_limit.as_ref().and_then(|q| Amount::parse(&q.0).ok());
        let size = size.and_then(|q| u64::try_from(q.value()).ok()).filter(|s| *s > 0);
        return Kind::EmptyDir { memory: source.medium.as_deref() == Some("Memory"), size };
    }
    if let Some(source) = &volume.host_path {
        return Kind::HostPath(source.clone());
    }
    if let Some(source) = &volume.projected {
        return projected(source);
    }
    files_of_one(volume).unwrap_or_else(|| Kind::Unsupported(unsupported(volume)))
}

fn projected(source: &ProjectedVolumeSource) -> Kind {
    let odd = source.sources.iter().flatten().find_map(|s| {
        s.cluster_trust_bundle
            .as_ref()
            .map(|_| "projected.clusterTrustBundle")
            .or(s.pod_certificate.as_ref().map(|_| "projected.podCertificate"))
    });
    if let Some(odd) = odd {
        return Kind::Unsupported(odd);
    }
    Kind::Files {
        directory: "kubernetes.io~projected",
        memory: true,
        sources: source.sources.clone().unwrap_or_default(),
        mode: source.default_mode.unwrap_or(MODE_DEFAULT),
    }
}

fn files_of_one(volume: &Volume) -> Option<Kind> {
    let files = |directory, memory, source, mode: Option<i32>| {
        Some(Kind::Files {
            directory,
            memory,
            sources: vec![source],
            mode: mode.unwrap_or(MODE_DEFAULT),
        })
    };
    if let Some(source) = &volume.config_map {
        let projection = ConfigMapProjection {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let one = VolumeProjection { config_map: Some(projection), ..VolumeProjection::default() };
        return files("kubernetes.io~configmap", false, one, source.default_mode);
    }
    if let Some(source) = &volume.secret {
        let projection = SecretProjection {
            name: source.secret_name.clone().unwrap_or_default(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let one = VolumeProjection { secret: Some(projection), ..VolumeProjection::default() };
        return files("kubernetes.io~secret", true, one, source.default_mode);
    }
    let source = volume.downward_api.as_ref()?;
    let projection = DownwardAPIProjection { items: source.items.clone() };
    let one = VolumeProjection { downward_api: Some(projection), ..VolumeProjection::default() };
    files("kubernetes.io~downward-api", true, one, source.default_mode)
}

/// The name of a volume kind as it is written in a manifest.
fn unsupported(volume: &Volume) -> &'static str {
    let kinds = [
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (volume.csi.is_some(), "csi"),
        (volume.nfs.is_some(), "nfs"),
        (volume.image.is_some(), "image"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.rbd.is_some(), "rbd"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.fc.is_some(), "fc"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.cinder.is_some(), "cinder"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
    ];
    kinds.iter().find(|(set, _)| *set).map_or("unknown", |(_, name)| name)
}

/// The projections of all file volumes of a pod.
fn projections(spec: &PodSpec) -> impl Iterator<Item = VolumeProjection> + '_ {
    spec.volumes.iter().flatten().flat_map(|volume| match kind(volume) {
        Kind::Files { sources, .. } => sources,
        _ => Vec::new(),
    })
}

/// ConfigMaps and Secrets that the volumes show.
pub(crate) fn references(spec: &PodSpec) -> References {
    let mut found = References::default();
    for source in projections(spec) {
        found.config_maps.extend(source.config_map.map(|s| s.name));
        found.secrets.extend(source.secret.map(|s| s.name));
    }
    found
}

/// The service-account tokens that the volumes show.
pub(crate) fn tokens(spec: &PodSpec) -> BTreeSet<TokenWish> {
    projections(spec).filter_map(|s| s.service_account_token).map(|s| wish(&s)).collect()
}

/// Where a volume shows a token of this kind, relative to the volume.
pub(crate) fn token_paths<'a>(
    volume: &Volume,
    wanted: &'a TokenWish,
) -> impl Iterator<Item = String> + use<'a> {
    let sources = match kind(volume) {
        Kind::Files { sources, .. } => sources,
        _ => Vec::new(),
    };
    let tokens = sources.into_iter().filter_map(|s| s.service_account_token);
    tokens.filter(move |t| wish(t) == *wanted).map(|t| t.path)
}

pub(crate) fn wish(
    source: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection,
) -> TokenWish {
    TokenWish {
        audience: source.audience.clone().unwrap_or_default(),
        seconds: source.expiration_seconds.unwrap_or(TOKEN_SECONDS_DEFAULT),
    }
}
