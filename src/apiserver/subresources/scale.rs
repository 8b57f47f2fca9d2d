//! `autoscaling/v1` Scale as a view on the replicas of a workload.

use crate::answer::{Answer, Result};
use crate::body::{self, FieldValidation};
use crate::object;
use crate::registry::{Change, Context, Patch, modify};
use api::{FieldError, LabelSelector, Status};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

const KIND: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

pub(super) async fn run(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let (res, target) = (cx.res, cx.target);
    if cx.target.verb == "get" {
        let entry = cx.server.load(res, &target.namespace, &target.name).await?;
        return Ok(answer(&view(&object::decode(&entry.value)?)));
    }
    let validation = FieldValidation::from_query(cx.query)?;
    let dry = cx.dry_run()?;
    let update = match target.verb {
        "update" => {
            body::require_json(cx.headers)?;
            Some(body::object(KIND, bytes, validation, &mut cx.warnings)?)
        }
        _ => None,
    };
    let patch = if update.is_none() { Some(Patch::decode(cx.headers, bytes)?) } else { None };
    let change = Change {
        server: cx.server,
        user: cx.user,
        res,
        namespace: &target.namespace,
        name: &target.name,
        subresource: "scale",
        dry,
    };
    let stored = modify(&change, |old| {
        let mut scale = view(old);
        match (&update, &patch) {
            (Some(update), _) => scale = update.clone(),
            (None, Some(patch)) => {
                patch.apply(KIND, &mut scale)?;
                body::check_kind(KIND, &mut scale)?;
            }
            (None, None) => {}
        }
        apply(old, &scale, target)
    })
    .await?;
    Ok(answer(&view(&object::decode(&stored)?)))
}

/// The workload with the replicas of the scale.
fn apply(old: &Value, scale: &Value, target: &crate::request::Target) -> Result<Value> {
    let mut checked = scale.clone();
    let name = object::name(&checked).to_owned();
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let replicas = match object::at(scale, &["spec", "replicas"]) {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().ok_or_else(|| {
            Status::bad_request("Scale in version \"v1\" cannot be handled as a Scale: spec.replicas must be an integer")
        })?,
    };
    if replicas < 0 {
        let error =
            FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid_in("autoscaling", "Scale", &target.name, &[error]));
    }
    let mut new = old.clone();
    object::set(&mut new, &["spec", "replicas"], replicas);
    for field in ["resourceVersion", "uid"] {
        // Absent means "whatever it is".
        match object::remove(&mut checked, &["metadata", field]) {
            Some(value) => object::set(&mut new, &["metadata", field], value),
            None => {
                object::remove(&mut new, &["metadata", field]);
            }
        }
    }
    Ok(new)
}

fn view(workload: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object::at(workload, &["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    let count = |path: [&str; 2]| object::at(workload, &path).and_then(Value::as_i64).unwrap_or(0);
    let selector = object::at(workload, &["spec", "selector"])
        .and_then(|s| LabelSelector::from_value(s).ok())
        .map(|s| s.to_string())
        .unwrap_or_default();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": count(["spec", "replicas"])},
        "status": {"replicas": count(["status", "replicas"]), "selector": selector},
    })
}

fn answer(scale: &Value) -> Answer {
    Answer::Object { code: StatusCode::OK, bytes: Bytes::from(scale.to_string()) }
}
