//! Who asks: a client certificate, a service-account token, or nobody.

use crate::answer::Result;
use crate::authz::{PUBLIC, matches};
use crate::{ApiServer, User, object};
use api::Status;
use http::header::AUTHORIZATION;
use http::request::Parts;
use pki::{Bound, Claims, PeerIdentity};

const AUTHENTICATED: &str = "system:authenticated";

/// The user of a request from the network. Broken credentials are an error even where none are needed.
pub(crate) async fn authenticate(
    server: &ApiServer,
    peer: Option<&PeerIdentity>,
    parts: &Parts,
) -> Result<User> {
    if let Some(peer) = peer {
        let groups = peer.organizations.iter().cloned().chain([AUTHENTICATED.to_owned()]).collect();
        return Ok(User { name: peer.common_name.clone(), groups, ..User::default() });
    }
    if let Some(header) = parts.headers.get(AUTHORIZATION) {
        let token = header
            .to_str()
            .ok()
            .and_then(|h| h.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(Status::unauthorized)?;
        return bearer(server, token, &[]).await.ok_or_else(Status::unauthorized);
    }
    match PUBLIC.iter().any(|p| matches(p, parts.uri.path())) {
        true => Ok(User {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..User::default()
        }),
        false => Err(Status::unauthorized()),
    }
}

/// The service account of a token, if the token is good and everything it is bound to still exists.
pub(crate) async fn bearer(server: &ApiServer, token: &str, audiences: &[String]) -> Option<User> {
    let now = jiff::Timestamp::now().as_second();
    let claims = match server.config.service_account_keys.verify(token, audiences, now) {
        Ok(claims) => claims,
        Err(error) => {
            tracing::debug!(%error, "bearer token refused");
            return None;
        }
    };
    let bound = &claims.kubernetes;
    let namespace = &bound.namespace;
    exists(server, "serviceaccounts", namespace, &bound.serviceaccount).await?;
    for (plural, namespace, bound) in [
        ("pods", namespace.as_str(), &bound.pod),
        ("secrets", namespace, &bound.secret),
        ("nodes", "", &bound.node),
    ] {
        // A token bound to a pod names its node for information only.
        if let Some(bound) = bound
            && (plural != "nodes" || claims.kubernetes.pod.is_none())
        {
            exists(server, plural, namespace, bound).await?;
        }
    }
    Some(user(&claims))
}

async fn exists(server: &ApiServer, plural: &str, namespace: &str, bound: &Bound) -> Option<()> {
    let res = api::find("", "v1", plural)?;
    let entry = server.find(res, namespace, &bound.name).await.ok()??;
    let found = object::decode(&entry.value).ok()?;
    (object::uid(&found) == bound.uid).then_some(())
}

fn user(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let mut user = User {
        name: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", bound.namespace),
            AUTHENTICATED.to_owned(),
        ],
        uid: Some(bound.serviceaccount.uid.clone()),
        ..User::default()
    };
    let mut extra = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    extra("credential-id", format!("JTI={}", claims.jti));
    for (kind, bound) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(bound) = bound {
            extra(&format!("{kind}-name"), bound.name.clone());
            extra(&format!("{kind}-uid"), bound.uid.clone());
        }
    }
    user
}
