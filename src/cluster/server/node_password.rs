//! Node passwords: the first node that takes a name leaves a hash of its password; later only that node may have the name.

use std::collections::BTreeMap;

use client::Client;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) const NAMESPACE: &str = "kube-system";
const KEY: &str = "hash";

/// What a password proves about a name.
#[derive(Debug)]
pub(crate) enum Verdict {
    Granted,
    /// Another password belongs to the name.
    Taken,
    /// Nobody has the name, which was not enough for the caller.
    Unknown,
}

/// What to do when nobody has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    Take,
    Refuse,
}

pub(crate) fn secret_name(node: &str) -> String {
    format!("{node}.node-password.copepod")
}

/// Checks a node's password, or keeps it if it is the first for the name.
pub(crate) async fn check(
    client: &Client,
    node: &str,
    password: &str,
    absent: Absent,
) -> client::Result<Verdict> {
    let name = secret_name(node);
    if let Some(secret) = client.get_opt::<Secret>(NAMESPACE, &name).await? {
        return Ok(judge(secret, password).await);
    }
    if absent == Absent::Refuse {
        return Ok(Verdict::Unknown);
    }
    let text = password.to_owned();
    let hashed = tokio::task::spawn_blocking(move || pki::hash_password(&text)).await;
    let hash = match hashed {
        Ok(Ok(hash)) => hash,
        Ok(Err(error)) => return Err(client::Error::Config(error.to_string())),
        Err(error) => return Err(client::Error::Config(error.to_string())),
    };
    match client.create(&secret(&name, hash)).await {
        Ok(_) => Ok(Verdict::Granted),
        Err(error) if error.is_already_exists() => {
            let secret = client.get::<Secret>(NAMESPACE, &name).await?;
            Ok(judge(secret, password).await)
        }
        Err(error) => Err(error),
    }
}

fn secret(name: &str, hash: String) -> Secret {
    Secret {
        metadata: ObjectMeta {
            namespace: Some(NAMESPACE.to_owned()),
            name: Some(name.to_owned()),
            ..Default::default()
        },
        immutable: Some(true),
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(hash.into_bytes()))])),
        type_: Some("Opaque".to_owned()),
        ..Default::default()
    }
}

async fn judge(secret: Secret, password: &str) -> Verdict {
    let kept = secret.data.unwrap_or_default().remove(KEY).map(|b| b.0).unwrap_or_default();
    let password = password.to_owned();
    let matches = tokio::task::spawn_blocking(move || {
        pki::password_matches(&password, &String::from_utf8_lossy(&kept))
    });
    match matches.await {
        Ok(true) => Verdict::Granted,
        _ => Verdict::Taken,
    }
}
