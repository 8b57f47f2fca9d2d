//! TokenRequest: short-lived tokens of a service account, bound to a pod, secret or node if asked.

use crate::answer::{Answer, Result};
use crate::body::{self, FieldValidation};
use crate::registry::Context;
use crate::{nodes, object};
use api::{FieldError, Status};
use bytes::Bytes;
use http::StatusCode;
use pki::{Bound, Claims, KubernetesClaims};
use serde_json::{Value, json};

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;

pub(super) async fn issue(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    body::require_json(cx.headers)?;
    let validation = FieldValidation::from_query(cx.query)?;
    let kind = ("authentication.k8s.io", "v1", "TokenRequest");
    let mut request = body::object(kind, bytes, validation, &mut cx.warnings)?;
    let target = cx.target;
    let account = cx.server.load(cx.res, &target.namespace, &target.name).await?;
    let account = Bound {
        name: target.name.clone(),
        uid: object::uid(&object::decode(&account.value)?).to_owned(),
    };
    let seconds = seconds(&request)?;
    let keys = &cx.server.config.service_account_keys;
    let mut audiences = object::strings(object::at(&request, &["spec", "audiences"]));
    if audiences.is_empty() {
        audiences.push(keys.issuer().to_owned());
    }
    let now = jiff::Timestamp::now();
    let mut claims = Claims {
        aud: audiences.clone(),
        exp: now.as_second() + seconds,
        iat: now.as_second(),
        nbf: now.as_second(),
        iss: keys.issuer().to_owned(),
        jti: object::new_uid()?,
        sub: format!("system:serviceaccount:{}:{}", target.namespace, account.name),
        kubernetes: KubernetesClaims {
            namespace: target.namespace.clone(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: account,
            warnafter: None,
        },
    };
    bind(cx, &request, &mut claims).await?;
    if cx.dry_run()? {
        return Ok(answer(&request));
    }
    let token =
        keys.issue(&claims).map_err(|e| Status::internal(format!("cannot sign the token: {e}")))?;
    let end = jiff::Timestamp::from_second(claims.exp).unwrap_or(now);
    object::set(&mut request, &["spec", "audiences"], audiences);
    object::set(&mut request, &["spec", "expirationSeconds"], seconds);
    object::set(&mut request, &["metadata", "name"], target.name.as_str());
    object::set(&mut request, &["metadata", "namespace"], target.namespace.as_str());
    object::set(&mut request, &["metadata", "creationTimestamp"], api::time::rfc3339(now));
    object::set(
        &mut request,
        &["status"],
        json!({"token": token, "expirationTimestamp": api::time::rfc3339(end)}),
    );
    Ok(answer(&request))
}

fn seconds(request: &Value) -> Result<i64> {
    let seconds = match object::at(request, &["spec", "expirationSeconds"]) {
        None | Some(Value::Null) => SECONDS_DEFAULT,
        Some(value) => value.as_i64().unwrap_or(-1),
    };
    let refuse = |why: &str| {
        let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
        Err(Status::invalid_in("authentication.k8s.io", "TokenRequest", "", &[error]))
    };
    match seconds {
        s if s < SECONDS_MIN => refuse("may not specify a duration less than 10 minutes"),
        s if s > SECONDS_MAX => refuse("may not specify a duration larger than 2^32 seconds"),
        s => Ok(s),
    }
}

/// Binds the token to the object the request names. A node gets tokens only for pods that run on it.
async fn bind(cx: &Context<'_>, request: &Value, claims: &mut Claims) -> Result<()> {
    let reference = object::at(request, &["spec", "boundObjectRef"]).cloned().unwrap_or_default();
    let (kind, name) = (object::text(&reference, &["kind"]), object::text(&reference, &["name"]));
    let refused = |why: &str| Status::forbidden(cx.res, &cx.target.name, why);
    nodes::check_token(cx.user, &reference, None).map_err(refused)?;
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        "" => return Ok(()),
        other => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to type {other:?}",
                claims.sub
            )));
        }
    };
    let res = api::find("", "v1", plural).ok_or_else(Status::no_such_resource)?;
    let found = object::decode(&cx.server.load(res, &cx.target.namespace, name).await?.value)?;
    let uid = object::text(&reference, &["uid"]);
    if !uid.is_empty() && uid != object::uid(&found) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict_because(res, name, &why));
    }
    let bound = Some(Bound { name: name.to_owned(), uid: object::uid(&found).to_owned() });
    match plural {
        "secrets" => claims.kubernetes.secret = bound,
        "nodes" => claims.kubernetes.node = bound,
        _ => {
            let account = object::text(&found, &["spec", "serviceAccountName"]);
            if account != cx.target.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    cx.target.name
                )));
            }
            let node = object::text(&found, &["spec", "nodeName"]);
            nodes::check_token(cx.user, &reference, Some(&found)).map_err(refused)?;
            claims.kubernetes.node = node_of_pod(cx, node).await?;
            claims.kubernetes.pod = bound;
        }
    }
    Ok(())
}

async fn node_of_pod(cx: &Context<'_>, node: &str) -> Result<Option<Bound>> {
    let Some(res) = api::find("", "v1", "nodes").filter(|_| !node.is_empty()) else {
        return Ok(None);
    };
    let Some(entry) = cx.server.find(res, "", node).await? else { return Ok(None) };
    Ok(Some(Bound {
        name: node.to_owned(),
        uid: object::uid(&object::decode(&entry.value)?).to_owned(),
    }))
}

fn answer(request: &Value) -> Answer {
    Answer::Object { code: StatusCode::CREATED, bytes: Bytes::from(request.to_string()) }
}
