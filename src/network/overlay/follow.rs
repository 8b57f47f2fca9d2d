//! Follows the Node objects and the kernel, and brings the two together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use client::{Backoff, Cache, Client, ListParams, Patch, revision_of};
use serde_json::json;
use tracing::{debug, info, warn};

use super::addressing::{Family, Mac, Prefix};
use super::events::Events;
use super::kernel::{Claim, Kernel};
use super::objects::Node;
use super::plan::{State, difference, wanted};
use super::record::Record;
use super::topology::{Frame, Topology};
use super::uplink::{Machine, Wish};
use super::{Backend, Config, Uplink, annotations};
use crate::error::Error;
use crate::worker::{FORWARDING, switch_on};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Name of the tunnel, as flannel has it.
pub(crate) fn tunnel_name(family: Family, backend: Backend) -> String {
    let vni = match backend {
        Backend::Vxlan { vni, .. } => vni,
        Backend::HostGw | Backend::None => 1,
    };
    match family {
        Family::V4 => format!("flannel.{vni}"),
        Family::V6 => format!("flannel-v6.{vni}"),
    }
}

/// The link to the other nodes as it is now.
pub(crate) async fn find_uplink(config: &Config) -> Result<Option<Uplink>, Error> {
    let cluster = config.cluster()?;
    let family = cluster.family();
    let kernel = Kernel::open(family, tunnel_name(family, config.backend))?;
    Ok(Machine::read(kernel.handle(), family).await?.choose(config.wish(cluster)))
}

impl Config {
    fn wish(&self, cluster: Prefix) -> Wish<'_> {
        Wish { address: self.node_ip, interface: self.interface.as_deref(), cluster }
    }
}

