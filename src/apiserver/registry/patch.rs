//! Patch: JSON patch, merge patch and strategic merge patch over the current object, then the way of an update.

use super::{Change, Context, modify};
use crate::answer::{Answer, Result};
use crate::body::{self, FieldValidation};
use crate::object;
use api::{FieldError, Resource, Status};
use http::{HeaderMap, StatusCode};
use schema::PatchError;
use serde_json::Value;

const ACCEPTED: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A decoded patch.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

pub(super) async fn patch(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let dry = cx.dry_run()?;
    let validation = FieldValidation::from_query(cx.query)?;
    let patch = Patch::decode(cx.headers, bytes)?;
    let (res, target) = (cx.res, cx.target);
    let mut warnings = Vec::new();
    let change = Change {
        server: cx.server,
        user: cx.user,
        res,
        namespace: &target.namespace,
        name: &target.name,
        subresource: &target.subresource,
        dry,
    };
    let bytes = modify(&change, |old| {
        warnings.clear();
        let mut new = outward(res, old);
        let kind = (res.group, res.version, res.kind);
        patch.apply(kind, &mut new)?;
        body::check_kind(kind, &mut new)?;
        let unpruned = new.clone();
        body::prune_as_is(kind, &mut new, Vec::new(), validation, &mut warnings)
            .map_err(|why| unreadable(&unpruned, &why))?;
        body::check_names(res, target, &mut new, false)?;
        if object::storage_form(res) != res {
            schema::event_to_core(&mut new);
        }
        Ok(new)
    })
    .await?;
    cx.warnings.append(&mut warnings);
    Ok(Answer::Object { code: StatusCode::OK, bytes })
}

/// The refusal of a patch whose outcome is no object of the kind.
fn unreadable(patched: &Value, why: &str) -> Status {
    let error = FieldError::invalid("patch", patched.to_string(), why);
    Status::invalid_in("", "", "", &[error])
}

/// The object in the form of the group it is patched through.
fn outward(res: &'static Resource, old: &Value) -> Value {
    let mut new = old.clone();
    if object::storage_form(res) != res {
        schema::event_from_core(&mut new);
    }
    new
}

impl Patch {
    pub(crate) fn decode(headers: &HeaderMap, bytes: &[u8]) -> Result<Self> {
        let wrap = match body::media_type(headers) {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            _ => return Err(Status::unsupported_media_type(ACCEPTED)),
        };
        let (value, _) = schema::decode(bytes)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
        Ok(wrap(value))
    }

    pub(crate) fn apply(
        &self,
        (group, version, kind): (&str, &str, &str),
        target: &mut Value,
    ) -> Result<()> {
        let applied = match self {
            Self::Json(operations) => schema::json_patch(target, operations),
            Self::Merge(patch) => schema::json_merge(target, patch),
            Self::Strategic(patch) => match schema::builtin(group, version, kind) {
                Some(ty) => schema::strategic_merge(ty, target, patch),
                None => schema::json_merge(target, patch),
            },
        };
        applied.map_err(|error| match error {
            PatchError::Malformed(text) => Status::bad_request(text),
            PatchError::Unprocessable(text) => Status::unprocessable(format!(
                "the server rejected our request due to an error in our request: {text}"
            )),
        })
    }
}
