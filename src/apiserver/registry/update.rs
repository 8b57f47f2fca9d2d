//! Update: read, change, admit, validate, and write back if nobody was faster.

use super::{Context, create_object, metadata, store_error};
use crate::answer::{Answer, Result};
use crate::authz::{Asked, Attributes};
use crate::{ApiServer, User, body, object, strategies};
use api::{FieldError, Resource, Status};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use store::Expect;

/// Attempts of a read-change-write before the client is told about the conflict.
const ATTEMPTS_MAX: usize = 20;

/// Which object is changed, through which of its subresources, and by whom.
pub(crate) struct Change<'a> {
    pub server: &'a Arc<ApiServer>,
    pub user: &'a User,
    pub res: &'static Resource,
    pub namespace: &'a str,
    pub name: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
    pub dry: bool,
}

pub(super) async fn update(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let dry = cx.dry_run()?;
    let mut value = cx.object(bytes)?;
    body::check_names(cx.res, cx.target, &mut value, false)?;
    let (namespace, name) = (&cx.target.namespace, &cx.target.name);
    if cx.target.subresource.is_empty() {
        check_revision_given(cx.res, &value)?;
        if creates_on_update(cx.res) && cx.server.find(cx.res, namespace, name).await?.is_none() {
            let fields = api::FieldSelector::default();
            let asked = Attributes { verb: "create", ..Attributes::of(cx.target, &fields) };
            cx.server.require(cx.user, &Asked::Resource(asked)).await?;
            let bytes =
                create_object(cx.server, cx.user, cx.res, value, dry, &mut cx.warnings).await?;
            return Ok(Answer::Object { code: StatusCode::CREATED, bytes });
        }
    }
    let subresource = &cx.target.subresource;
    let change =
        Change { server: cx.server, user: cx.user, res: cx.res, namespace, name, subresource, dry };
    let bytes = modify(&change, |_| Ok(value.clone())).await?;
    Ok(Answer::Object { code: StatusCode::OK, bytes })
}

/// Kinds whose writers may not know whether the object exists.
fn creates_on_update(res: &Resource) -> bool {
    matches!(res.kind, "Service" | "Endpoints" | "Lease" | "Event")
}

/// A Lease is written by rivals, so its writer must say what it has seen.
fn check_revision_given(res: &Resource, value: &Value) -> Result<()> {
    if res.kind == "Lease" && object::text(value, &["metadata", "resourceVersion"]).is_empty() {
        let error =
            FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(Status::invalid(res, object::name(value), &[error]));
    }
    Ok(())
}

/// Applies `propose` to the current state and stores the outcome; answers with the stored text. A proposal that names
/// another resourceVersion than the current one is a conflict; without one it always applies to the newest state.
pub(crate) async fn modify(
    change: &Change<'_>,
    mut propose: impl FnMut(&Value) -> Result<Value>,
) -> Result<Bytes> {
    let form = object::storage_form(change.res);
    for _ in 0..ATTEMPTS_MAX {
        let entry = change.server.load(change.res, change.namespace, change.name).await?;
        let old = object::decode(&entry.value)?;
        let mut new = propose(&old)?;
        check_preconditions(change, &old, &new)?;
        strategies::prepare_update(form, change.subresource, &old, &mut new)?;
        metadata::carry_over(change.res, &old, &mut new)?;
        schema::default(form, &mut new);
        let Change { server, user, subresource, .. } = change;
        strategies::admit_user(server, user, form, subresource, Some(&old), &new).await?;
        let _allocation =
            strategies::admit_update(change.server, form, change.subresource, &old, &mut new)
                .await?;
        if change.subresource != "binding" {
            metadata::bump_generation(form, &old, &mut new);
        }
        validate(change, form, &old, &new)?;
        if change.dry {
            object::set(&mut new, &["metadata", "resourceVersion"], entry.modified.to_string());
            return Ok(new.to_string().into());
        }
        if strategies::is_finished(form, &new) {
            match change
                .server
                .config
                .store
                .delete(&entry.key, Expect::Modified(entry.modified))
                .await
            {
                Ok((_, revision)) => {
                    object::set(&mut new, &["metadata", "resourceVersion"], revision.to_string());
                    return Ok(new.to_string().into());
                }
                Err(store::Error::Conflict { .. }) => continue,
                Err(other) => return Err(store_error(&other)),
            }
        }
        let encoded = object::encode(form, &new)?;
        if object::same(&encoded, &entry.value) {
            return Ok(entry.value);
        }
        match change
            .server
            .config
            .store
            .put(&entry.key, Expect::Modified(entry.modified), encoded)
            .await
        {
            Ok(entry) => {
                change.server.after_write(form, &entry);
                return Ok(entry.value);
            }
            Err(store::Error::Conflict { .. }) => {}
            Err(other) => return Err(store_error(&other)),
        }
    }
    Err(Status::conflict(change.res, change.name))
}

fn check_preconditions(change: &Change<'_>, old: &Value, new: &Value) -> Result<()> {
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(old) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(old)
        );
        return Err(Status::conflict_because(change.res, change.name, &why));
    }
    let revision = object::text(new, &["metadata", "resourceVersion"]);
    if !revision.is_empty()
        && revision != "0"
        && revision != object::text(old, &["metadata", "resourceVersion"])
    {
        return Err(Status::conflict(change.res, change.name));
    }
    Ok(())
}

fn validate(change: &Change<'_>, form: &'static Resource, old: &Value, new: &Value) -> Result<()> {
    let errors = match change.subresource {
        "status" => schema::validate_status(form, new, old),
        "finalize" | "binding" => Vec::new(),
        _ => schema::validate(form, new, Some(old)),
    };
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(change.res, change.name, &errors)) }
}
