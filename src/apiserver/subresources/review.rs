//! Reviews: kinds that are answered and never stored.

use crate::answer::{Answer, Result};
use crate::authz::{Asked, Attributes};
use crate::registry::Context;
use crate::{User, authn, body, object};
use api::{FieldError, Status};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

pub(crate) async fn review(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    if cx.target.verb != "create" || !cx.target.name.is_empty() {
        return Err(Status::method_not_allowed_here());
    }
    let mut review = cx.object(bytes)?;
    let status = match cx.res.kind {
        "TokenReview" => token(cx, &review).await,
        "SelfSubjectReview" => json!({"userInfo": user_info(cx.user)}),
        "SelfSubjectAccessReview" => access(cx, cx.user, &review).await?,
        "SelfSubjectRulesReview" => rules(cx, &review).await?,
        "SubjectAccessReview" => access(cx, &subject(cx, &review)?, &review).await?,
        "LocalSubjectAccessReview" => {
            body::check_names(cx.res, cx.target, &mut review, true)?;
            check_local(cx, &review)?;
            access(cx, &subject(cx, &review)?, &review).await?
        }
        _ => return Err(Status::no_such_resource()),
    };
    object::set(&mut review, &["status"], status);
    object::object_mut(&mut review, &["metadata"]);
    Ok(Answer::Object { code: StatusCode::CREATED, bytes: Bytes::from(review.to_string()) })
}

async fn token(cx: &Context<'_>, review: &Value) -> Value {
    let audiences = object::strings(object::at(review, &["spec", "audiences"]));
    let token = object::text(review, &["spec", "token"]);
    match authn::bearer(cx.server, token, &audiences).await {
        Some(user) => {
            let audiences = match audiences.is_empty() {
                true => vec![cx.server.config.service_account_keys.issuer().to_owned()],
                false => audiences,
            };
            json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
        }
        None => json!({"user": {}, "error": "invalid bearer token"}),
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn subject(cx: &Context<'_>, review: &Value) -> Result<User> {
    let user = User {
        name: object::text(review, &["spec", "user"]).to_owned(),
        groups: object::strings(object::at(review, &["spec", "groups"])),
        ..User::default()
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let why = "at least one of user or group must be specified";
        let error = FieldError::invalid("spec.user", "", why);
        return Err(Status::invalid(cx.res, "", &[error]));
    }
    Ok(user)
}

fn check_local(cx: &Context<'_>, review: &Value) -> Result<()> {
    let invalid = |field: &str, value: Value, why: &str| {
        Err(Status::invalid(cx.res, "", &[FieldError::invalid(field, value, why)]))
    };
    let namespace = object::text(review, &["spec", "resourceAttributes", "namespace"]);
    if let Some(path) = object::at(review, &["spec", "nonResourceAttributes"]) {
        let why = "disallowed on this kind of request";
        return invalid("spec.nonResourceAttributes", path.clone(), why);
    }
    if namespace != cx.target.namespace {
        let why = "must match metadata.namespace";
        return invalid("spec.resourceAttributes.namespace", namespace.into(), why);
    }
    Ok(())
}

async fn access(cx: &Context<'_>, user: &User, review: &Value) -> Result<Value> {
    let resource = object::at(review, &["spec", "resourceAttributes"]).filter(|v| v.is_object());
    let path = object::at(review, &["spec", "nonResourceAttributes"]).filter(|v| v.is_object());
    let asked = match (resource, path) {
        (Some(asked), None) => {
            let text = |field: &str| object::text(asked, &[field]);
            Asked::Resource(Attributes {
                verb: text("verb"),
                group: text("group"),
                plural: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                of_node: "",
            })
        }
        (None, Some(asked)) => Asked::Path {
            verb: object::text(asked, &["verb"]),
            path: object::text(asked, &["path"]),
        },
        _ => {
            let why =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(Status::bad_request(why));
        }
    };
    let decision = cx.server.decide(user, &asked).await?;
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    Ok(status)
}

async fn rules(cx: &Context<'_>, review: &Value) -> Result<Value> {
    match object::text(review, &["spec", "namespace"]) {
        "" => Err(Status::bad_request("no namespace on request")),
        namespace => cx.server.rules_review(cx.user, namespace).await,
    }
}
