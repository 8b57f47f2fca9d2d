//! Binding a pod to a node, and evicting one.

use crate::answer::{Answer, Result};
use crate::body::{self, FieldValidation};
use crate::registry::{Change, Context, DeleteOptions, delete_object, modify};
use crate::{nodes, object};
use api::{FieldError, Status};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

pub(super) async fn bind(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let binding = read(cx, ("", "v1", "Binding"), bytes)?;
    let kind = object::text(&binding, &["target", "kind"]);
    let node = object::text(&binding, &["target", "name"]).to_owned();
    let name = &cx.target.name;
    let mut errors = Vec::new();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    if !errors.is_empty() {
        return Err(Status::invalid_in("", "Binding", name, &errors));
    }
    let uid = object::uid(&binding).to_owned();
    let annotations =
        object::at(&binding, &["metadata", "annotations"]).and_then(Value::as_object).cloned();
    let conflict = |why: String| {
        let message = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        let mut status = Status::failure(409, "Conflict", message);
        status.details = Some(api::StatusDetails {
            name: name.clone(),
            kind: "pods/binding".to_owned(),
            ..Default::default()
        });
        status
    };
    modify(&change(cx, "binding")?, |old| {
        if !uid.is_empty() && uid != object::uid(old) {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::uid(old)
            )));
        }
        if object::is_deleting(old) {
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        let bound = object::text(old, &["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(conflict(format!("pod {name} is already assigned to node {bound:?}")));
        }
        let mut new = old.clone();
        object::set(&mut new, &["spec", "nodeName"], node.as_str());
        for (key, value) in annotations.iter().flatten() {
            object::set(&mut new, &["metadata", "annotations", key], value.clone());
        }
        scheduled(&mut new);
        Ok(new)
    })
    .await?;
    Ok(created())
}

/// Sets the condition PodScheduled.
fn scheduled(pod: &mut Value) {
    let Some(status) = object::object_mut(pod, &["status"]) else { return };
    let Some(conditions) = status.entry("conditions").or_insert_with(|| json!([])).as_array_mut()
    else {
        return;
    };
    conditions.retain(|c| object::text(c, &["type"]) != "PodScheduled");
    let now = api::time::rfc3339(jiff::Timestamp::now());
    conditions.push(json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    }));
}

/// An eviction is a deletion that budgets could refuse; there are no budgets.
pub(super) async fn evict(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let eviction = read(cx, ("policy", "v1", "Eviction"), bytes)?;
    let mut options = DeleteOptions { dry: cx.dry_run()?, ..DeleteOptions::default() };
    if let Some(wanted) = eviction.get("deleteOptions").filter(|o| !o.is_null()) {
        options.merge(wanted)?;
    }
    let pod = cx.server.load(cx.res, &cx.target.namespace, &cx.target.name).await?;
    nodes::check_delete(cx.user, cx.res, &object::decode(&pod.value)?, "evict")?;
    delete_object(cx.server, cx.user, cx.res, &cx.target.namespace, &cx.target.name, &options)
        .await?;
    Ok(created())
}

fn read(cx: &mut Context<'_>, kind: (&str, &str, &str), bytes: &[u8]) -> Result<Value> {
    body::require_json(cx.headers)?;
    let validation = FieldValidation::from_query(cx.query)?;
    let mut value = body::object(kind, bytes, validation, &mut cx.warnings)?;
    body::check_names(cx.res, cx.target, &mut value, false)?;
    Ok(value)
}

fn change<'a>(cx: &'a Context<'_>, subresource: &'a str) -> Result<Change<'a>> {
    Ok(Change {
        server: cx.server,
        user: cx.user,
        res: cx.res,
        namespace: &cx.target.namespace,
        name: &cx.target.name,
        subresource,
        dry: cx.dry_run()?,
    })
}

fn created() -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Answer::Object { code: StatusCode::CREATED, bytes: Bytes::from(status.to_string()) }
}
