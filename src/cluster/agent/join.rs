//! Becoming a member: by what the node kept, or by a token.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::Backoff;
use pki::{Facts, JoinToken};

use super::files::{Files, Membership, Role};
use super::requests::{Node, Proof, Talk, authority};
use super::{Address, Balancer, Joined};
use crate::{Error, Refusal, Shared, wire};

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LIMIT: Duration = Duration::from_secs(15);
/// How long a node that is a member already waits for the newest settings before it starts with those it kept.
const REFRESH_PATIENCE: Duration = Duration::from_secs(2);

/// What joining needs.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// `https://HOST[:PORT]`.
    pub server: String,
    /// Needed the first time only.
    pub token: Option<String>,
    /// DATA/agent.
    pub folder: PathBuf,
    pub node_name: String,
    /// The node's own addresses.
    pub node_ips: Vec<IpAddr>,
}

/// Joins the cluster, or comes back to it: a node that was a member before does not need its server for that. As long as
/// the server cannot be reached a new node tries again; every other refusal is final.
pub async fn join(config: JoinConfig) -> Result<Joined, Refusal> {
    let files = Files::new(&config.folder)?;
    let join_server = Address::of_url(&config.server)?;
    let token = config.token.as_deref().map(JoinToken::parse).transpose().map_err(Error::from)?;
    let node = Node { name: config.node_name, password: files.password()?, ips: config.node_ips };
    let balancer = Arc::new(Balancer::open(&files.servers(), join_server));
    let kept = files.load()?;
    if let (Some(kept), Some(token)) = (&kept, &token)
        && !token.trusts(&kept.server_ca)
    {
        return Err(Refusal::OtherCluster {
            found: pki::sha256_hex(kept.server_ca.as_bytes()),
            wanted: token.authority_hash.clone().unwrap_or_default(),
            folder: files.folder().to_owned(),
        });
    }
    let membership = match kept.filter(|kept| is_of(kept, &node.name)) {
        Some(kept) => refreshed(kept, &balancer, &node, &files).await,
        None => {
            let token = token.as_ref().ok_or(Refusal::NoToken)?;
            let made = first_join(&balancer, &node, token, &files).await?;
            files.save(&made)?;
            made
        }
    };
    Ok(Joined::new(node, membership, files, balancer, token)?)
}

/// Whether the kept certificate is this node's: it may have been given another name.
fn is_of(kept: &Membership, name: &str) -> bool {
    let user = format!("{}{name}", wire::NODE_USER_PREFIX);
    Facts::of_pem(&kept.client.certificate).is_ok_and(|facts| facts.common_name == user)
}

/// The kept membership with the server's newest settings, if it answers at once.
async fn refreshed(
    mut kept: Membership,
    balancer: &Balancer,
    node: &Node,
    files: &Files,
) -> Membership {
    let proof = Proof::Certificate(&kept.client);
    let talk = Talk { balancer, server_ca: &kept.server_ca, node, proof };
    let settings = tokio::time::timeout(REFRESH_PATIENCE, shared(&talk)).await;
    match settings {
        Ok(Ok(shared)) if shared != kept.shared => {
            if let Err(error) = files.save_settings(&shared, kept.life) {
                tracing::warn!(%error, "the cluster's new settings are not kept for the next start");
            }
            kept.shared = shared;
        }
        Ok(Ok(_)) => {}
        Ok(Err(why)) => tracing::warn!(%why, "starting with the settings kept from before"),
        Err(_) => tracing::warn!("no server answers, starting with the settings kept from before"),
    }
    kept
}

async fn shared(talk: &Talk<'_>) -> Result<Shared, Refusal> {
    let body = talk.get(wire::CONFIG).await?;
    serde_json::from_slice(&body).map_err(|error| Refusal::NotAServer {
        server: format!("https://{}", talk.balancer.join_server()),
        why: format!("{}: {error}", wire::CONFIG),
    })
}

async fn first_join(
    balancer: &Balancer,
    node: &Node,
    token: &JoinToken,
    files: &Files,
) -> Result<Membership, Refusal> {
    if token.authority_hash.is_none() {
        tracing::warn!(
            "the token has no CA hash, so the server is believed unseen; use the full token, K10…, to have it checked"
        );
    }
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    loop {
        match attempt(balancer, node, token, files).await {
            Err(refusal) if refusal.is_temporary() => {
                let pause = backoff.failed_with_jitter();
                tracing::warn!(%refusal, "not joined yet, trying again in {pause:?}");
                tokio::time::sleep(pause).await;
            }
            ended => return ended,
        }
    }
}

async fn attempt(
    balancer: &Balancer,
    node: &Node,
    token: &JoinToken,
    files: &Files,
) -> Result<Membership, Refusal> {
    let server_ca = authority(balancer, token).await?;
    let talk = Talk { balancer, server_ca: &server_ca, node, proof: Proof::Token(token) };
    let shared = shared(&talk).await?;
    let (client, life) = talk.certificate(Role::Client, &files.key(Role::Client)?).await?;
    let (serving, _) = talk.certificate(Role::Serving, &files.key(Role::Serving)?).await?;
    let client_ca = String::from_utf8_lossy(&talk.get(wire::CLIENT_CA).await?).into_owned();
    let servers: Vec<String> =
        serde_json::from_slice(&talk.get(wire::API_SERVERS).await?).unwrap_or_default();
    balancer.set(servers.iter().filter_map(|text| Address::parse(text)).collect());
    tracing::info!(node = node.name, "joined");
    Ok(Membership { client, serving, server_ca, client_ca, shared, life })
}
