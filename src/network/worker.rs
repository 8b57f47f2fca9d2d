//! The thread that owns the network's state. It does one thing after the other: pods come one by one, and no lock is held
//! while the kernel works.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot, watch};

use crate::addresses::Cidr;
use crate::bridge::{Config, PodAddresses};
use crate::error::Error;
use crate::links::{self, Links, PodLink};
use crate::masquerade;
use crate::pool::{LINK_PREFIX, Pool};

pub(crate) const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Lets nftables see what passes the bridge; there only with the module br_netfilter.
const BRIDGE_CALLS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// What the handle asks for, and where the answer goes.
pub(crate) enum Command {
    SetCidr { cidr: Cidr, answer: oneshot::Sender<Result<(), Error>> },
    SetMtu { mtu: u32, answer: oneshot::Sender<Result<(), Error>> },
    Attach { uid: String, netns: PathBuf, answer: oneshot::Sender<Result<PodAddresses, Error>> },
    Detach { uid: String, answer: oneshot::Sender<Result<(), Error>> },
    Retain { uids: BTreeSet<String>, answer: oneshot::Sender<Result<Vec<String>, Error>> },
}

pub(crate) struct Worker {
    config: Config,
    pool: Pool,
    links: Links,
    /// Range and index of the bridge, once it is up.
    bridge: Option<(Cidr, u32)>,
    ready: watch::Sender<bool>,
    warned: bool,
}

impl Worker {
    /// To be called inside the thread's runtime.
    pub(crate) fn new(config: Config, ready: watch::Sender<bool>) -> Result<Self, Error> {
        let pool = Pool::open(&config.state_dir)?;
        Ok(Self { config, pool, links: Links::open()?, bridge: None, ready, warned: false })
    }

