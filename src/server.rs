//! `copepod server`: builds the parts, connects them, waits for the end.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use apiserver::{ApiServer, User};
use client::{Caches, Client};
use cluster::{Shared, Supervisor, SupervisorConfig, Tokens};
use tokio::sync::watch;
use tracing::info;

use crate::link::{Dialer, Front, InProcess};
use crate::parts::{Parts, Signals, runtime};
use crate::ranges::ClusterNetwork;
use crate::{cli, identity, node, renewal};

/// Bits of a node's part of the cluster range.
const NODE_MASK: u8 = 24;
/// More writes than a board takes in the longest trial of an update, an hour.
const TRIAL_REVISIONS_MAX: u64 = 1 << 32;

/// What the flags say, checked and completed.
pub(crate) struct Settings {
    pub(crate) flags: cli::Server,
    pub(crate) network: ClusterNetwork,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
}

impl Settings {
    fn resolve(flags: cli::Server) -> Result<Settings> {
        let network =
            ClusterNetwork::resolve(&flags.cluster_cidr, &flags.service_cidr, flags.cluster_dns)?;
        let node_name = identity::node_name(&flags.node, &flags.data_dir.join("agent"))?;
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let node_ip =
            flags.node.node_ip.or_else(|| identity::default_address(None)).unwrap_or(loopback);
        network::overlay::Backend::parse(&flags.flannel_backend).context("--flannel-backend")?;
        Ok(Settings { flags, network, node_name, node_ip })
    }

    fn tokens(&self, authority_pem: &str) -> Result<Tokens> {
        let flags = &self.flags;
        let server =
            identity::token(flags.token.as_ref(), flags.token_file.as_deref(), "--token-file")?;
        let (token, file) = (flags.agent_token.as_ref(), flags.agent_token_file.as_deref());
        let agent = identity::token(token, file, "--agent-token-file")?;
        let folder = flags.data_dir.join("server");
        Tokens::ensure(&folder, authority_pem, server.as_deref(), agent.as_deref())
            .context("the join tokens")
    }

    /// What agents take from the server.
    fn shared(&self) -> Shared {
        Shared {
            cluster_cidr: self.flags.cluster_cidr.clone(),
            service_cidr: self.flags.service_cidr.clone(),
            cluster_dns: self.network.dns,
            cluster_domain: self.flags.cluster_domain.clone(),
            flannel_backend: self.flags.flannel_backend.clone(),
            service_node_port_range: self.flags.service_node_port_range.to_string(),
            disable_kube_proxy: self.flags.disable_kube_proxy,
        }
    }

    /// Where others reach the server when its node has this address.
    pub(crate) fn advertise(&self, node_ip: IpAddr) -> SocketAddr {
        let address = self.flags.advertise_address.unwrap_or(node_ip);
        SocketAddr::new(address, self.flags.https_listen_port)
    }