/// Until dropped.
pub(crate) async fn follow(client: Client, config: Config) {
    let opened = Follower::open(client, config);
    let (mut follower, events) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            warn!(%error, "pods of other nodes cannot be reached");
            return std::future::pending().await;
        }
    };
    let mut changes = follower.nodes.subscribe();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    // What the kernel has is looked at first, and whenever it says that something changed.
    let mut look = true;
    loop {
        let retry = match follower.reconcile(look).await {
            Ok(()) => {
                backoff.succeeded();
                None
            }
            Err(error) => {
                let delay = backoff.failed_with_jitter();
                warn!(%error, ?delay, "the overlay is not as it should be");
                Some(delay)
            }
        };
        let timer = async {
            match retry {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        look = tokio::select! {
            _ = changes.next() => retry.is_some(),
            () = events.changed() => true,
            () = timer => true,
        };
    }
}

struct Follower {
    config: Config,
    client: Client,
    kernel: Kernel,
    nodes: Cache<Node>,
    cluster: Prefix,
    mac: Mac,
    record: Record,
    remembered: Topology,
    uplink: Option<Uplink>,
    /// What the kernel has, as far as known.
    applied: Option<State>,
    ignored: BTreeMap<String, String>,
    /// Revision of this node with the annotations written last; an older one says nothing new.
    announced: u64,
    /// The mtu the bridge was told.
    mtu: Option<u32>,
}

impl Follower {
    fn open(client: Client, config: Config) -> Result<(Self, Events), Error> {
        config.check()?;
        let cluster = config.cluster()?;
        // Before anything is read, so that no change is missed.
        let events = Events::open()?;
        let kernel = Kernel::open(cluster.family(), tunnel_name(cluster.family(), config.backend))?;
        let mut record = Record::open(&config.state_dir);
        let follower = Self {
            nodes: Cache::start(client.clone(), ListParams::all()),
            mac: Mac::of_node(&config.node_name),
            remembered: record.load().unwrap_or_default(),
            record,
            client,
            config,
            kernel,
            cluster,
            uplink: None,
            applied: None,
            ignored: BTreeMap::new(),
            announced: 0,
            mtu: None,
        };
        Ok((follower, events))
    }

    async fn reconcile(&mut self, look: bool) -> Result<(), Error> {
        if look {
            self.applied = None;
            self.find_uplink().await?;
        }
        // Without an address the others' packets do not arrive anyway; what was set up stays for when it is back.
        let uplink = match (&self.uplink, self.config.backend) {
            (Some(uplink), _) => uplink.clone(),
            (None, Backend::None) => return self.apply(&State::default()).await,
            (None, _) => return Ok(()),
        };
        let mut topology = self.topology();
        let state = wanted(&mut topology, &uplink, self.config.backend, self.mac);
        self.report(&topology);
        if self.applied.as_ref() != Some(&state) {
            self.apply(&state).await?;
            self.applied = Some(state);
        }
        self.tell_bridge(&uplink).await?;
        if self.nodes.is_synced() {
            self.announce(uplink.address).await?;
            self.record.save(&topology)?;
        }
        Ok(())
    }

    async fn find_uplink(&mut self) -> Result<(), Error> {
        let machine = Machine::read(self.kernel.handle(), self.cluster.family()).await?;
        let found = machine.choose(self.config.wish(self.cluster));
        if found == self.uplink {
            return Ok(());
        }
        match &found {
            Some(Uplink { interface, address, mtu, .. }) => {
                info!(interface, %address, mtu, "other nodes reach this one here");
                self.uplink.clone_from(&found);
                self.config.uplink.send_replace(found);
            }
            None => info!("this node has no address for other nodes, waiting for one"),
        }
        Ok(())
    }

    /// What the API says, or said last.
    fn topology(&self) -> Topology {
        if !self.nodes.is_synced() {
            return self.remembered.clone();
        }
        let nodes = self.nodes.list();
        let frame = Frame {
            node_name: &self.config.node_name,
            backend: self.config.backend,
            cluster: self.cluster,
        };
        Topology::of(nodes.iter().map(|node| &**node), frame)
    }

    /// Says once why a node cannot be reached.
    fn report(&mut self, topology: &Topology) {
        for (node, reason) in &topology.ignored {
            if self.ignored.get(node) != Some(reason) {
                info!(node, reason, "pods of this node cannot be reached");
            }
        }
        self.ignored.clone_from(&topology.ignored);
    }

    /// Makes the changes that are needed; one that fails does not keep the others.
    async fn apply(&self, state: &State) -> Result<(), Error> {
        if self.config.backend != Backend::None {
            switch_on(FORWARDING.as_ref()).map_err(Error::file("write", FORWARDING))?;
        }
        let any = matches!(self.config.backend, Backend::Vxlan { .. });
        let found = self.kernel.read(Claim { any, mac: self.mac }).await?;
        let (mut count, mut first) = (0, None);
        for operation in difference(&found, state) {
            debug!(?operation, "changing the overlay");
            if let Err(error) = self.kernel.apply(&operation).await {
                count += 1;
                first.get_or_insert(error);
            }
        }
        match first {
            None => Ok(()),
            Some(only) if count == 1 => Err(only),
            Some(first) => Err(Error::SeveralChanges { count, first: Box::new(first) }),
        }
    }

    async fn tell_bridge(&mut self, uplink: &Uplink) -> Result<(), Error> {
        let mtu = self.config.backend.pod_mtu(uplink.mtu);
        if self.mtu == Some(mtu) {
            return Ok(());
        }
        if let Some(bridge) = &self.config.bridge {
            bridge.set_mtu(mtu).await?;
        }
        self.mtu = Some(mtu);
        Ok(())
    }

    /// Writes this node's annotations where they are not right.
    async fn announce(&mut self, address: IpAddr) -> Result<(), Error> {
        let name = &self.config.node_name;
        let Some(node) = self.nodes.get("", name) else { return Ok(()) };
        let own = annotations::own(&node, address, self.config.backend, self.mac);
        let missing = annotations::missing(&node, own);
        if missing.is_empty() || revision_of(&*node) < self.announced {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"metadata": {"annotations": missing}}));
        match self.client.patch::<Node>("", name, &patch).await {
            Ok(node) => {
                self.announced = revision_of(&node);
                Ok(())
            }
            // It was deleted meanwhile; its next incarnation is announced.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(Error::Announce { node: name.clone(), reason: error.to_string() }),
        }
    }
}
