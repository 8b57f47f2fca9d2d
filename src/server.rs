//! `copepod server`: builds the parts, connects them, waits for the end.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use apiserver::{ApiServer, User};
use client::{Caches, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::cli;
use crate::link::{Dialer, InProcess};
use crate::node;
use crate::ranges::ClusterNetwork;

/// Threads that serve requests; more would only cost memory on the boards this is for.
const WORKERS_MAX: usize = 4;

/// Bits of a node's part of the cluster range.
const NODE_MASK: u8 = 24;

/// How long a part may take to stop before the process ends without it.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// What the flags say, checked and completed.
pub(crate) struct Settings {
    pub(crate) flags: cli::Server,
    pub(crate) network: ClusterNetwork,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
}

impl Settings {
    pub(crate) fn resolve(flags: cli::Server) -> Result<Settings> {
        let network =
            ClusterNetwork::resolve(&flags.cluster_cidr, &flags.service_cidr, flags.cluster_dns)?;
        let node_name = match &flags.node.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        if let Some(why) = api::names::dns1123_subdomain(&node_name).first() {
            bail!("--node-name: {node_name:?} cannot name a node: {why}");
        }
        let node_ip =
            flags.node.node_ip.or_else(default_address).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        Ok(Settings { flags, network, node_name, node_ip })
    }

    fn token(&self) -> Result<Option<String>> {
        match (&self.flags.token, &self.flags.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("--token-file {}", file.display()))?;
                Ok(Some(text.trim().to_owned()))
            }
            (None, None) => Ok(None),
        }
    }
}

fn host_name() -> Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host name")?;
    Ok(name.trim().to_lowercase())
}

/// The address with which this machine would reach others; connecting a datagram socket sends nothing.
fn default_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(flags: cli::Server) -> Result<()> {
    let settings = Settings::resolve(flags)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<()> {
    let begin = Instant::now();
    let signals = Signals::new()?;
    let server = settings.flags.data_dir.join("server");
    let (stop, stopped) = watch::channel(false);

    let pki = credentials(&settings, &server.join("tls"))?;
    let token = settings.token()?;
    pki::ensure_token(
        &server.join("token"),
        pki.server_authority.certificate_pem(),
        "server",
        token.as_deref(),
    )
    .context("the join token")?;
    let store = store::Store::open(store::Options {
        path: Some(server.join("db/state.db")),
        durability: apiserver::durability,
        ..Default::default()
    })
    .context("opening the store")?;
    let dialer = Arc::new(Dialer::default());
    let api = ApiServer::new(api_config(&settings, &pki, store.clone(), dialer.clone())).await?;
    let listen = SocketAddr::new(settings.flags.bind_address, settings.flags.https_listen_port);
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}"))?;
    let tls = pki::server_config(&pki.server, pki.client_authority.certificate_pem())?;
    write_kubeconfig(&settings, &pki)?;

    let mut parts = Parts::default();
    let serving = api.clone();
    parts.add("API server", serving.serve(listener, tls, stopped.clone()));
    let manager = client_as(&api, "system:kube-controller-manager", &[]);
    let caches = Caches::start(&manager);
    let inputs = scheduler::Inputs::shared(&caches);
    let config = controllers_config(&settings, &pki)?;
    parts.add("controllers", controllers::run_with(manager, caches, config, stopped.clone()));
    let scheduler = client_as(&api, "system:kube-scheduler", &[]);
    parts.add("scheduler", scheduler::run_with(scheduler, inputs, stopped.clone()));
    info!(address = %listen, elapsed = ?begin.elapsed(), "API server is ready");

    let agent = start_node(&settings, &api, &dialer, &mut parts, &stopped).await?;
    info!(elapsed = ?begin.elapsed(), node = %settings.node_name, "copepod is up");

    let ended = tokio::select! {
        signal = signals.wait() => { info!(signal, "stopping"); None }
        part = parts.ended() => part,
    };
    if let Some(agent) = agent {
        agent.shutdown().await;
    }
    let _ = stop.send(true);
    parts.finish().await;
    drop((api, dialer));
    store.close().await;
    info!("stopped");
    match ended {
        Some(part) => bail!("the {part} ended by itself"),
        None => Ok(()),
    }
}

