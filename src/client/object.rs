//! What the client needs to know of an object: its metadata and where its kind lives.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Namespace (empty for cluster scope) and name.
pub type Key = (String, String);

/// A kind the typed verbs and caches work on; every object type of `k8s-openapi` is one.
pub trait Object:
    Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Send + Sync + 'static
{
}

impl<T> Object for T where
    T: Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Send + Sync + 'static
{
}

/// The metadata of an object of any kind: for users that need nothing else of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartialObject {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Resource for PartialObject {
    const API_VERSION: &'static str = "meta.k8s.io/v1";
    const GROUP: &'static str = "meta.k8s.io";
    const KIND: &'static str = "PartialObjectMetadata";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl Metadata for PartialObject {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The key of an object.
pub fn key_of<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Key {
    let meta = object.metadata();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The revision of an object as a number; 0 when it has none.
pub fn revision_of<K: Metadata<Ty = ObjectMeta>>(object: &K) -> u64 {
    object.metadata().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The owner that controls an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference to an object, for events.
pub fn reference<K: Metadata<Ty = ObjectMeta>>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}
