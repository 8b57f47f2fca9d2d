//! The node's resolvers, from a file in the format of resolv.conf(5); changes of the file are followed.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;

/// Resolvers used of the file.
const SERVERS_MAX: usize = 4;
/// Bytes read of the file.
const FILE_MAX: u64 = 64 * 1024;
/// How long the file is taken to be unchanged.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// What tells one version of the file from another.
type Stamp = Option<(SystemTime, u64, u64)>;

pub(crate) struct Upstreams {
    path: PathBuf,
    port: u16,
    /// Never used: a query sent there would come back.
    refused: Refused,
    state: Mutex<State>,
}

/// Addresses that lead back here.
pub(crate) struct Refused {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) sockets: Vec<SocketAddr>,
}

struct State {
    checked: Option<Instant>,
    stamp: Stamp,
    servers: Arc<[SocketAddr]>,
}

/// The resolvers at a point in time.
pub(crate) struct Current {
    pub(crate) servers: Arc<[SocketAddr]>,
    /// They are not the ones of the call before.
    pub(crate) changed: bool,
}

impl Refused {
    fn contains(&self, server: SocketAddr) -> bool {
        self.addresses.contains(&server.ip())
            || server.ip().is_unspecified()
            || self.sockets.iter().any(|socket| {
                let everywhere = socket.ip().is_unspecified() && server.ip().is_loopback();
                socket.port() == server.port() && (everywhere || socket.ip() == server.ip())
            })
    }
}

impl Upstreams {
    pub(crate) fn new(path: PathBuf, port: u16, refused: Refused) -> Self {
        let state = State { checked: None, stamp: None, servers: Arc::new([]) };
        Self { path, port, refused, state: Mutex::new(state) }
    }

    /// The resolvers to ask, after a look at the file if the last one is some time ago. Callers wait for that look, so
    /// that none goes by a list that was not read yet.
    pub(crate) async fn current(&self) -> Current {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let fresh = |checked| now.duration_since(checked) < CHECK_EVERY;
        let mut changed = false;
        if !state.checked.is_some_and(fresh) {
            let stamp = stamp(&self.path).await;
            if state.checked.is_none() || stamp != state.stamp {
                let servers = self.read().await;
                changed = state.servers != servers;
                state.servers = servers;
            }
            state.stamp = stamp;
            state.checked = Some(now);
        }
        Current { servers: state.servers.clone(), changed }
    }

    async fn read(&self) -> Arc<[SocketAddr]> {
        let text = match text(&self.path).await {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the list of resolvers");
                return Arc::new([]);
            }
        };
        let mut servers = Vec::new();
        for server in parse(&text).map(|address| SocketAddr::new(address, self.port)) {
            if self.refused.contains(server) {
                tracing::warn!(%server, path = %self.path.display(), "resolver leads back here: not used");
            } else if servers.len() < SERVERS_MAX && !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.into()
    }
}

async fn stamp(path: &Path) -> Stamp {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

async fn text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(FILE_MAX).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The addresses of the `nameserver` lines. Link-local ones with a zone are left out.
pub(crate) fn parse(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    })
}
