//! What the supervisor removes: the password of a node that was deleted, and tokens whose time is over.

use std::time::Duration;

use client::{Cache, Change, Client, DeleteParams, ListParams, PartialObject, ResourcePath, Scope};
use k8s_openapi::api::core::v1::{Node, Secret};
use tokio::sync::watch;

use super::node_password;
use crate::{bootstrap, clock};

/// The wall clock may jump, so a token's end is looked for this often at least while there is a token that ends.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// A removal that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(30);

/// Runs until told to stop.
pub async fn upkeep(client: Client, mut stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = forget_nodes(&client) => {}
        () = end_tokens(&client) => {}
        // An error means that whoever would stop this is gone, which is the end as well.
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

/// Gives the name of a deleted node back. A node that still runs leaves its password again when it renews.
async fn forget_nodes(client: &Client) {
    let resource = ResourcePath::of::<Node>();
    let scope = Scope { resource, params: ListParams::all(), trim: trim_metadata };
    let nodes: Cache<PartialObject> = Cache::start_with(client.clone(), scope);
    let mut changes = nodes.subscribe();
    loop {
        let Change::Object { key, new: None, .. } = changes.next().await else { continue };
        let name = node_password::secret_name(&key.1);
        let deleted = client
            .delete::<Secret>(node_password::NAMESPACE, &name, &DeleteParams::default())
            .await;
        match deleted {
            Ok(()) => tracing::info!(node = key.1, "node deleted, its name can be taken again"),
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(node = key.1, %error, "password of a deleted node stays"),
        }
    }
}

fn trim_metadata(object: &mut PartialObject) {
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    object.metadata.labels = None;
}

/// Deletes bootstrap tokens at their end, as upstream does.
async fn end_tokens(client: &Client) {
    let params = ListParams::all().namespace(bootstrap::NAMESPACE).fields(bootstrap::selector());
    let tokens: Cache<Secret> = Cache::start(client.clone(), params);
    let mut changes = tokens.subscribe();
    tokens.synced().await;
    loop {
        let pause = end_due(client, &tokens).await;
        tokio::select! {
            _ = changes.next() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Deletes what is over, and tells when to look again.
async fn end_due(client: &Client, tokens: &Cache<Secret>) -> Option<Duration> {
    let now = clock::now();
    let mut next: Option<Duration> = None;
    for secret in tokens.list() {
        let Some(record) = bootstrap::BootstrapRecord::of(&secret) else { continue };
        let Some(left) = record.seconds_left(now) else { continue };
        let mut wait = Duration::from_secs(u64::try_from(left).unwrap_or(0)).min(LOOK_EVERY);
        // A clock that was never set ends nothing.
        if left <= 0 && clock::plausible(now) {
            match bootstrap::delete_token(client, &record.id).await {
                Ok(id) => {
                    tracing::info!(id, "bootstrap token has expired");
                    continue;
                }
                Err(error) => tracing::warn!(id = record.id, %error, "expired token stays"),
            }
        }
        if left <= 0 {
            wait = RETRY;
        }
        next = Some(next.map_or(wait, |known| known.min(wait)));
    }
    next
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
