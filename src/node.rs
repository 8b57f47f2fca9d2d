//! The node agent's parts: runtime process, images, pod network, and the agent that uses them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use agent::{Agent, Registration};
use anyhow::{Context, Result, bail};
use client::Client;
use k8s_openapi::api::core::v1::Taint;
use runtime::client::Runtime;
use runtime::image::{ImageStore, PullOptions, Registries};
use tracing::{info, warn};

use crate::cli::VERSION;
use crate::pod_network::Bridge;
use crate::server::Settings;

const MAX_PODS: u32 = 110;
const KUBELET_PORT: u16 = 10250;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Starts the runtime process if none runs, imports the archives that lie ready, and starts the agent.
pub(crate) async fn start(settings: &Settings, client: Client) -> Result<Agent> {
    let folder = settings.flags.data_dir.join("agent");
    let registration = registration(settings)?;
    let pull = pull_options(&settings.flags.node.private_registry)?;
    let run = folder.join("run");
    let config = runtime::process::Config {
        socket: run.join("runtime.sock"),
        state_dir: run.join("state"),
        cgroup_root: settings.flags.node.cgroup_root.clone(),
    };
    let exe = std::env::current_exe().context("finding this program's file")?;
    let program = runtime::client::Program::copepod(&exe);
    let runtime =
        runtime::client::spawn(&program, &config).await.context("starting the runtime process")?;
    let images =
        Arc::new(ImageStore::open(&folder.join("image-store")).context("opening the image store")?);
    import(&images, &folder.join("images")).await;
    let network = pod_network(settings, &runtime, &folder.join("network")).await?;
    let config = agent::Config {
        node_name: settings.node_name.clone(),
        data_dir: folder,
        client,
        runtime,
        images,
        pull,
        network,
        node_ips: vec![settings.node_ip],
        external_ips: Vec::new(),
        registration,
        cluster_dns: vec![settings.network.dns],
        cluster_domain: settings.flags.cluster_domain.clone(),
        host_resolv_conf: RESOLV_CONF.into(),
        host_hosts: "/etc/hosts".into(),
        max_pods: MAX_PODS,
        kubelet_version: VERSION.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        kubelet_port: KUBELET_PORT,
    };
    Ok(Agent::start(config).await?)
}

/// The bridge of this node's pods. What a node that was killed left behind for pods that are gone is taken back.
async fn pod_network(settings: &Settings, runtime: &Runtime, state: &Path) -> Result<Arc<Bridge>> {
    let mut config = network::Config::new(state);
    config.cluster_cidr = Some(settings.flags.cluster_cidr.parse()?);
    let bridge = network::BridgeNetwork::new(config).context("preparing the pod network")?;
    let sandboxes = runtime.list().await.context("listing sandboxes")?.sandboxes;
    let uids = sandboxes.into_iter().map(|s| s.spec.id).collect();
    bridge.retain(uids).await.context("cleaning the pod network")?;
    Ok(Arc::new(Bridge(bridge)))
}

/// Cluster DNS is served by the node itself, at the cluster's DNS address.
pub(crate) async fn cluster_dns(settings: &Settings) -> Result<network::dns::Server> {
    let address = settings.network.dns;
    network::dns::ensure_address(address).await?;
    let listen = vec![SocketAddr::new(address, network::dns::PORT)];
    let zone = settings.flags.cluster_domain.as_str();
    Ok(network::dns::Server::bind(&network::dns::Config::new(listen, zone, RESOLV_CONF)).await?)
}

/// Imports every archive of the folder; a broken one is named in the log and left out.
async fn import(images: &ImageStore, folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut archives: Vec<_> =
        entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    archives.sort();
    for archive in archives {
        match images.import(&archive).await {
            Ok(found) => {
                let names: Vec<&String> = found.iter().flat_map(|i| &i.references).collect();
                info!(archive = %archive.display(), ?names, "images imported");
            }
            Err(error) => warn!(archive = %archive.display(), %error, "archive not imported"),
        }
    }
}

fn pull_options(registries: &Path) -> Result<PullOptions> {
    if !registries.exists() {
        return Ok(PullOptions::default());
    }
    let text = std::fs::read_to_string(registries)
        .with_context(|| format!("reading {}", registries.display()))?;
    let registries =
        Registries::parse(&text).with_context(|| format!("in {}", registries.display()))?;
    Ok(PullOptions { registries: Arc::new(registries), ..Default::default() })
}

fn registration(settings: &Settings) -> Result<Registration> {
    let mut labels = BTreeMap::new();
    for text in &settings.flags.node.node_label {
        let Some((key, value)) = text.split_once('=') else {
            bail!("--node-label: expected key=value, not {text:?}");
        };
        labels.insert(key.to_owned(), value.to_owned());
    }
    let taints =
        settings.flags.node.node_taint.iter().map(|text| taint(text)).collect::<Result<_>>()?;
    Ok(Registration { labels, taints, server: true, ..Default::default() })
}

fn taint(text: &str) -> Result<Taint> {
    let parsed = text
        .rsplit_once(':')
        .filter(|(_, effect)| ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(effect));
    let Some((key_value, effect)) = parsed else {
        bail!(
            "--node-taint: expected key=value:effect with effect NoSchedule, PreferNoSchedule or NoExecute, not {text:?}"
        );
    };
    let (key, value) = match key_value.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (key_value, None),
    };
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints() {
        let got = taint("a=b:NoSchedule").unwrap();
        assert_eq!(
            (got.key.as_str(), got.value.as_deref(), got.effect.as_str()),
            ("a", Some("b"), "NoSchedule")
        );
        assert_eq!(taint("a:NoExecute").unwrap().value, None);
        for bad in ["", "a=b", "a=b:Never"] {
            assert!(taint(bad).unwrap_err().to_string().starts_with("--node-taint"));
        }
    }
}
