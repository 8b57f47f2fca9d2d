//! Puts the parts together and owns their tasks.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::context::Context;
use crate::error::Error;
use crate::machine_end;
use crate::node;
use crate::node_facts;
use crate::paths::Paths;
use crate::pods::{self, Directory};
use crate::record::{Loaded, Store};
use crate::server::KubeletApi;
use crate::volumes::place;

/// A running agent. Dropping it ends the agent's work; containers go on, for the next agent to adopt.
pub struct Agent {
    ctx: Arc<Context>,
    directory: Directory,
    kubelet: KubeletApi,
    addresses: watch::Sender<Vec<IpAddr>>,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Starts the agent: it registers the node, adopts what runs, and follows the pods bound to the node. It needs the
    /// runtime, but not the API server: while that does not answer, the pods of the node's record are run.
    pub async fn start(config: Config) -> Result<Agent, Error> {
        for directory in [config.data_dir.join("pods"), config.data_dir.join("logs").join("pods")] {
            place::make_private(&directory)
                .map_err(|source| Error::Directory { path: directory.clone(), source })?;
        }
        let (record, found) = open_record(Paths::new(&config.data_dir).record()).await?;
        config.runtime.version().await.map_err(Error::Runtime)?;
        let facts =
            node_facts::read(&config.data_dir, &config.kubelet_version, &config.runtime_version);
        let (ready, network_ready) = watch::channel(config.network.ready());
        let (addresses, addresses_seen) = watch::channel(config.node_ips.clone());
        let ctx = Arc::new(Context::new(config, facts, record, network_ready, addresses_seen));
        let directory = Directory::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(node::run(Arc::clone(&ctx), ready, found.node));
        tasks.spawn(node::keep_lease(Arc::clone(&ctx)));
        tasks.spawn(pods::run(Arc::clone(&ctx), directory.clone(), found.pods));
        let kubelet = KubeletApi::new(Arc::clone(&ctx), directory.clone());
        Ok(Agent { ctx, directory, kubelet, addresses, tasks })
    }

    /// Follows the node's addresses while it runs; the preferred one comes first.
    pub fn follow_addresses(&mut self, mut source: watch::Receiver<Vec<IpAddr>>) {
        let addresses = self.addresses.clone();
        self.tasks.spawn(async move {
            loop {
                let now = source.borrow_and_update().clone();
                addresses.send_if_modified(|known| {
                    let changed = *known != now && !now.is_empty();
                    if changed {
                        *known = now;
                    }
                    changed
                });
                if source.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// The kubelet's HTTP API of this agent.
    pub fn kubelet(&self) -> KubeletApi {
        self.kubelet.clone()
    }

    /// Ends all tasks and waits for them. Containers are left running.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }

    /// Ends all tasks, then stops the containers in order within their grace: the machine goes down.
    pub async fn shutdown_with_pods(mut self) {
        let views = self.directory.list();
        self.tasks.shutdown().await;
        machine_end::stop_all(&self.ctx, &views).await;
    }
}

async fn open_record(path: PathBuf) -> Result<(Arc<Store>, Loaded), Error> {
    let folder = path.clone();
    let work = move || {
        let store = Store::open(&folder)?;
        let loaded = store.load();
        Ok((Arc::new(store), loaded))
    };
    let opened = tokio::task::spawn_blocking(work).await;
    opened
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(|source| Error::Record { path, source })
}
