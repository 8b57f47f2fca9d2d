//! What every node runs, in a server or alone: runtime process, images, pod network, overlay, DNS, Service proxy, agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, Registration};
use anyhow::{Context, Result, anyhow, bail};
use client::{Backoff, Client};
use cluster::Shared;
use k8s_openapi::api::core::v1::Taint;
use network::BridgeNetwork;
use runtime::client::Runtime;
use runtime::image::{ImageStore, PullOptions, Registries};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::{self, VERSION};
use crate::parts::Parts;
use crate::pod_network::Bridge;
use crate::{identity, upgrades};

const MAX_PODS: u32 = 110;
const KUBELET_PORT: u16 = 10250;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_RETRY_FIRST: Duration = Duration::from_secs(1);
const DNS_RETRY_MAX: Duration = Duration::from_secs(30);

/// What a node is told, by flags and by the cluster.
pub(crate) struct Settings {
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    /// DATA/agent.
    pub(crate) folder: PathBuf,
    pub(crate) flags: cli::Node,
    pub(crate) shared: Shared,
    /// The node is a server too.
    pub(crate) server: bool,
}

/// A node that runs.
pub(crate) struct Started {
    pub(crate) agent: Agent,
    /// The node's own addresses, now and whenever they change.
    pub(crate) addresses: watch::Receiver<Vec<IpAddr>>,
}

/// Starts all of the node. Nothing of it waits for the API server, so that a node that was a member before runs its pods
/// without one.
pub(crate) async fn start(
    settings: &Settings,
    client: Client,
    parts: &mut Parts,
    stopped: &watch::Receiver<bool>,
) -> Result<Started> {
    let runtime = runtime_process(settings).await?;
    let (bridge, overlay) = pod_network(settings, &runtime).await?;
    let uplink = overlay.uplink.clone();
    parts.add("overlay", network::overlay::run(client.clone(), overlay, stopped.clone()));
    let mut agent = start_agent(settings, client.clone(), runtime, bridge).await?;
    parts.add("updates", upgrades::run(updates(settings, &client)?, stopped.clone()));
    let inputs = services(settings, &client, parts, stopped);
    let dns = cluster_dns(settings.shared.clone(), inputs.clone(), stopped.clone());
    parts.add("cluster DNS", dns);
    if !settings.shared.disable_kube_proxy {
        let config = proxy_config(settings)?;
        parts.add("Service proxy", network::proxy::run(inputs, config, stopped.clone()));
    }
    let (told, addresses) = watch::channel(vec![settings.node_ip]);
    if settings.flags.node_ip.is_none() {
        parts.add("addresses", addresses_of(uplink, told, stopped.clone()));
    }
    agent.follow_addresses(addresses.clone());
    Ok(Started { agent, addresses })
}

/// What DNS and proxy read. A node without a server of its own records it, for a start while the server is away.
fn services(
    settings: &Settings,
    client: &Client,
    parts: &mut Parts,
    stopped: &watch::Receiver<bool>,
) -> network::Inputs {
    if settings.server {
        return network::Inputs::start(client, &settings.node_name);
    }
    let record = settings.folder.join("services");
    let inputs = network::Inputs::start_recorded(client, &settings.node_name, &record);
    let keeping = network::keep_services(inputs.clone(), record, stopped.clone());
    parts.add("record of Services", keeping);
    inputs
}