    /// What the server may be called when its node has this address.
    fn names(&self, node_ip: IpAddr) -> pki::ServerNames {
        let flags = &self.flags;
        let ips = [Some(node_ip), flags.advertise_address, Some(flags.bind_address)];
        pki::ServerNames {
            node_name: self.node_name.clone(),
            cluster_domain: flags.cluster_domain.clone(),
            service_ip: self.network.kubernetes,
            ips: ips.into_iter().flatten().filter(|ip| !ip.is_unspecified()).collect(),
            extra: flags.tls_san.clone(),
            leaf_seconds: flags.certificate_seconds,
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(flags: cli::Server) -> Result<()> {
    let settings = Settings::resolve(flags)?;
    runtime()?.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<()> {
    let begin = Instant::now();
    let mut signals = Signals::new()?;
    let (stop, stopped) = watch::channel(false);
    let settings = Arc::new(settings);

    let pki = Arc::new(credentials(&settings, settings.node_ip)?);
    let supervisor = supervisor(&settings, &pki)?;
    let store = open_store(&settings.flags.data_dir)?;
    let dialer = Arc::new(Dialer::new(supervisor.clone()));
    let front = Arc::new(Front(supervisor.clone()));
    let config = api_config(&settings, &pki, store.clone(), dialer.clone(), front);
    let api = ApiServer::new(config).await?;
    let own = client_as(&api, "system:copepod:supervisor", &["system:masters"]);
    supervisor.set_client(own.clone());
    let listen = SocketAddr::new(settings.flags.bind_address, settings.flags.https_listen_port);
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}"))?;
    let shown = pki::ServingCertificate::new(&pki.server)?;
    let tls = pki::server_config_of(shown.clone(), pki.client_authority.certificate_pem())?;
    write_kubeconfig(&settings, &pki)?;

    let mut parts = Parts::default();
    let serving = api.clone();
    parts.add("API server", serving.serve(listener, tls, stopped.clone()));
    parts.add("supervisor", cluster::upkeep(own, stopped.clone()));
    let root_ca = pki.server_authority.certificate_pem().to_owned();
    let mut controllers = controllers_config(&settings.flags, root_ca)?;
    controllers.cluster_dns = Some(settings.network.dns);
    start_controllers(&api, controllers, &mut parts, &stopped);
    parts.add("manifests", manifests::run(manifests_config(&settings, &api), stopped.clone()));
    info!(address = %listen, elapsed = ?begin.elapsed(), "API server is ready");

    let node = start_node(&settings, &api, &dialer, &mut parts, &stopped).await?;
    let addresses = node.as_ref().map(|node| node.addresses.clone());
    let renewal = renewal::run(settings.clone(), api.clone(), shown, addresses, stopped.clone());
    parts.add("certificates", renewal);
    info!(elapsed = ?begin.elapsed(), node = %settings.node_name, "copepod is up");

    let ended = tokio::select! {
        signal = signals.wait() => { info!(signal, "stopping"); None }
        part = parts.ended() => part,
    };
    if let Some(node) = node {
        node::end(node.agent, &settings.flags.node).await;
    }
    let _ = stop.send(true);
    supervisor.close();
    parts.finish().await;
    drop((api, dialer));
    store.close().await;
    info!("stopped");
    match ended {
        Some(part) => bail!("the {part} ended by itself"),
        None => Ok(()),
    }
}

/// Opens the datastore. One that an update's fall-back has put back gives out no revision that the given-up version has
/// told anybody: who watches from there must not take new writes for old ones.
fn open_store(data: &Path) -> Result<store::Store> {
    let was_put_back = ota::was_put_back(data);
    let store = store::Store::open(store::Options {
        path: Some(data.join("server/db/state.db")),
        durability: apiserver::durability,
        skip_revisions: if was_put_back { TRIAL_REVISIONS_MAX } else { 0 },
        ..Default::default()
    })
    .context("opening the store")?;
    if was_put_back {
        ota::clear_put_back_mark(data).context("the datastore that was put back")?;
    }
    Ok(store)
}

/// Starts the controllers and the scheduler over one set of caches.
fn start_controllers(
    api: &Arc<ApiServer>,
    config: controllers::Config,
    parts: &mut Parts,
    stopped: &watch::Receiver<bool>,
) {
    let manager = client_as(api, "system:kube-controller-manager", &[]);
    let caches = Caches::start(&manager);
    let inputs = scheduler::Inputs::shared(&caches);
    parts.add("controllers", controllers::run_with(manager, caches, config, stopped.clone()));
    let scheduler = client_as(api, "system:kube-scheduler", &[]);
    parts.add("scheduler", scheduler::run_with(scheduler, inputs, stopped.clone()));
}

/// Starts what every node runs, unless the flags say there is none.
async fn start_node(
    settings: &Settings,
    api: &Arc<ApiServer>,
    dialer: &Dialer,
    parts: &mut Parts,
    stopped: &watch::Receiver<bool>,
) -> Result<Option<node::Started>> {
    if settings.flags.disable_agent {
        return Ok(None);
    }
    let user = format!("system:node:{}", settings.node_name);
    let client = client_as(api, &user, &["system:nodes"]);
    let node = node::Settings {
        node_name: settings.node_name.clone(),
        node_ip: settings.node_ip,
        folder: settings.flags.data_dir.join("agent"),
        flags: settings.flags.node.clone(),
        shared: settings.shared(),
        server: true,
    };
    let started = node::start(&node, client, parts, stopped).await?;
    dialer.set(&settings.node_name, started.agent.kubelet());
    Ok(Some(started))
}

fn supervisor(settings: &Settings, pki: &Arc<pki::ServerPki>) -> Result<Arc<Supervisor>> {
    let config = SupervisorConfig {
        pki: pki.clone(),
        tokens: settings.tokens(pki.server_authority.certificate_pem())?,
        shared: settings.shared(),
        advertise: settings.advertise(settings.node_ip).to_string(),
        leaf_seconds: settings.flags.certificate_seconds,
    };
    Supervisor::new(config).context("preparing the supervisor")
}

/// The credentials of a server whose node has this address: what is missing, is near its end or no longer fits is made.
pub(crate) fn credentials(settings: &Settings, node_ip: IpAddr) -> Result<pki::ServerPki> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let folder = settings.flags.data_dir.join("server/tls");
    pki::ensure(&folder, &settings.names(node_ip), i64::try_from(now).unwrap_or(i64::MAX))
        .context("preparing certificates")
}

fn api_config(
    settings: &Settings,
    pki: &pki::ServerPki,
    store: store::Store,
    dialer: Arc<Dialer>,
    front: Arc<Front>,
) -> apiserver::Config {
    let flags = &settings.flags;
    apiserver::Config {
        store,
        service_account_keys: pki.service_account.clone(),
        service_cidr: flags.service_cidr.clone(),
        node_ports: flags.service_node_port_range.0.clone(),
        cluster_domain: flags.cluster_domain.clone(),
        advertise: settings.advertise(settings.node_ip),
        cluster_dns: Some(settings.network.dns),
        server_node: Some(settings.node_name.clone()),
        dialer,
        supervisor: Some(front),
        limits: apiserver::Limits::default(),
    }
}

/// What the flags say of the controllers.
pub(crate) fn controllers_config(
    flags: &cli::Server,
    root_ca: String,
) -> Result<controllers::Config> {
    let range = flags.cluster_cidr.parse()?;
    let mut config = controllers::Config::new(range, NODE_MASK, root_ca);
    for argument in &flags.kube_controller_manager_arg {
        config.set(argument).context("--kube-controller-manager-arg")?;
    }
    Ok(config)
}

fn manifests_config(settings: &Settings, api: &Arc<ApiServer>) -> manifests::Config {
    manifests::Config {
        client: client_as(api, "system:copepod:deploy", &["system:masters"]),
        folder: settings.flags.data_dir.join("server/manifests"),
        disabled: settings.flags.disable.clone(),
    }
}

/// Writes the administrator's kubeconfig.
pub(crate) fn write_kubeconfig(settings: &Settings, pki: &pki::ServerPki) -> Result<()> {
    let flags = &settings.flags;
    let server = format!("https://127.0.0.1:{}", flags.https_listen_port);
    pki::write_kubeconfig(
        &flags.write_kubeconfig,
        &server,
        pki.server_authority.certificate_pem(),
        &pki::Credentials::Certificate(&pki.admin),
        flags.write_kubeconfig_mode,
    )
    .with_context(|| format!("--write-kubeconfig {}", flags.write_kubeconfig.display()))
}

fn client_as(api: &Arc<ApiServer>, user: &str, groups: &[&str]) -> Client {
    Client::new(Arc::new(InProcess::new(api.clone(), User::component(user, groups))))
}
