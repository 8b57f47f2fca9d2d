//! Tells people and programs how far an update is: the notice for the agent, the annotation of the node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use client::{Backoff, Patch};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio::sync::watch;
use tracing::warn;

use crate::upgrade_socket::Told;
use crate::upgrade_status::{REQUEST, STATUS, Status};
use crate::upgrades::Settings;

const NOTICE: &str = "/run/copepod/notices/update.json";
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(20);

/// Writes every status to the notice from which the agent makes condition and event, and to the node's annotation.
pub(crate) async fn tell(settings: Arc<Settings>, mut told: watch::Receiver<Told>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut phase = None;
    loop {
        let now = told.borrow_and_update().clone();
        if let Some((status, is_news)) = &now
            && phase != Some(status.phase)
        {
            phase = Some(status.phase);
            note(status, *is_news);
        }
        let shown = match &now {
            Some((status, true)) => show(&settings, status).await,
            own => mend(&settings, own.as_ref().map(|(status, _)| status)).await,
        };
        if shown.is_err() {
            tokio::select! {
                () = tokio::time::sleep(backoff.failed_with_jitter()) => continue,
                _ = told.changed() => continue,
            }
        }
        backoff.succeeded();
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// Writes the annotation.
async fn show(settings: &Settings, status: &Status) -> client::Result<()> {
    let text = serde_json::to_string(status).unwrap_or_default();
    annotate(settings, json!({ STATUS: text })).await.map(drop)
}

/// What is not news the annotation says already, unless the power went before it did.
async fn mend(settings: &Settings, journal: Option<&Status>) -> client::Result<()> {
    let node = settings.client.get::<Node>("", &settings.node_name).await?;
    let mut annotations = node.metadata.annotations.unwrap_or_default();
    let shown = annotations.remove(STATUS);
    let shown = shown.and_then(|text| serde_json::from_str::<Status>(&text).ok());
    let is_asked = annotations.contains_key(REQUEST);
    let Some(status) = shown.and_then(|shown| shown.mended(journal, is_asked)) else {
        return Ok(());
    };
    if Some(&status) != journal {
        note(&status, true);
    }
    show(settings, &status).await
}

fn note(status: &Status, is_news: bool) {
    if let Err(error) = write_notice(status, is_news) {
        warn!("{NOTICE}: {error:#}");
    }
}

fn write_notice(status: &Status, is_news: bool) -> Result<()> {
    let path = Path::new(NOTICE);
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    Ok(sys::atomic_write(path, status.notice(is_news).to_string().as_bytes(), 0o644)?)
}

/// Sets annotations of the node; null takes one away.
pub(crate) async fn annotate(
    settings: &Settings,
    annotations: serde_json::Value,
) -> client::Result<Node> {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    settings.client.patch::<Node>("", &settings.node_name, &patch).await
}
