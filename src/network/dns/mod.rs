//! Cluster DNS: answers names of Services and pods from what the API says, and asks the node's own resolvers for
//! everything else.
//!
//! Deliberately unknown here: which addresses the cluster uses, where pods run, and how packets reach Services.
//!
//! A query goes `server.rs` (sockets) -> `packet.rs` (bytes) -> `resolver.rs`, which asks the pure lookup
//! [`answer`](answer::answer) over the [`Index`](index::Index) first, then `forward.rs` with its `cache.rs`. The index
//! follows the API in `feed.rs`. Start reading at `answer.rs`.

mod address;
mod answer;
mod cache;
mod feed;
mod forward;
mod index;
mod packet;
mod resolv_conf;
mod resolver;
mod server;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use client::{Cache, ListParams};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::inputs::{Service, Slice};

pub use address::{LINK, ensure_address};

/// The port resolvers listen on.
pub const PORT: u16 = 53;
/// How long clients may keep what the cluster's zone says, in seconds.
pub const TTL: u32 = 5;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Served with UDP and TCP. Specific addresses: an answer has to leave from the address the query came to.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub zone: String,
    /// The node's list of resolvers. Changes are followed; while there is no such file, only the zone is answered.
    pub resolv_conf: PathBuf,
    /// The address of cluster DNS and other addresses that lead back here. Never asked as a resolver.
    pub own_addresses: Vec<IpAddr>,
    /// The port of the resolvers.
    pub upstream_port: u16,
    /// The time to live of the zone's records, in seconds.
    pub ttl: u32,
}

impl Config {
    /// The usual configuration: resolvers on port 53.
    pub fn new(
        listen: Vec<SocketAddr>,
        zone: impl Into<String>,
        resolv_conf: impl Into<PathBuf>,
    ) -> Self {
        let own_addresses = listen.iter().map(SocketAddr::ip).collect();
        Self {
            listen,
            zone: zone.into(),
            resolv_conf: resolv_conf.into(),
            own_addresses,
            upstream_port: PORT,
            ttl: TTL,
        }
    }
}

/// Why DNS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("zone {zone:?} is not a domain name")]
    Zone { zone: String },
    #[error("no address to listen on")]
    NoAddress,
    #[error("cannot listen on {protocol} {address}: {source}")]
    Bind { protocol: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("cannot open a netlink socket: {0}")]
    Netlink(std::io::Error),
    #[error("cannot {action}: {source}")]
    Link { action: String, source: std::io::Error },
}

/// DNS whose sockets are bound. Queries wait in them until it runs.
pub struct Server {
    sockets: server::Sockets,
    resolver: Arc<resolver::Resolver>,
}

impl Server {
    /// Binds the sockets, so that what cannot work is known before anything depends on it.
    pub async fn bind(config: &Config) -> Result<Self, Error> {
        let resolver = Arc::new(resolver::Resolver::new(config)?);
        Ok(Self { sockets: server::Sockets::bind(&config.listen).await?, resolver })
    }

    /// Serves until `shutdown` becomes true, or its sender is gone, with caches of its own.
    pub async fn run(self, client: client::Client, shutdown: watch::Receiver<bool>) {
        let services = Cache::start(client.clone(), ListParams::all());
        let slices = Cache::start(client, ListParams::all());
        self.follow(services, slices, shutdown).await;
    }

    /// Like [`run`](Self::run), with caches that others use too.
    pub async fn run_with(self, inputs: &crate::Inputs, shutdown: watch::Receiver<bool>) {
        self.follow(inputs.services.clone(), inputs.slices.clone(), shutdown).await;
    }

    async fn follow(
        self,
        services: Cache<Service>,
        slices: Cache<Slice>,
        shutdown: watch::Receiver<bool>,
    ) {
        let mut tasks = JoinSet::new();
        let index = self.resolver.index();
        tasks.spawn(async move { feed::follow(services, slices, &index).await });
        server::serve(self.sockets, self.resolver, shutdown).await;
        tasks.shutdown().await;
    }
}

/// Binds and serves in one, for callers that need no answer in between.
pub async fn run(
    client: client::Client,
    config: Config,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    Server::bind(&config).await?.run(client, shutdown).await;
    Ok(())
}
