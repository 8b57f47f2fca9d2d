//! Secrets: `stringData` is for writing only and goes into `data`.

use crate::answer::Result;
use crate::object;
use api::{FieldError, Resource, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(super) fn absorb_string_data(res: &Resource, value: &mut Value) -> Result<()> {
    let Some(strings) = object::remove(value, &["stringData"]) else { return Ok(()) };
    for (key, text) in strings.as_object().into_iter().flatten() {
        let Some(text) = text.as_str() else {
            let error = FieldError::type_invalid(
                format!("stringData.{key}"),
                text.clone(),
                "must be a string",
            );
            return Err(Status::invalid(res, object::name(value), &[error]));
        };
        object::set(value, &["data", key], STANDARD.encode(text));
    }
    Ok(())
}
