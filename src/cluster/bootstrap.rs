//! Bootstrap tokens: Secrets `kube-system/bootstrap-token-<id>` in upstream's form, which let nodes join for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Client, DeleteParams, ListParams};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pki::BootstrapToken;

use crate::{Error, clock};

pub(crate) const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const USAGE: &str = "usage-bootstrap-";
const AUTHENTICATION: &str = "usage-bootstrap-authentication";
const GROUPS: &str = "auth-extra-groups";
const GROUP_PREFIX: &str = "system:bootstrappers:";
const DEFAULT_GROUP: &str = "system:bootstrappers:copepod:default-node-token";
const DEFAULT_USAGES: [&str; 2] = ["signing", "authentication"];

/// What a new token shall be.
#[derive(Clone, Debug, Default)]
pub struct NewBootstrapToken {
    /// `<id>.<secret>`; made up when not given.
    pub token: Option<String>,
    pub description: String,
    /// `None`: it never expires.
    pub ttl: Option<Duration>,
    /// Empty: both that exist.
    pub usages: Vec<String>,
    /// Empty: the default group.
    pub groups: Vec<String>,
}

/// A token as its Secret tells of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BootstrapRecord {
    pub id: String,
    secret: String,
    pub description: String,
    /// In RFC 3339; `None` if it never expires.
    pub expires: Option<String>,
    pub usages: Vec<String>,
    pub groups: Vec<String>,
}

impl BootstrapRecord {
    /// Reads a Secret; `None` if it is no bootstrap token under its right name.
    pub(crate) fn of(secret: &Secret) -> Option<BootstrapRecord> {
        if secret.type_.as_deref() != Some(TYPE) {
            return None;
        }
        let data = secret.data.as_ref()?;
        let text = |key: &str| {
            data.get(key).and_then(|b| String::from_utf8(b.0.clone()).ok()).unwrap_or_default()
        };
        let id = text("token-id");
        if secret.metadata.name.as_deref()?.strip_prefix(PREFIX)? != id {
            return None;
        }
        let usages = data.iter().filter(|(_, value)| value.0 == b"true");
        let groups = text(GROUPS);
        let expires = text("expiration");
        Some(BootstrapRecord {
            secret: text("token-secret"),
            description: text("description"),
            expires: (!expires.is_empty()).then_some(expires),
            usages: usages.filter_map(|(k, _)| Some(k.strip_prefix(USAGE)?.to_owned())).collect(),
            groups: groups.split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect(),
            id,
        })
    }

