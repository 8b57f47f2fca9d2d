//! Which server to talk to: stays where it is, fails over when a dial or a tunnel fails, and knows the servers from before
//! a restart. [`Choice`] decides; [`Balancer`] dials and writes the list down.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{Dial, Dialed};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Address;

/// Servers a cluster may name.
const SERVERS_MAX: usize = 16;
/// How long one server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known about a server's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    /// It has a tunnel.
    Healthy,
    Unchecked,
    /// A dial failed or its tunnel ended, in this order among the failed.
    Failed(u64),
}

/// The servers with what is known about them; no IO.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// The server of `--server`, the last resort.
    join: Address,
    servers: Vec<Address>,
    current: Option<Address>,
    health: BTreeMap<Address, Health>,
    failures: u64,
}

impl Choice {
    pub(crate) fn new(join: Address, servers: Vec<Address>) -> Self {
        Self { join, servers, current: None, health: BTreeMap::new(), failures: 0 }
    }

    fn health(&self, server: &Address) -> Health {
        self.health.get(server).copied().unwrap_or(Health::Unchecked)
    }

    /// All servers, the one to try first in front: the current one unless it failed, then those with a tunnel, the unknown,
    /// those that failed longest ago, and the join server if the cluster does not name it.
    pub(crate) fn order(&self) -> Vec<Address> {
        let mut order = self.servers.clone();
        order.sort_by_key(|server| {
            let health = self.health(server);
            let stays = self.current.as_ref() == Some(server) && health <= Health::Unchecked;
            (!stays, health)
        });
        if !order.contains(&self.join) {
            let stays = self.current.as_ref() == Some(&self.join)
                && self.health(&self.join) <= Health::Unchecked;
            order.insert(if stays { 0 } else { order.len() }, self.join.clone());
        }
        order
    }

    /// Takes over the servers the cluster names; whether that changed anything.
    pub(crate) fn set(&mut self, mut servers: Vec<Address>) -> bool {
        servers.truncate(SERVERS_MAX);
        let mut sorted = (self.servers.clone(), servers.clone());
        sorted.0.sort();
        sorted.1.sort();
        if sorted.0 == sorted.1 {
            return false;
        }
        self.servers = servers;
        let join = self.join.clone();
        self.health.retain(|known, _| self.servers.contains(known) || *known == join);
        true
    }

    pub(crate) fn dialed(&mut self, server: &Address, worked: bool) {
        match (worked, self.health(server)) {
            (true, Health::Healthy) => {}
            (true, _) => drop(self.health.insert(server.clone(), Health::Unchecked)),
            (false, _) => self.fail(server),
        }
        if worked {
            self.current = Some(server.clone());
        }
    }

    /// Notes that a tunnel is up or ended; whether the current server is lost by it.
    pub(crate) fn tunnel(&mut self, server: &Address, up: bool) -> bool {
        if up {
            self.health.insert(server.clone(), Health::Healthy);
            return false;
        }
        let lost = self.health(server) == Health::Healthy && self.current.as_ref() == Some(server);
        self.fail(server);
        lost
    }

    fn fail(&mut self, server: &Address) {
        self.failures += 1;
        self.health.insert(server.clone(), Health::Failed(self.failures));
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    server_addresses: Vec<String>,
}

/// Dials the servers of a cluster.
pub struct Balancer {
    file: PathBuf,
    choice: Mutex<Choice>,
    list: watch::Sender<Vec<Address>>,
    lost: watch::Sender<u64>,
}

impl Balancer {
    /// A balancer that begins with the servers written down in `file`, if there are any.
    pub fn open(file: &Path, join: Address) -> Self {
        let servers = read(file);
        let choice = Choice::new(join, servers);
        let (list, lost) = (watch::Sender::new(targets(&choice)), watch::Sender::new(0));
        Self { file: file.to_owned(), choice: Mutex::new(choice), list, lost }
    }

    /// The cluster names these servers now.
    pub fn set(&self, mut servers: Vec<Address>) {
        // In another order on every node, so that they spread.
        let order = RandomState::new();
        servers.sort_by_key(|server| order.hash_one(server));
        let mut choice = self.lock();
        if !choice.set(servers) {
            return;
        }
        let kept =
            Kept { server_addresses: choice.servers.iter().map(ToString::to_string).collect() };
        tracing::info!(servers = ?kept.server_addresses, "servers of the cluster");
        let written = serde_json::to_vec(&kept)
            .map_err(|e| e.to_string())
            .and_then(|json| pki::write_private(&self.file, &json).map_err(|e| e.to_string()));
        if let Err(error) = written {
            tracing::warn!(error, "the list of servers is not kept for the next start");
        }
        self.list.send_replace(targets(&choice));
    }

    /// The servers to hold tunnels to.
    pub(crate) fn targets(&self) -> watch::Receiver<Vec<Address>> {
        self.list.subscribe()
    }

    /// Changes whenever the server in use is found to be lost.
    pub(crate) fn lost(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    pub(crate) fn tunnel(&self, server: &Address, up: bool) {
        if self.lock().tunnel(server, up) {
            self.lost.send_modify(|count| *count += 1);
        }
    }

    /// The server of `--server`.
    pub(crate) fn join_server(&self) -> Address {
        self.lock().join.clone()
    }

    /// A connection to the best server that accepts one.
    pub async fn connect(&self) -> io::Result<Dialed> {
        let order = self.lock().order();
        let mut failures = Vec::new();
        for server in order {
            match connect(&server).await {
                Ok(dialed) => {
                    self.lock().dialed(&server, true);
                    return Ok(dialed);
                }
                Err(error) => {
                    self.lock().dialed(&server, false);
                    failures.push(format!("{server}: {error}"));
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::NotConnected, failures.join("; ")))
    }

    fn lock(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Balancer {
    fn dial(&self) -> BoxFuture<'_, io::Result<Dialed>> {
        Box::pin(self.connect())
    }
}

/// A connection to this server.
pub(crate) async fn connect(server: &Address) -> io::Result<Dialed> {
    let tcp = TcpStream::connect((server.host.as_str(), server.port));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, tcp).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}"))
    })??;
    stream.set_nodelay(true)?;
    Ok(Dialed { stream, host: server.host.clone(), port: server.port })
}

fn targets(choice: &Choice) -> Vec<Address> {
    match choice.servers.as_slice() {
        [] => vec![choice.join.clone()],
        servers => servers.to_vec(),
    }
}

/// A file that cannot be read only means that the join server is asked first.
fn read(file: &Path) -> Vec<Address> {
    let Ok(Some(text)) = pki::read_private(file) else { return Vec::new() };
    let Ok(kept) = serde_json::from_str::<Kept>(&text) else { return Vec::new() };
    kept.server_addresses.iter().filter_map(|t| Address::parse(t)).take(SERVERS_MAX).collect()
}
