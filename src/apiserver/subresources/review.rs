//! Reviews: kinds that are answered and never stored.

use crate::answer::{Answer, Result};
use crate::authz::{self, Attributes};
use crate::registry::Context;
use crate::{User, authn, object};
use api::Status;
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
        "SelfSubjectAccessReview" => access(cx.user, &review)?,
        "SelfSubjectRulesReview" => rules(cx.user, &review)?,
        "SubjectAccessReview" => access(&subject(&review), &review)?,
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

fn subject(review: &Value) -> User {
    User {
        name: object::text(review, &["spec", "user"]).to_owned(),
        groups: object::strings(object::at(review, &["spec", "groups"])),
        ..User::default()
    }
}

fn access(user: &User, review: &Value) -> Result<Value> {
    let resource = object::at(review, &["spec", "resourceAttributes"]).filter(|v| v.is_object());
    let path = object::at(review, &["spec", "nonResourceAttributes"]).filter(|v| v.is_object());
    let allowed = match (resource, path) {
        (Some(asked), None) => {
            let text = |field: &str| object::text(asked, &[field]);
            let attributes = Attributes {
                verb: text("verb"),
                group: text("group"),
                plural: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
            };
            authz::allows(user, attributes)
        }
        (None, Some(asked)) => authz::allows_path(user, object::text(asked, &["path"])),
        _ => {
            let why =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(Status::bad_request(why));
        }
    };
    Ok(json!({"allowed": allowed}))
}

fn rules(user: &User, review: &Value) -> Result<Value> {
    match object::text(review, &["spec", "namespace"]) {
        "" => Err(Status::bad_request("no namespace on request")),
        _ => Ok(authz::rules_of(user)),
    }
}
