//! What a node may read: its own pods, and the Secrets and ConfigMaps that a pod bound to it names. This is the part of
//! upstream's node authorizer that asks about other objects, so it comes after the static table.

use crate::answer::Result;
use crate::authz::{self, Attributes};
use crate::registry::store_error;
use crate::request::{Query, Target};
use crate::strategies::node_of;
use crate::{ApiServer, User, object};
use api::{FieldSelector, Status};
use serde_json::Value;
use store::ListOptions;

const MIRROR: &[&str] = &["metadata", "annotations", "kubernetes.io/config.mirror"];

/// Refuses a node's reads of what is not its business; does nothing for other users.
pub(crate) async fn check(
    server: &ApiServer,
    user: &User,
    target: &Target,
    query: &Query,
) -> Result<()> {
    let Some(node) = node_of(user) else { return Ok(()) };
    if !matches!(target.verb, "get" | "list" | "watch") || !target.group.is_empty() {
        return Ok(());
    }
    let fields = query
        .get("fieldSelector")
        .and_then(|text| FieldSelector::parse(text).ok())
        .unwrap_or_default();
    let name = match target.name.as_str() {
        "" => fields.required("metadata.name").unwrap_or_default(),
        name => name,
    };
    let allowed = match target.plural.as_str() {
        "pods" if fields.required("spec.nodeName") == Some(node) => true,
        "pods" => !name.is_empty() && runs_on(server, target, name, node).await?,
        "secrets" | "configmaps" => {
            !name.is_empty() && is_named(server, &target.namespace, name, node).await?
        }
        _ => return Ok(()),
    };
    if allowed {
        return Ok(());
    }
    let why = match (target.plural.as_str(), name) {
        ("pods", "") => "can only list/watch pods with spec.nodeName field selector".to_owned(),
        (_, "") => format!("No Object name found, node '{node}' reads single objects only"),
        _ => format!("no relationship found between node '{node}' and this object"),
    };
    let mut status = authz::forbidden(user, Attributes::from(target));
    status.message += &format!(": {why}");
    Err(status)
}

/// Whether a pod is bound to the node; one that does not exist is nobody's secret.
async fn runs_on(server: &ApiServer, target: &Target, name: &str, node: &str) -> Result<bool> {
    let pods = api::find("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    match server.find(pods, &target.namespace, name).await? {
        Some(entry) => {
            Ok(object::text(&object::decode(&entry.value)?, &["spec", "nodeName"]) == node)
        }
        None => Ok(true),
    }
}

/// Whether the spec of a pod bound to the node holds the name. Mirror pods do not count: the node writes them itself.
async fn is_named(server: &ApiServer, namespace: &str, name: &str, node: &str) -> Result<bool> {
    let pods = api::find("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    if namespace.is_empty() {
        return Ok(false);
    }
    let range = format!("{}{namespace}/", pods.key_prefix());
    let page = server
        .config
        .store
        .list(&range, ListOptions::default())
        .await
        .map_err(|e| store_error(&e))?;
    let bound = format!("\"nodeName\":\"{node}\"");
    for entry in page.entries {
        if !contains(&entry.value, bound.as_bytes()) || !contains(&entry.value, name.as_bytes()) {
            continue;
        }
        let pod = object::decode(&entry.value)?;
        let own = object::text(&pod, &["spec", "nodeName"]) == node
            && object::text(&pod, MIRROR).is_empty();
        if own && pod.get("spec").is_some_and(|spec| holds(spec, name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w == word)
}

/// Whether a member called `name` or `secretName` anywhere below has this text.
fn holds(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, inner)| match (key.as_str(), inner) {
            ("name" | "secretName", Value::String(text)) if text == wanted => true,
            (_, inner) => holds(inner, wanted),
        }),
        Value::Array(items) => items.iter().any(|inner| holds(inner, wanted)),
        _ => false,
    }
}