    /// The whole token, `<id>.<secret>`.
    pub fn token(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Seconds the token has left; `None` if it never expires. One whose time cannot be read has none left.
    pub fn seconds_left(&self, now: i64) -> Option<i64> {
        let text = self.expires.as_ref()?;
        Some(text.parse::<Timestamp>().map_or(-1, |end| end.as_second() - now))
    }

    /// Whether the token lets a node join now. A clock that was never set cannot say that it has expired.
    pub(crate) fn admits(&self, token: &BootstrapToken, now: i64) -> bool {
        let same = pki::constant_time_eq(self.secret.as_bytes(), token.secret.as_bytes());
        let lives = !clock::plausible(now) || self.seconds_left(now).is_none_or(|left| left > 0);
        same && lives && self.usages.iter().any(|usage| usage == "authentication")
    }
}

/// Selects the Secrets that are bootstrap tokens.
pub(crate) fn selector() -> String {
    format!("type={TYPE}")
}

/// Whether a token is known and good.
pub(crate) async fn admits(client: &Client, token: &BootstrapToken) -> client::Result<bool> {
    let name = format!("{PREFIX}{}", token.id);
    let Some(secret) = client.get_opt::<Secret>(NAMESPACE, &name).await? else {
        return Ok(false);
    };
    Ok(BootstrapRecord::of(&secret).is_some_and(|record| record.admits(token, clock::now())))
}

/// The Secret of a new token.
pub(crate) fn secret(
    new: &NewBootstrapToken,
    token: &BootstrapToken,
    now: i64,
) -> Result<Secret, Error> {
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), token.id.clone()),
        ("token-secret".to_owned(), token.secret.clone()),
    ]);
    if !new.description.is_empty() {
        data.insert("description".to_owned(), new.description.clone());
    }
    if let Some(ttl) = new.ttl {
        let end = now.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
        let end = Timestamp::from_second(end)
            .map_err(|_| Error::Token(format!("--ttl: {ttl:?} is too long")))?;
        data.insert("expiration".to_owned(), end.to_string());
    }
    let usages = match new.usages.as_slice() {
        [] => DEFAULT_USAGES.map(str::to_owned).to_vec(),
        some => some.to_vec(),
    };
    for usage in usages {
        if !DEFAULT_USAGES.contains(&usage.as_str()) {
            return Err(Error::Token(format!(
                "--usages: expected signing or authentication, not {usage:?}"
            )));
        }
        data.insert(format!("{USAGE}{usage}"), "true".to_owned());
    }
    let groups = match new.groups.as_slice() {
        [] => vec![DEFAULT_GROUP.to_owned()],
        some => some.to_vec(),
    };
    if let Some(wrong) = groups.iter().find(|g| !g.starts_with(GROUP_PREFIX)) {
        return Err(Error::Token(format!(
            "--groups: expected a group that begins with {GROUP_PREFIX}, not {wrong:?}"
        )));
    }
    if data.contains_key(AUTHENTICATION) {
        data.insert(GROUPS.to_owned(), groups.join(","));
    }
    Ok(Secret {
        metadata: ObjectMeta {
            namespace: Some(NAMESPACE.to_owned()),
            name: Some(format!("{PREFIX}{}", token.id)),
            ..Default::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data.into_iter().map(|(k, v)| (k, ByteString(v.into_bytes()))).collect()),
        ..Default::default()
    })
}

/// Makes a token and keeps it in the cluster.
pub async fn create_token(
    client: &Client,
    new: &NewBootstrapToken,
) -> Result<BootstrapToken, Error> {
    let token = match &new.token {
        Some(text) => BootstrapToken::parse(text).ok_or_else(|| pattern(text))?,
        None => BootstrapToken::random()?,
    };
    match client.create(&secret(new, &token, clock::now())?).await {
        Ok(_) => Ok(token),
        Err(error) if error.is_already_exists() => {
            Err(Error::Token(format!("a token with id {:?} already exists", token.id)))
        }
        Err(source) => Err(Error::Api { what: "create the token".to_owned(), source }),
    }
}

/// All tokens, by id.
pub async fn list_tokens(client: &Client) -> Result<Vec<BootstrapRecord>, Error> {
    let params = ListParams::all().fields(selector());
    let secrets = client
        .list::<Secret>(NAMESPACE, &params)
        .await
        .map_err(|source| Error::Api { what: "list the tokens".to_owned(), source })?;
    Ok(secrets.items.iter().filter_map(BootstrapRecord::of).collect())
}

/// Deletes a token by its id or by all of it; answers the id.
pub async fn delete_token(client: &Client, token: &str) -> Result<String, Error> {
    let text = token.rsplit("::").next().unwrap_or(token);
    let id = match BootstrapToken::parse(text) {
        Some(token) => token.id,
        // An id of the right form is one that a secret of the right form completes.
        None if BootstrapToken::parse(&format!("{text}.{}", "0".repeat(16))).is_some() => {
            text.to_owned()
        }
        None => return Err(pattern(token)),
    };
    client
        .delete::<Secret>(NAMESPACE, &format!("{PREFIX}{id}"), &DeleteParams::default())
        .await
        .map_err(|source| Error::Api { what: format!("delete the token {id}"), source })?;
    Ok(id)
}

fn pattern(text: &str) -> Error {
    let shown = text.split('.').next().unwrap_or_default();
    Error::Token(format!(
        "the token {shown:?}… is not of the form [a-z0-9]{{6}} or [a-z0-9]{{6}}.[a-z0-9]{{16}}"
    ))
}
