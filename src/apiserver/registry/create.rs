//! Create: admission, defaults, validation, a name if none is given, and a write that expects nothing there.

use super::{Context, store_error};
use crate::answer::{Answer, Result};
use crate::registry::metadata;
use crate::{ApiServer, User, body, object, strategies};
use api::{Resource, Status};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use store::Expect;

/// Attempts at a generated name before the client has to try again.
const GENERATE_ATTEMPTS: usize = 8;
const SUFFIX_LENGTH: usize = 5;
/// A generated name keeps room for its suffix within 63 characters.
const GENERATE_PREFIX_MAX: usize = 63 - SUFFIX_LENGTH;

pub(super) async fn create(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let dry = cx.dry_run()?;
    if cx.res.namespaced && cx.target.namespace.is_empty() {
        return Err(Status::method_not_allowed_here());
    }
    if !cx.target.name.is_empty() {
        return Err(Status::method_not_allowed_here());
    }
    let mut value = cx.object(bytes)?;
    body::check_names(cx.res, cx.target, &mut value, true)?;
    let bytes = create_object(cx.server, cx.user, cx.res, value, dry, &mut cx.warnings).await?;
    Ok(Answer::Object { code: StatusCode::CREATED, bytes })
}

/// Creates an object that is decoded already; answers with its stored text.
pub(crate) async fn create_object(
    server: &Arc<ApiServer>,
    user: &User,
    res: &'static Resource,
    mut value: Value,
    dry: bool,
    warnings: &mut Vec<String>,
) -> Result<Bytes> {
    let form = object::storage_form(res);
    if !object::text(&value, &["metadata", "resourceVersion"]).is_empty() {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let given = object::name(&value).to_owned();
    let generate = object::text(&value, &["metadata", "generateName"]).to_owned();
    strategies::admit_namespace(server, res, &value).await?;
    metadata::begin(res, &mut value)?;
    strategies::prepare_create(form, &mut value)?;
    schema::default(form, &mut value);
    strategies::admit_user(server, user, form, "", None, &value).await?;
    if given.is_empty() && !generate.is_empty() {
        object::set(&mut value, &["metadata", "name"], generated(&generate)?);
    }
    let _allocation = strategies::admit_create(server, form, &mut value, warnings).await?;
    for attempt in 1.. {
        let mut errors = schema::validate(form, &value, None);
        // Events of the core group may be older than these rules.
        if form != res {
            errors.extend(schema::validate_new_event(&value));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(res, object::name(&value), &errors));
        }
        let name = object::name(&value).to_owned();
        let key = form.key(object::namespace(&value), &name);
        if dry {
            return match server.config.store.get(&key).await.map_err(|e| store_error(&e))? {
                Some(_) => Err(Status::already_exists(res, &name)),
                None => Ok(value.to_string().into()),
            };
        }
        match server.config.store.put(&key, Expect::Absent, object::encode(form, &value)?).await {
            Ok(entry) => {
                server.after_write(form, &entry);
                return Ok(entry.value);
            }
            Err(store::Error::Conflict { .. })
                if given.is_empty() && attempt < GENERATE_ATTEMPTS =>
            {
                object::set(&mut value, &["metadata", "name"], generated(&generate)?);
            }
            Err(store::Error::Conflict { .. }) if given.is_empty() => {
                return Err(Status::generate_name_conflict(res, &name));
            }
            Err(store::Error::Conflict { .. }) => return Err(Status::already_exists(res, &name)),
            Err(other) => return Err(store_error(&other)),
        }
    }
    Err(Status::internal("no attempt was made to create the object"))
}

fn generated(prefix: &str) -> Result<String> {
    let cut: String = prefix.chars().take(GENERATE_PREFIX_MAX).collect();
    Ok(cut + &object::random_suffix(SUFFIX_LENGTH)?)
}
