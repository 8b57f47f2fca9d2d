//! The handle to the pod network, and the thread behind it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

use crate::addresses::Cidr;
use crate::error::Error;
use crate::worker::{Command, Worker};

/// Requests waiting for the network thread; more callers wait in line.
const COMMANDS_WAITING_MAX: usize = 64;
/// Longest name the kernel gives a link.
const LINK_NAME_BYTES_MAX: usize = 15;
/// Limits of an IPv4 link.
const MTU_MIN: u32 = 68;
const MTU_MAX: u32 = 65_535;

/// How the pod network is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the bridge.
    pub bridge: String,
    /// Where allocations are kept.
    pub state_dir: PathBuf,
    pub mtu: u32,
    /// Addresses that are never masqueraded: all nodes' pods. Only this node's own without it.
    pub cluster_cidr: Option<Cidr>,
    /// Whether pods reach the outside under the node's address.
    pub masquerade: bool,
}

impl Config {
    /// The usual: bridge `copepod0`, an Ethernet's mtu, masquerading.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            bridge: "copepod0".to_owned(),
            state_dir: state_dir.to_owned(),
            mtu: 1500,
            cluster_cidr: None,
            masquerade: true,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let name_valid = !self.bridge.is_empty()
            && self.bridge.len() <= LINK_NAME_BYTES_MAX
            && self.bridge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !name_valid {
            return Err(Error::Config {
                field: "bridge",
                reason: format!("{:?} cannot be the name of a link", self.bridge),
            });
        }
        check_mtu(self.mtu)
    }
}

fn check_mtu(mtu: u32) -> Result<(), Error> {
    if (MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Ok(());
    }
    let reason = format!("{mtu} is not between {MTU_MIN} and {MTU_MAX}");
    Err(Error::Config { field: "mtu", reason })
}

/// The addresses of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAddresses {
    pub ips: Vec<IpAddr>,
}

/// Handle to the pod network; clones share it. With the last one its thread ends; links and addresses stay.
#[derive(Clone)]
pub struct BridgeNetwork {
    commands: mpsc::Sender<Command>,
    ready: watch::Receiver<bool>,
}

impl BridgeNetwork {
    /// Starts the thread that owns the network, in the network namespace of the caller. Nothing in the kernel changes until
    /// [`set_pod_cidr`](Self::set_pod_cidr).
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        let (commands, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (ready_sender, ready) = watch::channel(false);
        let (started_sender, started) = std::sync::mpsc::sync_channel(1);
        let run = move || {
            // The other thread waits for the disk.
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = match builder.enable_io().max_blocking_threads(1).build() {
                Ok(runtime) => runtime,
                Err(source) => return drop(started_sender.send(Err(Error::Netlink { source }))),
            };
            runtime.block_on(async {
                match Worker::new(config, ready_sender) {
                    Ok(worker) => {
                        drop(started_sender.send(Ok(())));
                        worker.run(receiver).await;
                    }
                    Err(error) => drop(started_sender.send(Err(error))),
                }
            });
        };
        thread::Builder::new()
            .name("network".to_owned())
            .spawn(run)
            .map_err(|source| Error::Netlink { source })?;
        started.recv().map_err(|_| Error::Stopped)??;
        Ok(Self { commands, ready })
    }

    /// Makes or corrects the bridge, forwarding and masquerading for the node's pod CIDR. Idempotent.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), Error> {
        let cidr = cidr.parse()?;
        self.ask(|answer| Command::SetCidr { cidr, answer }).await
    }

    /// Changes the mtu of the bridge and of the pods that come.
    pub async fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        check_mtu(mtu)?;
        self.ask(|answer| Command::SetMtu { mtu, answer }).await
    }

    /// Whether pods can be attached.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Gives the pod `uid`, whose network namespace is pinned at `netns`, an `eth0`. A pod that has one already keeps it.
    pub async fn attach(&self, uid: &str, netns: &Path) -> Result<PodAddresses, Error> {
        self.ask(|answer| Command::Attach { uid: uid.to_owned(), netns: netns.to_owned(), answer })
            .await
    }

    /// Disconnects a pod and gives its address back. Works without its namespace, and more than once.
    pub async fn detach(&self, uid: &str) -> Result<(), Error> {
        self.ask(|answer| Command::Detach { uid: uid.to_owned(), answer }).await
    }

    /// Detaches every pod that is not in `uids`, and links nobody knows. Returns the uids that were detached.
    pub async fn retain(&self, uids: BTreeSet<String>) -> Result<Vec<String>, Error> {
        self.ask(|answer| Command::Retain { uids, answer }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}
