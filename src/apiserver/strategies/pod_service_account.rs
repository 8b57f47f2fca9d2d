//! The ServiceAccount admission of pods: which account, its pull secrets, and its token as a projected volume.

use crate::answer::Result;
use crate::{ApiServer, object};
use api::{Resource, Status};
use serde_json::{Value, json};
use std::time::Duration;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Upstream's value: an hour and seven seconds, by which old clients are told apart.
const TOKEN_SECONDS: u64 = 3607;
/// The account `default` of a new namespace appears a moment after it.
const DEFAULT_ACCOUNT_WAIT: Duration = Duration::from_secs(3);
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) async fn admit(
    server: &ApiServer,
    res: &'static Resource,
    pod: &mut Value,
) -> Result<()> {
    // Mirror pods belong to their node and carry no account.
    if !object::text(pod, &["metadata", "annotations", MIRROR]).is_empty() {
        return Ok(());
    }
    let namespace = object::namespace(pod).to_owned();
    let mut name = object::text(pod, &["spec", "serviceAccountName"]).to_owned();
    if name.is_empty() {
        name = "default".to_owned();
    }
    object::set(pod, &["spec", "serviceAccountName"], name.as_str());
    object::set(pod, &["spec", "serviceAccount"], name.as_str());
    let Some(account) = find(server, &namespace, &name).await? else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        );
        return Err(Status::forbidden(res, object::name(pod), &why));
    };
    let account = object::decode(&account)?;
    if object::at(pod, &["spec", "imagePullSecrets"])
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
        && let Some(secrets) =
            account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
    {
        object::set(pod, &["spec", "imagePullSecrets"], secrets.clone());
    }
    let automount = [
        object::at(pod, &["spec", "automountServiceAccountToken"]),
        account.get("automountServiceAccountToken"),
    ]
    .into_iter()
    .flatten()
    .find_map(Value::as_bool)
    .unwrap_or(true);
    if automount { mount(pod) } else { Ok(()) }
}

/// The account's text. The default account is waited for a little.
async fn find(server: &ApiServer, namespace: &str, name: &str) -> Result<Option<bytes::Bytes>> {
    let accounts = api::find("", "v1", "serviceaccounts")
        .ok_or_else(|| Status::internal("the table has no row for service accounts"))?;
    let since = server.config.store.revision();
    if let Some(entry) = server.find(accounts, namespace, name).await? {
        return Ok(Some(entry.value));
    }
    if name != "default" {
        return Ok(None);
    }
    let Ok(mut changes) = server.config.store.watch(&accounts.key(namespace, name), since) else {
        return Ok(None);
    };
    match tokio::time::timeout(DEFAULT_ACCOUNT_WAIT, changes.next()).await {
        Ok(Ok(_)) => Ok(server.find(accounts, namespace, name).await?.map(|entry| entry.value)),
        _ => Ok(None),
    }
}

/// Adds the token volume and mounts it where nothing else is mounted in its place.
fn mount(pod: &mut Value) -> Result<()> {
    let volume = object::at(pod, &["spec", "volumes"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|v| object::text(v, &["name"]))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let exists = volume.is_some();
    let volume = match volume {
        Some(volume) => volume,
        None => format!("{VOLUME_PREFIX}{}", object::random_suffix(5)?),
    };
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        let containers =
            pod.get_mut("spec").and_then(|s| s.get_mut(kind)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|m| object::text(m, &["mountPath"]) == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            mounted = true;
        }
    }
    if mounted
        && !exists
        && let Some(spec) = object::object_mut(pod, &["spec"])
        && let Some(volumes) = spec.entry("volumes").or_insert_with(|| json!([])).as_array_mut()
    {
        volumes.push(token_volume(&volume));
    }
    Ok(())
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}
