//! What becomes of an object: decisions from the manifest and the object as it is; no IO.

use api::Resource;
use schema::PatchError;
use serde_json::{Value, json};

use crate::documents::Document;

/// Which file keeps an object; nothing is deleted that says another one.
pub(crate) const ADDON: &str = "copepod.io/addon";
/// The manifest as it was applied last.
pub(crate) const APPLIED: &str = "copepod.io/last-applied-configuration";
/// Longest manifest that is kept; all annotations of an object may have 256 KiB. Without it fields stay that the manifest
/// gives no more.
const APPLIED_BYTES_MAX: usize = 128 * 1024;
/// Where objects without a namespace go.
const NAMESPACE: &str = "default";

/// Which object of which kind. As text: `apps/v1 Deployment default/web`, and `v1 Namespace shop` without a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Empty for cluster scope.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Id { api_version, kind, namespace, name } = self;
        match namespace.as_str() {
            "" => write!(f, "{api_version} {kind} {name}"),
            _ => write!(f, "{api_version} {kind} {namespace}/{name}"),
        }
    }
}

impl std::str::FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Id, ()> {
        let mut words = text.split(' ').map(str::to_owned);
        let (Some(api_version), Some(kind), Some(path)) =
            (words.next(), words.next(), words.next())
        else {
            return Err(());
        };
        let (namespace, name) = path.split_once('/').unwrap_or(("", &path));
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Ok(Id { api_version, kind, namespace, name })
    }
}

/// An object of a file, ready to be applied.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) line: usize,
    pub(crate) id: Id,
    pub(crate) resource: &'static Resource,
    pub(crate) object: Value,
}

/// What is to be done with an object.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Nothing,
    Create(Value),
    Replace(Value),
    /// It is being deleted, or cannot be merged.
    NotYet(String),
}

/// The kind a manifest names, if it is served.
pub(crate) fn resource(id: &Id) -> Option<&'static Resource> {
    let (group, version) = api::resource::split_api_version(&id.api_version);
    api::find_kind(group, version, &id.kind).filter(|resource| resource.has_verb("update"))
}

/// Finds the kind of each document; the objects that others need come first. Returns also what is wrong with the others.
pub(crate) fn order(documents: Vec<Document>) -> (Vec<Wanted>, Vec<String>) {
    let (mut wanted, mut wrong) = (Vec::<Wanted>::new(), Vec::new());
    for Document { line, mut object } in documents {
        let text = |place: &str| object.pointer(place).and_then(Value::as_str).unwrap_or_default();
        let mut id = Id {
            api_version: text("/apiVersion").to_owned(),
            kind: text("/kind").to_owned(),
            namespace: text("/metadata/namespace").to_owned(),
            name: text("/metadata/name").to_owned(),
        };
        let Some(resource) = resource(&id) else {
            wrong.push(format!("line {line}: {id}: no such kind is served"));
            continue;
        };
        match (resource.namespaced, id.namespace.is_empty()) {
            (true, true) => id.namespace = NAMESPACE.to_owned(),
            (false, false) => id.namespace.clear(),
            _ => {}
        }
        if wanted.iter().any(|other| other.id == id) {
            wrong.push(format!("line {line}: {id}: the file has it already"));
            continue;
        }
        complete(&mut object, resource, &id);
        wanted.push(Wanted { line, id, resource, object });
    }
    wanted.sort_by_key(|wanted| rank(&wanted.id.kind));
    (wanted, wrong)
}

fn complete(object: &mut Value, resource: &Resource, id: &Id) {
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("namespace");
        if resource.namespaced {
            meta.insert("namespace".to_owned(), json!(id.namespace));
        }
    }
    if let (true, Some(object)) = (resource.has_status(), object.as_object_mut()) {
        object.remove("status");
    }
}

fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => 2,
        "ConfigMap" | "Secret" => 3,
        _ => 4,
    }
}

/// Decides about one object of the file `addon`, which the server has as `live`.
pub(crate) fn step(addon: &str, wanted: &Wanted, live: Option<Value>) -> Result<Step, PatchError> {
    let manifest = marked(addon, wanted);
    let Some(live) = live else { return Ok(Step::Create(manifest)) };
    if live.pointer("/metadata/deletionTimestamp").is_some() {
        return Ok(Step::NotYet("it is being deleted".to_owned()));
    }
    let resource = wanted.resource;
    let ty = schema::builtin(resource.group, resource.version, resource.kind);
    let last = annotation(&live, APPLIED).and_then(|text| serde_json::from_str(text).ok());
    let mut new = live.clone();
    schema::apply(ty, last.as_ref(), &manifest, &mut new)?;
    Ok(if new == live { Step::Nothing } else { Step::Replace(new) })
}

/// The manifest with the annotations that say whose it is.
fn marked(addon: &str, wanted: &Wanted) -> Value {
    let applied = wanted.object.to_string();
    let mut manifest = wanted.object.clone();
    let annotations = &mut manifest["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[ADDON] = json!(addon);
    annotations[APPLIED] = match applied.len() <= APPLIED_BYTES_MAX {
        true => json!(applied),
        false => Value::Null,
    };
    manifest
}

pub(crate) fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(name)?.as_str()
}
