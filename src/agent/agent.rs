//! Puts the parts together and owns their tasks.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::context::Context;
use crate::error::Error;
use crate::node;
use crate::node_facts;
use crate::pods::{self, Directory};
use crate::server::KubeletApi;
use crate::volumes::place;

/// A running agent. Dropping it ends the agent's work; containers go on, for the next agent to adopt.
pub struct Agent {
    kubelet: KubeletApi,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Starts the agent: it registers the node, adopts what runs, and follows the pods bound to the node.
    pub async fn start(config: Config) -> Result<Agent, Error> {
        for directory in [config.data_dir.join("pods"), config.data_dir.join("logs").join("pods")] {
            place::make_directory(&directory, 0o755)
                .map_err(|source| Error::Directory { path: directory.clone(), source })?;
        }
        config.runtime.version().await.map_err(Error::Runtime)?;
        let facts =
            node_facts::read(&config.data_dir, &config.kubelet_version, &config.runtime_version);
        let (ready, network_ready) = watch::channel(config.network.ready());
        let ctx = Arc::new(Context::new(config, facts, network_ready));
        let directory = Directory::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(node::run(Arc::clone(&ctx), ready));
        tasks.spawn(node::keep_lease(Arc::clone(&ctx)));
        tasks.spawn(pods::run(Arc::clone(&ctx), directory.clone()));
        Ok(Agent { kubelet: KubeletApi::new(ctx, directory), tasks })
    }

    /// The kubelet's HTTP API of this agent.
    pub fn kubelet(&self) -> KubeletApi {
        self.kubelet.clone()
    }

    /// Ends all tasks and waits for them. Containers are left running.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}
