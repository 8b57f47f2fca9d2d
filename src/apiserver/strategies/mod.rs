//! What single kinds do beyond the generic verbs, asked at fixed points of each verb. All but the admissions are pure.

mod daemon_set;
mod namespace;
mod node;
mod pod;
mod pod_service_account;
mod secret;
mod service;
mod service_ports;

pub(crate) use service::{AllocationGuard, ServiceNetwork};

use crate::answer::Result;
use crate::{ApiServer, User, nodes, object, rbac};
use api::{Resource, Status, StatusCause, StatusDetails, Strategy};
use serde_json::{Value, json};

/// Before defaults: what a new object may not bring along, and what it starts with.
pub(crate) fn prepare_create(res: &'static Resource, value: &mut Value) -> Result<()> {
    if res.has_status() && res.strategy != Strategy::Node {
        object::remove(value, &["status"]);
    }
    match (res.strategy, res.kind) {
        (Strategy::Namespace, _) => namespace::prepare_create(value),
        (Strategy::Pod, _) => pod::prepare_create(value),
        (Strategy::Service, _) => object::set(value, &["status"], json!({"loadBalancer": {}})),
        (Strategy::Node, _) => node::taint(value),
        (Strategy::Workload, "ReplicaSet") => {
            object::set(value, &["status"], json!({"replicas": 0}))
        }
        (Strategy::Workload, "DaemonSet") => daemon_set::prepare_create(value),
        (Strategy::Workload, _) => object::set(value, &["status"], json!({})),
        (_, "Secret") => secret::absorb_string_data(res, value)?,
        _ => {}
    }
    Ok(())
}

/// What this user may write, whatever the roles say: nodes their own, and nobody rights that he does not hold. `old`
/// is absent when creating.
pub(crate) async fn admit_user(
    server: &ApiServer,
    user: &User,
    res: &'static Resource,
    subresource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<()> {
    nodes::check(server, user, res, subresource, old, new).await?;
    match res.strategy {
        Strategy::Rbac => rbac::check_escalation(server, user, res, old, new).await,
        _ => Ok(()),
    }
}

/// After defaults and before validation: what needs the state of other objects.
pub(crate) async fn admit_create(
    server: &ApiServer,
    res: &'static Resource,
    value: &mut Value,
    warnings: &mut Vec<String>,
) -> Result<AllocationGuard> {
    match res.strategy {
        Strategy::Pod => {
            pod::admit_create(server, res, value).await?;
            pod::warn(value, warnings);
            Ok(None)
        }
        Strategy::Namespace => {
            namespace::label(value);
            Ok(None)
        }
        Strategy::Service => service::admit(server, res, None, value).await,
        _ => Ok(None),
    }
}

/// Before defaults: which part of the object this request may change.
pub(crate) fn prepare_update(
    res: &'static Resource,
    subresource: &str,
    old: &Value,
    new: &mut Value,
) -> Result<()> {
    match subresource {
        "status" => keep_all_but_status(res, old, new),
        "finalize" => namespace::keep_all_but_finalizers(old, new),
        // Formed here, not by the client.
        "binding" => {}
        _ => {
            if res.has_status() {
                copy(&["status"], old, new);
            }
            match (res.strategy, res.kind) {
                (Strategy::Namespace, _) => namespace::prepare_update(old, new),
                (Strategy::Service, _) => service::prepare_update(old, new),
                (Strategy::Workload, "DaemonSet") => daemon_set::prepare_update(old, new),
                (_, "Secret") => secret::absorb_string_data(res, new)?,
                _ => {}
            }
        }
    }
    Ok(())
}

pub(crate) async fn admit_update(
    server: &ApiServer,
    res: &'static Resource,
    subresource: &str,
    old: &Value,
    new: &mut Value,
) -> Result<AllocationGuard> {
    match res.strategy {
        Strategy::Namespace => {
            namespace::label(new);
            Ok(None)
        }
        Strategy::Service if subresource.is_empty() => {
            service::admit(server, res, Some(old), new).await
        }
        _ => Ok(None),
    }
}

/// The status endpoint changes the status, and labels and annotations where upstream lets it.
fn keep_all_but_status(res: &Resource, old: &Value, new: &mut Value) {
    let mut kept = old.clone();
    copy(&["status"], new, &mut kept);
    copy(&["metadata", "annotations"], new, &mut kept);
    if res.group != "apps" {
        copy(&["metadata", "labels"], new, &mut kept);
    }
    for path in [["metadata", "resourceVersion"], ["metadata", "uid"]] {
        copy(&path, new, &mut kept);
    }
    *new = kept;
}

/// Makes `path` in `to` what it is in `from`, also absent.
pub(crate) fn copy(path: &[&str], from: &Value, to: &mut Value) {
    match object::at(from, path) {
        Some(value) => object::set(to, path, value.clone()),
        None => {
            object::remove(to, path);
        }
    }
}

/// Whether an update leaves an object that only waited for it to be gone.
pub(crate) fn is_finished(res: &Resource, value: &Value) -> bool {
    let grace =
        object::at(value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    object::is_deleting(value)
        && grace.unwrap_or(0) == 0
        && object::finalizers(value).is_empty()
        && !holds(res, value)
        // A pod that nobody marked with grace 0 waits for its kubelet, which marks the end by deleting with grace 0.
        && (res.strategy != Strategy::Pod || grace == Some(0))
}

/// Whether something else than finalizers in the metadata keeps the object.
pub(crate) fn holds(res: &Resource, value: &Value) -> bool {
    res.strategy == Strategy::Namespace
        && object::at(value, &["spec", "finalizers"])
            .and_then(Value::as_array)
            .is_some_and(|f| !f.is_empty())
}

/// The seconds a deletion leaves to the object.
pub(crate) fn grace_period(res: &Resource, value: &Value, asked: Option<i64>) -> i64 {
    match res.strategy {
        Strategy::Pod => pod::grace_period(value, asked),
        _ => 0,
    }
}

/// Objects that must not be deleted at all.
pub(crate) fn admit_delete(res: &Resource, name: &str) -> Result<()> {
    match res.strategy {
        Strategy::Namespace => namespace::admit_delete(res, name),
        _ => Ok(()),
    }
}

/// New objects need a namespace that exists and lives.
pub(crate) async fn admit_namespace(
    server: &ApiServer,
    res: &'static Resource,
    value: &Value,
) -> Result<()> {
    if !res.namespaced {
        return Ok(());
    }
    let name = object::namespace(value);
    let namespaces = namespace::resource();
    let Some(entry) = server.find(namespaces, "", name).await? else {
        return Err(Status::not_found_in("", "namespaces", name));
    };
    // The text of a living namespace is short and never holds the word.
    if !contains(&entry.value, b"deletionTimestamp")
        || !object::is_deleting(&object::decode(&entry.value)?)
    {
        return Ok(());
    }
    let why =
        format!("unable to create new content in namespace {name} because it is being terminated");
    let mut status = Status::forbidden(res, object::name(value), &why);
    status.details.get_or_insert_with(StatusDetails::default).causes = vec![StatusCause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {name} is being terminated"),
        field: "metadata.namespace".to_owned(),
    }];
    Err(status)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w == word)
}