/// Starts the node agent and what else every node runs, unless the flags say there is none.
async fn start_node(
    settings: &Settings,
    api: &Arc<ApiServer>,
    dialer: &Dialer,
    parts: &mut Parts,
    stopped: &watch::Receiver<bool>,
) -> Result<Option<agent::Agent>> {
    if settings.flags.disable_agent {
        return Ok(None);
    }
    let user = format!("system:node:{}", settings.node_name);
    let client = client_as(api, &user, &["system:nodes"]);
    let agent = node::start(settings, client.clone()).await?;
    match node::cluster_dns(settings).await {
        Ok(dns) => parts.add("cluster DNS", dns.run(client, stopped.clone())),
        Err(error) => warn!("no cluster DNS on this node: {error:#}"),
    }
    dialer.set(&settings.node_name, agent.kubelet());
    Ok(Some(agent))
}

fn credentials(settings: &Settings, folder: &Path) -> Result<pki::ServerPki> {
    let flags = &settings.flags;
    let ips = [Some(settings.node_ip), flags.advertise_address, Some(flags.bind_address)];
    let names = pki::ServerNames {
        node_name: settings.node_name.clone(),
        cluster_domain: flags.cluster_domain.clone(),
        service_ip: settings.network.kubernetes,
        ips: ips.into_iter().flatten().filter(|ip| !ip.is_unspecified()).collect(),
        extra: flags.tls_san.clone(),
        leaf_seconds: pki::LEAF_SECONDS,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    pki::ensure(folder, &names, i64::try_from(now).unwrap_or(i64::MAX))
        .context("preparing certificates")
}

fn api_config(
    settings: &Settings,
    pki: &pki::ServerPki,
    store: store::Store,
    dialer: Arc<Dialer>,
) -> apiserver::Config {
    let flags = &settings.flags;
    let advertise = flags.advertise_address.unwrap_or(settings.node_ip);
    apiserver::Config {
        store,
        service_account_keys: pki.service_account.clone(),
        service_cidr: flags.service_cidr.clone(),
        node_ports: 30000..=32767,
        cluster_domain: flags.cluster_domain.clone(),
        advertise: SocketAddr::new(advertise, flags.https_listen_port),
        cluster_dns: Some(settings.network.dns),
        server_node: Some(settings.node_name.clone()),
        dialer,
        supervisor: None,
        limits: apiserver::Limits::default(),
    }
}

fn controllers_config(settings: &Settings, pki: &pki::ServerPki) -> Result<controllers::Config> {
    let root_ca = pki.server_authority.certificate_pem().to_owned();
    let range = settings.flags.cluster_cidr.parse()?;
    let config = controllers::Config::new(range, NODE_MASK, root_ca);
    Ok(controllers::Config { cluster_dns: Some(settings.network.dns), ..config })
}

fn write_kubeconfig(settings: &Settings, pki: &pki::ServerPki) -> Result<()> {
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

/// The parts that run until the end, by name.
#[derive(Default)]
struct Parts {
    set: JoinSet<&'static str>,
}

impl Parts {
    fn add<T: Send + 'static>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = T> + Send + 'static,
    ) {
        self.set.spawn(async move {
            part.await;
            name
        });
    }

    /// Waits until one ends, which none should before it is told to.
    async fn ended(&mut self) -> Option<&'static str> {
        match self.set.join_next().await {
            Some(Ok(name)) => Some(name),
            _ => Some("failed part"),
        }
    }

    async fn finish(mut self) {
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            error!("a part did not stop within {STOP_PATIENCE:?}");
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let handler = |kind| signal(kind).context("installing a signal handler");
        Ok(Signals {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
        })
    }

    async fn wait(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
