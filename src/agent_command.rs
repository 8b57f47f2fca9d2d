//! `copepod agent`: joins a server and runs the node.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, bail};
use cluster::JoinConfig;
use tokio::sync::watch;
use tracing::info;

use crate::parts::{Parts, Signals, runtime};
use crate::{cli, identity, node};

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(flags: cli::Agent) -> Result<()> {
    runtime()?.block_on(serve(flags))
}

async fn serve(flags: cli::Agent) -> Result<()> {
    let begin = Instant::now();
    let mut signals = Signals::new()?;
    let joined = tokio::select! {
        signal = signals.wait() => { info!(signal, "stopping"); return Ok(()); }
        joined = join(&flags) => joined?,
    };
    let (joined, ip) = joined;
    info!(elapsed = ?begin.elapsed(), node = joined.node_name, "member of the cluster");

    let (stop, stopped) = watch::channel(false);
    let mut parts = Parts::default();
    let settings = node::Settings {
        node_name: joined.node_name.clone(),
        node_ip: ip,
        folder: flags.data_dir.join("agent"),
        flags: flags.node,
        shared: joined.shared.clone(),
        server: false,
    };
    let client = joined.client();
    let started = node::start(&settings, client, &mut parts, &stopped).await?;
    let kubelet = started.agent.kubelet();
    let accept = cluster::accept_kubelet(move |stream| {
        let kubelet = kubelet.clone();
        Box::pin(async move { kubelet.serve_stream(stream).await })
    });
    parts.add("membership", joined.run(accept, started.addresses, stopped));
    info!(elapsed = ?begin.elapsed(), node = %settings.node_name, "copepod is up");

    let ended = tokio::select! {
        signal = signals.wait() => { info!(signal, "stopping"); None }
        part = parts.ended() => part,
    };
    node::end(started.agent, &settings.flags).await;
    let _ = stop.send(true);
    parts.finish().await;
    info!("stopped");
    match ended {
        Some(part) => bail!("the {part} ended by itself"),
        None => Ok(()),
    }
}

async fn join(flags: &cli::Agent) -> Result<(cluster::Joined, IpAddr)> {
    let Some(server) = &flags.server else {
        bail!("--server is missing: give the server's address as https://HOST:6443");
    };
    let folder = flags.data_dir.join("agent");
    let token = identity::token(flags.token.as_ref(), flags.token_file.as_deref(), "--token-file")?;
    let node_name = identity::node_name(&flags.node, &folder)?;
    let address = cluster::Address::of_url(server)?.to_string();
    let ip = flags.node.node_ip.or_else(|| identity::default_address(Some(&address)));
    let config = JoinConfig {
        server: server.clone(),
        token,
        folder,
        node_name,
        node_ips: ip.into_iter().collect(),
    };
    let joined = cluster::join(config).await?;
    Ok((joined, ip.unwrap_or(IpAddr::from([127, 0, 0, 1]))))
}
