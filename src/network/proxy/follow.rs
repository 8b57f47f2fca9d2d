//! The loop: changes of the caches become transactions, no more often than [`INTERVAL`] allows.

use std::time::Duration;

use client::{Backoff, Change, Subscription};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::engine::Engine;
use super::health::Health;
use super::kernel::{Error, Kernel};
use super::{Config, Node, route, settings};
use crate::Inputs;
use crate::inputs::{Node as NodeObject, Pod, Service, Slice};
use crate::nft::Family;

/// The first change is applied at once, what follows within this time together.
const INTERVAL: Duration = Duration::from_millis(20);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// How long the rules of a previous process stay while the server has not said everything, once Services are known.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the kernel's rules as the caches say, until `stopped` becomes true or its sender is gone. The rules stay.
///
/// Works in the network namespace of the thread that polls it first.
pub async fn run(inputs: Inputs, config: Config, mut stopped: watch::Receiver<bool>) {
    let kernel = match Kernel::open(Family::V4) {
        Ok(kernel) => kernel,
        Err(error) => {
            tracing::warn!(%error, "Services are not routed: no netlink socket to netfilter");
            return drop(stopped.wait_for(|stopped| *stopped).await);
        }
    };
    settings::quiet_redirects(&config.bridge);
    settings::reserve_ports(&config.node_ports);
    route::ensure(config.service_cidr).await;
    let mut follower = Follower::new(&inputs, config, kernel);
    let asked = tokio::select! {
        // Whatever ends the sender ends this too.
        _ = stopped.wait_for(|stopped| *stopped) => true,
        () = follower.follow(&inputs) => false,
    };
    if !asked {
        drop(stopped.wait_for(|stopped| *stopped).await);
    }
}

struct Follower {
    config: Config,
    services: Subscription<Service>,
    slices: Subscription<Slice>,
    pods: Subscription<Pod>,
    nodes: Subscription<NodeObject>,
    engine: Engine,
    /// Away while a transaction is under way.
    kernel: Option<Kernel>,
    health: Health,
}

impl Follower {
    fn new(inputs: &Inputs, config: Config, kernel: Kernel) -> Self {
        Self {
            services: inputs.services.subscribe(),
            slices: inputs.slices.subscribe(),
            pods: inputs.pods.subscribe(),
            nodes: inputs.nodes.subscribe(),
            engine: Engine::new(Node::new(&config)),
            kernel: Some(kernel),
            health: Health::default(),
            config,
        }
    }

    /// Ends only when the kernel cannot do it.
    async fn follow(&mut self, inputs: &Inputs) {
        self.begin(inputs).await;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
        let mut earliest = Instant::now();
        loop {
            while !self.engine.is_dirty() {
                self.take_one().await;
            }
            self.take_until(earliest).await;
            earliest = Instant::now() + INTERVAL;
            match self.update().await {
                Ok(()) => backoff.succeeded(),
                Err(Error::Missing(error)) => {
                    tracing::warn!(%error, "Services are not routed: the kernel has no nftables with address translation");
                    return;
                }
                Err(error) => {
                    let delay = backoff.failed_with_jitter();
                    tracing::warn!(%error, ?delay, "failed to update the rules of Services, retrying");
                    self.take_until(Instant::now() + delay).await;
                    self.engine.set_node_dirty();
                }
            }
        }
    }

    /// Waits until enough is known: what a previous process left is replaced by the whole, not by a part.
    async fn begin(&mut self, inputs: &Inputs) {
        inputs.services.synced().await;
        inputs.slices.synced().await;
        if timeout(PATIENCE, inputs.heard()).await.is_err() {
            tracing::warn!(
                "the server has not said all of this node, its pods and the Services, going on with what is known"
            );
        }
        self.reset_services();
        self.engine.reset_slices(self.slices.cache().list());
        self.engine.reset_pods(self.pods.cache().list());
        self.reset_node();
    }

    async fn take_until(&mut self, end: Instant) {
        loop {
            tokio::select! {
                biased;
                () = self.take_one() => {}
                () = sleep_until(end) => return,
            }
        }
    }

    async fn take_one(&mut self) {
        tokio::select! {
            change = self.services.next() => match change {
                Change::Resync => self.reset_services(),
                Change::Object { key, old, new } => {
                    warn_of_other_families(&key, old.as_deref(), new.as_deref());
                    self.engine.change_service(&key, new);
                }
            },
            change = self.slices.next() => match change {
                Change::Resync => self.engine.reset_slices(self.slices.cache().list()),
                Change::Object { key, old, new } => {
                    self.engine.change_slice(&key, old.as_deref(), new);
                }
            },
            change = self.pods.next() => match change {
                Change::Resync => self.engine.reset_pods(self.pods.cache().list()),
                Change::Object { key, new, .. } => self.engine.change_pod(&key, new),
            },
            _ = self.nodes.next() => self.reset_node(),
        }
    }

    fn reset_services(&mut self) {
        let services = self.services.cache().list();
        for service in &services {
            warn_of_other_families(&client::key_of(&**service), None, Some(service));
        }
        self.engine.reset_services(services);
    }

    fn reset_node(&mut self) {
        let object = self.nodes.cache().get("", &self.config.node_name);
        self.engine.set_node(Node::with(&self.config, object.as_deref()));
    }

    /// The exchange with the kernel takes as long as the change is large, so it has a thread of its own.
    async fn update(&mut self) -> Result<(), Error> {
        let Some(mut kernel) = self.kernel.take() else { return Ok(()) };
        let start = Instant::now();
        let update = kernel.prepare(&mut self.engine);
        let done = tokio::task::spawn_blocking(move || {
            let sent = kernel.apply(update);
            (kernel, sent)
        });
        let (kernel, sent) = match done.await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "the update of the rules of Services did not end");
                return std::future::pending().await;
            }
        };
        self.kernel = Some(kernel);
        let sent = sent?;
        tracing::debug!(?sent, took = ?start.elapsed(), "rules of Services updated");
        self.health.set(self.engine.health());
        Ok(())
    }
}

fn warn_of_other_families(key: &client::Key, old: Option<&Service>, new: Option<&Service>) {
    let others = |service: Option<&Service>| {
        let addresses = service.map(|service| service.addresses.to_vec()).unwrap_or_default();
        addresses.into_iter().find(std::net::IpAddr::is_ipv6)
    };
    let (before, after) = (others(old), others(new));
    if let Some(address) = after.filter(|_| before != after) {
        let (namespace, name) = (&key.0, &key.1);
        tracing::warn!(namespace, name, %address, "IPv6 addresses of Services are not routed on this node");
    }
}
