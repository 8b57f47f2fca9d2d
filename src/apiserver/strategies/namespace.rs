//! Namespaces: a finalizer of their own that keeps them until they are empty, and some that nobody deletes.

use crate::answer::Result;
use crate::object;
use crate::strategies::copy;
use api::{Resource, Status, Strategy};
use serde_json::{Value, json};

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];
const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The row of namespaces in the resource table.
pub(super) fn resource() -> &'static Resource {
    static ROW: std::sync::OnceLock<&'static Resource> = std::sync::OnceLock::new();
    ROW.get_or_init(|| {
        api::RESOURCES
            .iter()
            .find(|r| r.strategy == Strategy::Namespace)
            .expect("the table has a row for namespaces")
    })
}

pub(super) fn prepare_create(value: &mut Value) {
    object::set(value, &["status"], json!({"phase": "Active"}));
    let mut finalizers = object::strings(object::at(value, &["spec", "finalizers"]));
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    object::set(value, &["spec", "finalizers"], finalizers);
}

pub(super) fn prepare_update(old: &Value, new: &mut Value) {
    copy(&["spec", "finalizers"], old, new);
}

/// Every namespace carries its name as a label, so that selectors can name it.
pub(super) fn label(value: &mut Value) {
    let name = object::name(value).to_owned();
    object::set(value, &["metadata", "labels", NAME_LABEL], name);
}

/// The finalize endpoint changes `spec.finalizers` only.
pub(super) fn keep_all_but_finalizers(old: &Value, new: &mut Value) {
    let mut kept = old.clone();
    copy(&["spec", "finalizers"], new, &mut kept);
    for path in [["metadata", "resourceVersion"], ["metadata", "uid"]] {
        copy(&path, new, &mut kept);
    }
    *new = kept;
}

pub(super) fn admit_delete(res: &Resource, name: &str) -> Result<()> {
    match IMMORTAL.contains(&name) {
        true => Err(Status::forbidden(res, name, "this namespace may not be deleted")),
        false => Ok(()),
    }
}
