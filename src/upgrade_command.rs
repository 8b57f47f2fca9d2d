//! `copepod upgrade`: asks this board's node, or one of the cluster, for an update, and shows how it goes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::{Client, Patch};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::cli;
use crate::token_command::connect;
use crate::upgrade_socket::Request;
use crate::upgrade_status::{DOWNGRADE, Phase, REQUEST, STATUS, Status};
use crate::upgrades::SOCKET;

/// Between two looks at a node of the cluster; the API server is away while it restarts, so there is no watch.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the node may say nothing new; the longest trial is an hour.
const SILENCE_MAX: Duration = Duration::from_secs(3900);

pub(crate) fn run(flags: cli::Upgrade) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime.block_on(async {
        match &flags.node {
            Some(node) => {
                let (client, _) = connect(&flags.access.kubeconfig)?;
                in_cluster(&client, node, &flags).await
            }
            None => here(&flags).await,
        }
    })
}

/// Asks the node of this machine.
async fn here(flags: &cli::Upgrade) -> Result<()> {
    if !Path::new(SOCKET).exists() {
        bail!(
            "{SOCKET} is not there: this is no board, or its node does not run; --node names one of the cluster"
        );
    }
    let mut stream =
        UnixStream::connect(SOCKET).await.with_context(|| format!("connecting to {SOCKET}"))?;
    let request = Request { source: flags.source.clone(), allow_downgrade: flags.allow_downgrade };
    stream.write_all(format!("{}\n", serde_json::to_string(&request)?).as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let status: Status = serde_json::from_str(&line)?;
        println!("{}", status.line());
        if status.phase == Phase::Restarting || status.phase.is_end() {
            return end(&status);
        }
    }
    bail!("the node ended before the update did")
}

/// Asks a node of the cluster through its annotation.
async fn in_cluster(client: &Client, node: &str, flags: &cli::Upgrade) -> Result<()> {
    let downgrade = flags.allow_downgrade.then_some("true");
    let annotations = json!({ REQUEST: flags.source, DOWNGRADE: downgrade, STATUS: null });
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    client.patch::<Node>("", node, &patch).await.with_context(|| format!("asking node {node}"))?;
    println!("asked node {node} for {}", flags.source);
    if flags.no_wait {
        return Ok(());
    }
    follow(client, node).await
}

/// Shows every status until one is the last.
async fn follow(client: &Client, node: &str) -> Result<()> {
    let mut shown: Option<Status> = None;
    let mut heard = Instant::now();
    let mut is_away = false;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let found = tokio::time::timeout(LOOK_EVERY * 10, client.get::<Node>("", node)).await;
        let Ok(Ok(found)) = found else {
            if !std::mem::replace(&mut is_away, true) {
                println!("the API server does not answer");
            }
            if heard.elapsed() > SILENCE_MAX {
                bail!("node {node} has not been heard of for {} s", SILENCE_MAX.as_secs());
            }
            continue;
        };
        if std::mem::take(&mut is_away) {
            println!("the API server answers");
        }
        let annotations = found.metadata.annotations.unwrap_or_default();
        let status: Option<Status> = match annotations.get(STATUS) {
            Some(text) => {
                Some(serde_json::from_str(text).with_context(|| format!("annotation {STATUS}"))?)
            }
            None => None,
        };
        if let Some(status) = status.filter(|status| shown.as_ref() != Some(status)) {
            println!("{}", status.line());
            if status.phase.is_end() {
                return end(&status);
            }
            heard = Instant::now();
            shown = Some(status);
        } else if heard.elapsed() > SILENCE_MAX {
            bail!("node {node} has said nothing of the update for {} s", SILENCE_MAX.as_secs());
        }
    }
}

fn end(status: &Status) -> Result<()> {
    match status.phase {
        Phase::FellBack | Phase::Refused | Phase::Failed => bail!("{}", status.line()),
        _ => Ok(()),
    }
}