    /// Until the last handle is gone. An answer nobody waits for any more is no error.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::SetCidr { cidr, answer } => drop(answer.send(self.set_cidr(cidr).await)),
                Command::SetMtu { mtu, answer } => drop(answer.send(self.set_mtu(mtu).await)),
                Command::Attach { uid, netns, answer } => {
                    drop(answer.send(self.attach(&uid, &netns).await))
                }
                Command::Detach { uid, answer } => drop(answer.send(self.detach(&uid).await)),
                Command::Retain { uids, answer } => drop(answer.send(self.retain(&uids).await)),
            }
        }
    }

    async fn set_cidr(&mut self, cidr: Cidr) -> Result<(), Error> {
        let index = self.links.ensure_bridge(&self.config.bridge, cidr, self.config.mtu).await?;
        switch_on(Path::new(FORWARDING)).map_err(Error::file("write", FORWARDING))?;
        self.switch_off_redirects()?;
        match switch_on(Path::new(BRIDGE_CALLS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("write", BRIDGE_CALLS)(error));
            }
            _ => {}
        }
        self.masquerade(cidr)?;
        self.bridge = Some((cidr, index));
        self.ready.send_replace(true);
        Ok(())
    }

    /// Pods of this node reach each other through the node, and must not be told of a shorter way.
    fn switch_off_redirects(&self) -> Result<(), Error> {
        for link in ["all", &self.config.bridge] {
            let path = format!("/proc/sys/net/ipv4/conf/{link}/send_redirects");
            fs::write(&path, "0").map_err(Error::file("write", path))?;
        }
        Ok(())
    }

    /// For the bridge and for pods that come: an interface that a pod uses is not touched.
    async fn set_mtu(&mut self, mtu: u32) -> Result<(), Error> {
        self.config.mtu = mtu;
        if let Some((cidr, _)) = self.bridge {
            let index = self.links.ensure_bridge(&self.config.bridge, cidr, mtu).await?;
            self.bridge = Some((cidr, index));
        }
        Ok(())
    }

    fn masquerade(&mut self, cidr: Cidr) -> Result<(), Error> {
        let done = if self.config.masquerade {
            masquerade::install(cidr, self.config.cluster_cidr.unwrap_or(cidr))
        } else {
            masquerade::remove()
        };
        match done {
            Err(error) if masquerade::is_missing(&error) => {
                if self.config.masquerade && !self.warned {
                    tracing::warn!(%error, "the kernel has no nftables with address translation: pods reach nothing outside of the cluster");
                    self.warned = true;
                }
                Ok(())
            }
            Err(source) => Err(Error::Nftables { table: masquerade::TABLE, source }),
            Ok(()) => Ok(()),
        }
    }

    /// Connects a pod, again if need be: a pod that is connected keeps what it has.
    async fn attach(&mut self, uid: &str, netns: &Path) -> Result<PodAddresses, Error> {
        let (cidr, bridge) = self.bridge.ok_or(Error::NoCidr)?;
        let bridge = self.current_bridge(cidr, bridge).await?;
        let known = self.pool.get(uid).cloned();
        let allocation = self.pool.allocate(uid, cidr)?;
        let addresses = PodAddresses { ips: vec![allocation.address.into()] };
        let known = known.is_some_and(|known| known == allocation);
        if known
            && self.links.find(&allocation.link).await?.is_some()
            && links::is_configured(netns, allocation.address)?
        {
            return Ok(addresses);
        }
        let pod = PodLink {
            host_name: &allocation.link,
            address: allocation.address,
            cidr,
            mtu: self.config.mtu,
        };
        if let Err(error) = self.connect(&pod, bridge, netns).await {
            // The first error is the one that matters; what is left over is found by `retain`.
            drop(self.links.delete(pod.host_name).await);
            if !known {
                drop(self.pool.release(uid));
            }
            return Err(error);
        }
        if !known {
            self.settle(uid);
        }
        Ok(addresses)
    }

    /// Lets an address outlive a power cut: after a reboot without the server, Services are to lead to it again. They are not
    /// recorded as soon as this, so nobody waits for it.
    fn settle(&self, uid: &str) {
        let path = self.pool.path(uid);
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = sys::files::settle(&path) {
                tracing::warn!(path = %path.display(), %error, "a power cut may cost a pod its address");
            }
        }));
    }

    /// The bridge may have been deleted by somebody else; then it is made again.
    async fn current_bridge(&mut self, cidr: Cidr, index: u32) -> Result<u32, Error> {
        if self.links.find(&self.config.bridge).await?.is_some_and(|bridge| bridge.index == index) {
            return Ok(index);
        }
        tracing::warn!(bridge = %self.config.bridge, "the bridge is gone, making it again");
        self.set_cidr(cidr).await?;
        self.bridge.map(|(_, index)| index).ok_or(Error::NoCidr)
    }

    async fn connect(&self, pod: &PodLink<'_>, bridge: u32, netns: &Path) -> Result<(), Error> {
        let namespace = File::open(netns).map_err(Error::file("open network namespace", netns))?;
        links::clear(netns)?;
        self.links.add_pair(pod, bridge, &namespace).await?;
        links::configure(netns, pod.address, pod.cidr)
    }

    async fn detach(&mut self, uid: &str) -> Result<(), Error> {
        if let Some(allocation) = self.pool.get(uid) {
            self.links.delete(&allocation.link).await?;
        }
        self.pool.release(uid)
    }

    /// Goes on after an error, so that one pod does not keep the others.
    async fn retain(&mut self, uids: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let gone: Vec<String> = self
            .pool
            .all()
            .map(|allocation| &allocation.uid)
            .filter(|uid| !uids.contains(*uid))
            .cloned()
            .collect();
        let mut errors = Vec::new();
        for uid in &gone {
            errors.extend(self.detach(uid).await.err());
        }
        errors.extend(self.delete_strays().await.err());
        let count = errors.len();
        match errors.into_iter().next() {
            None => Ok(gone),
            Some(only) if count == 1 => Err(only),
            Some(first) => Err(Error::Several { count, first: Box::new(first) }),
        }
    }

    /// Ports of the bridge that belong to no pod, from a crash between making a pair and writing it down.
    async fn delete_strays(&self) -> Result<(), Error> {
        let Some(bridge) = self.links.find(&self.config.bridge).await? else { return Ok(()) };
        let known: BTreeSet<&str> =
            self.pool.all().map(|allocation| allocation.link.as_str()).collect();
        for port in self.links.ports(bridge.index).await? {
            if port.name.starts_with(LINK_PREFIX) && !known.contains(port.name.as_str()) {
                self.links.delete(&port.name).await?;
            }
        }
        Ok(())
    }
}

/// Writes a one unless there is one.
pub(crate) fn switch_on(path: &Path) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() == "1" { Ok(()) } else { fs::write(path, "1") }
}