/// Tells the node's address as the uplink has it.
async fn addresses_of(
    uplink: watch::Sender<Option<network::overlay::Uplink>>,
    told: watch::Sender<Vec<IpAddr>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut changes = uplink.subscribe();
    loop {
        if let Some(uplink) = changes.borrow_and_update().as_ref() {
            let now = vec![uplink.address];
            told.send_if_modified(|known| {
                *known != now && {
                    *known = now;
                    true
                }
            });
        }
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// The runtime process, started if none runs.
async fn runtime_process(settings: &Settings) -> Result<Runtime> {
    let run = settings.folder.join("run");
    let config = runtime::process::Config {
        socket: run.join("runtime.sock"),
        state_dir: run.join("state"),
        cgroup_root: settings.flags.cgroup_root.clone(),
    };
    let exe = std::env::current_exe().context("finding this program's file")?;
    let program = runtime::client::Program::copepod(&exe);
    runtime::client::spawn(&program, &config).await.context("starting the runtime process")
}

/// Imports the archives that lie ready, and starts the agent.
async fn start_agent(
    settings: &Settings,
    client: Client,
    runtime: Runtime,
    bridge: BridgeNetwork,
) -> Result<Agent> {
    let folder = settings.folder.clone();
    let images =
        Arc::new(ImageStore::open(&folder.join("image-store")).context("opening the image store")?);
    import(&images, &folder.join("images")).await;
    let config = agent::Config {
        node_name: settings.node_name.clone(),
        data_dir: folder,
        client,
        runtime,
        images,
        pull: pull_options(&settings.flags.private_registry)?,
        network: Arc::new(Bridge(bridge)),
        node_ips: vec![settings.node_ip],
        external_ips: Vec::new(),
        registration: registration(settings)?,
        cluster_dns: vec![settings.shared.cluster_dns],
        cluster_domain: settings.shared.cluster_domain.clone(),
        host_resolv_conf: RESOLV_CONF.into(),
        host_hosts: "/etc/hosts".into(),
        max_pods: MAX_PODS,
        kubelet_version: VERSION.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        kubelet_port: KUBELET_PORT,
    };
    Ok(Agent::start(config).await?)
}

/// The bridge of this node's pods, and what connects it to the other nodes'. What a node that was killed left behind for
/// pods that are gone is taken back.
async fn pod_network(
    settings: &Settings,
    runtime: &Runtime,
) -> Result<(BridgeNetwork, network::overlay::Config)> {
    let shared = &settings.shared;
    let mut overlay = network::overlay::Config {
        node_name: settings.node_name.clone(),
        node_ip: settings.flags.node_ip,
        interface: settings.flags.flannel_iface.clone(),
        backend: network::overlay::Backend::parse(&shared.flannel_backend)?,
        cluster_cidr: shared.cluster_cidr.clone(),
        state_dir: settings.folder.join("overlay"),
        bridge: None,
        uplink: watch::Sender::new(None),
    };
    let mut config = network::Config::new(&settings.folder.join("network"));
    config.cluster_cidr = Some(shared.cluster_cidr.parse()?);
    config.mtu = network::overlay::pod_mtu(&overlay).await.context("preparing the pod network")?;
    let bridge = BridgeNetwork::new(config).context("preparing the pod network")?;
    let sandboxes = runtime.list().await.context("listing sandboxes")?.sandboxes;
    // Recorded pods may be run without the server, at the addresses by which others know them.
    let uids = sandboxes.into_iter().map(|s| s.spec.id);
    let uids = uids.chain(agent::recorded_pods(&settings.folder)).collect();
    bridge.retain(uids).await.context("cleaning the pod network")?;
    overlay.bridge = Some(bridge.clone());
    Ok((bridge, overlay))
}

fn proxy_config(settings: &Settings) -> Result<network::proxy::Config> {
    let shared = &settings.shared;
    let ports = cli::parse_ports(&shared.service_node_port_range)
        .map_err(|why| anyhow!("--service-node-port-range: {why}"))?;
    Ok(network::proxy::Config {
        node_name: settings.node_name.clone(),
        node_ips: vec![settings.node_ip],
        cluster_cidr: shared.cluster_cidr.parse()?,
        service_cidr: shared.service_cidr.parse()?,
        node_ports: ports.0,
        cluster_dns: shared.cluster_dns,
        bridge: network::Config::new(&settings.folder).bridge,
        masquerade_all: false,
    })
}

/// Cluster DNS is served by the node itself, at the cluster's DNS address, from when no other program has the port there.
async fn cluster_dns(shared: Shared, inputs: network::Inputs, mut stopped: watch::Receiver<bool>) {
    let mut backoff = Backoff::new(DNS_RETRY_FIRST, DNS_RETRY_MAX);
    let mut is_told = false;
    loop {
        match bind_dns(&shared).await {
            Ok(dns) => return dns.run_with(&inputs, stopped).await,
            Err(error) if !is_told => warn!("no cluster DNS on this node yet: {error:#}"),
            Err(_) => {}
        }
        is_told = true;
        tokio::select! {
            () = tokio::time::sleep(backoff.failed()) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

async fn bind_dns(shared: &Shared) -> Result<network::dns::Server> {
    let address = shared.cluster_dns;
    network::dns::ensure_address(address).await?;
    let listen = vec![SocketAddr::new(address, network::dns::PORT)];
    let zone = shared.cluster_domain.as_str();
    Ok(network::dns::Server::bind(&network::dns::Config::new(listen, zone, RESOLV_CONF)).await?)
}

/// Ends the agent; containers stay for the next one, unless the machine goes down.
pub(crate) async fn end(agent: Agent, flags: &cli::Node) {
    if flags.machine_ends_file.exists() {
        info!("the machine goes down: stopping pods");
        agent.shutdown_with_pods().await;
    } else {
        agent.shutdown().await;
    }
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

fn updates(settings: &Settings, client: &Client) -> Result<upgrades::Settings> {
    Ok(upgrades::Settings {
        client: client.clone(),
        node_name: settings.node_name.clone(),
        registries: pull_options(&settings.flags.private_registry)?.registries,
        is_server: settings.server,
    })
}

/// Whether a node would start with these; nothing is done.
pub(crate) fn check(flags: &cli::Node) -> Result<()> {
    if let Some(name) = &flags.node_name {
        identity::check_node_name(name)?;
    }
    labels(&flags.node_label)?;
    for text in &flags.node_taint {
        taint(text)?;
    }
    pull_options(&flags.private_registry).map(drop)
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
    let labels = labels(&settings.flags.node_label)?;
    let taints = settings.flags.node_taint.iter().map(|text| taint(text)).collect::<Result<_>>()?;
    Ok(Registration { labels, taints, server: settings.server, ..Default::default() })
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => bail!("--node-label: expected key=value, not {text:?}"),
    };
    texts.iter().map(pair).collect()
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
