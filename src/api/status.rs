//! `metav1.Status`: the only error type of the API. Each constructor carries upstream's code, reason, message
//! and details, because clients decide by them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::field::{FieldError, aggregate, quote};
use crate::resource::Resource;

/// The text of a lost compare-and-set.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural of the resource, or the kind for [`Status::invalid`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Status {
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind(),
            api_version: api_version(),
            metadata: Map::new(),
            status: "Failure".to_owned(),
            message: message.into(),
            reason: reason.to_owned(),
            details: None,
            code,
        }
    }

    /// The answer to a deletion that is complete.
    pub fn success(res: &Resource, name: &str, uid: &str) -> Self {
        let mut details = details(res.group, res.plural, name);
        details.uid = uid.to_owned();
        Self {
            status: "Success".to_owned(),
            details: Some(details),
            code: 0,
            ..Self::failure(0, "", "")
        }
    }

    fn with(mut self, details: StatusDetails) -> Self {
        self.details = Some(details);
        self
    }

    fn about(res: &Resource, name: &str, code: u16, reason: &str, message: String) -> Self {
        Self::failure(code, reason, message).with(details(res.group, res.plural, name))
    }

    pub fn not_found(res: &Resource, name: &str) -> Self {
        Self::not_found_in(res.group, res.plural, name)
    }

    pub fn not_found_in(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, plural), quote(name));
        Self::failure(404, "NotFound", message).with(details(group, plural, name))
    }

    /// No such path or resource type.
    pub fn no_such_resource() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
            .with(StatusDetails::default())
    }

    pub fn already_exists(res: &Resource, name: &str) -> Self {
        let message = format!("{} {} already exists", res.qualified(), quote(name));
        Self::about(res, name, 409, "AlreadyExists", message)
    }

    /// Every generated name of a few attempts was taken.
    pub fn generate_name_conflict(res: &Resource, name: &str) -> Self {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            res.qualified(),
            quote(name)
        );
        let mut status = Self::about(res, name, 409, "AlreadyExists", message);
        if let Some(details) = status.details.as_mut() {
            details.retry_after_seconds = 1;
        }
        status
    }

    /// A lost race on `resourceVersion`.
    pub fn conflict(res: &Resource, name: &str) -> Self {
        Self::conflict_because(res, name, MODIFIED)
    }

    pub fn conflict_because(res: &Resource, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {}: {why}", res.qualified(), quote(name));
        Self::about(res, name, 409, "Conflict", message)
    }

    pub fn forbidden(res: &Resource, name: &str, why: &str) -> Self {
        let resource = res.qualified();
        let message = match name {
            "" => format!("{resource} is forbidden: {why}"),
            name => format!("{resource} {} is forbidden: {why}", quote(name)),
        };
        Self::about(res, name, 403, "Forbidden", message)
    }

    /// For paths that name no resource.
    pub fn forbidden_path(why: &str) -> Self {
        Self::failure(403, "Forbidden", format!("forbidden: {why}")).with(StatusDetails::default())
    }

    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// `kind` without its group is enough for the core group; `group` is "" there.
    pub fn invalid_in(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let qualified = qualified(group, kind);
        let message = match errors {
            [] => format!("{qualified} {} is invalid", quote(name)),
            errors => format!("{qualified} {} is invalid: {}", quote(name), aggregate(errors)),
        };
        let mut details = details(group, kind, name);
        details.causes = errors.iter().map(FieldError::cause).collect();
        Self::failure(422, "Invalid", message).with(details)
    }

    pub fn invalid(res: &Resource, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_in(res.group, res.kind, name, errors)
    }

    /// A patch whose outcome cannot be formed.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::failure(422, "Invalid", message)
    }

    pub fn method_not_allowed(res: &Resource, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind {}", quote(&res.qualified()));
        Self::failure(405, "MethodNotAllowed", message).with(details(res.group, res.plural, ""))
    }

    /// The method is known nowhere on this path.
    pub fn method_not_allowed_here() -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with(StatusDetails::default())
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// The revision or continue token is older than the history that is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    pub fn too_old_resource_version(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    pub fn too_large(limit: usize) -> Self {
        Self::failure(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::failure(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message)
            .with(StatusDetails { retry_after_seconds, ..StatusDetails::default() })
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        let cause = StatusCause { message: message.to_string(), ..StatusCause::default() };
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
            .with(StatusDetails { causes: vec![cause], ..StatusDetails::default() })
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}")).with(StatusDetails::default())
    }

    pub fn is_reason(&self, reason: &str) -> bool {
        self.reason == reason
    }

    /// Its JSON text. A status is strings and numbers only, so this cannot fail; if it did, the text is an empty object.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|_| b"{}".to_vec())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "{} ({})", self.reason, self.code),
            message => f.write_str(message),
        }
    }
}

impl std::error::Error for Status {}

/// `pods`, or `deployments.apps` outside the core group.
pub fn qualified(group: &str, name: &str) -> String {
    match group {
        "" => name.to_owned(),
        group => format!("{name}.{group}"),
    }
}

fn details(group: &str, kind: &str, name: &str) -> StatusDetails {
    StatusDetails {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: kind.to_owned(),
        ..StatusDetails::default()
    }
}

fn kind() -> String {
    "Status".to_owned()
}

fn api_version() -> String {
    "v1".to_owned()
}

fn is_zero(n: &u16) -> bool {
    *n == 0
}

fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}
