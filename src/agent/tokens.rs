//! Service-account tokens for projected volumes: asked for per pod, renewed at 80 % of their life or after a day.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};

use crate::volumes::plan::TokenWish;

const RENEW_PERCENT: i64 = 80;
const RENEW_AFTER_MAX: SignedDuration = SignedDuration::from_hours(24);

/// A token and the moment from which a new one should take its place.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) renew_at: Timestamp,
}

/// When a token that lives from `from` to `until` is due for renewal.
pub(crate) fn renewal(from: Timestamp, until: Timestamp) -> Timestamp {
    let life = until.duration_since(from).as_secs();
    let wait = SignedDuration::from_secs(life * RENEW_PERCENT / 100).min(RENEW_AFTER_MAX);
    from.checked_add(wait).unwrap_or(from)
}

pub(crate) async fn request(
    client: &client::Client,
    pod: &Pod,
    wish: &TokenWish,
    now: Timestamp,
) -> Result<Token, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
    let account = account.filter(|a| !a.is_empty()).unwrap_or("default");
    let body = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: (!wish.audience.is_empty()).then(|| vec![wish.audience.clone()]),
            expiration_seconds: Some(wish.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let answer: TokenRequest = client
        .post_sub::<ServiceAccount, _, _>(namespace, account, "token", &body)
        .await
        .map_err(|e| format!("failed to fetch token: {e}"))?;
    let status = answer.status.ok_or("failed to fetch token: the answer has no status")?;
    let value = status.token.ok_or("failed to fetch token: the answer has no token")?;
    let until = status.expiration_timestamp.ok_or("failed to fetch token: it has no expiry")?;
    Ok(Token { value, renew_at: renewal(now, until.0) })
}
