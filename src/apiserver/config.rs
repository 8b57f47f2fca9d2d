//! What a server is given: its parts, its names and its limits.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection to a kubelet; it speaks HTTP/1.1 in the clear, since tunnel or TLS are the dialer's business.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Reaches the kubelet of a node by the node's name.
pub trait NodeDialer: Send + Sync {
    fn dial(&self, node: &str) -> BoxFuture<'static, std::io::Result<Box<dyn Stream>>>;
}

/// Answers the paths by which agents join and reach the server: [`Supervisor::answers`] says which.
pub trait Supervisor: Send + Sync {
    /// Answers one request; authentication, authorization and limits of these paths are its own business. `peer` is
    /// the verified client certificate. An upgrade of the connection works as usual with hyper.
    fn handle(
        &self,
        peer: Option<pki::PeerIdentity>,
        request: http::Request<Body>,
    ) -> BoxFuture<'static, http::Response<Body>>;
}

impl dyn Supervisor {
    pub(crate) fn answers(path: &str) -> bool {
        matches!(path, "/cacerts" | "/ping") || path.starts_with("/v1-copepod/")
    }
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    pub uid: Option<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of a component inside this process, with the group every authenticated user has.
    pub fn component(name: &str, groups: &[&str]) -> Self {
        let groups =
            groups.iter().copied().chain(["system:authenticated"]).map(str::to_owned).collect();
        Self { name: name.to_owned(), groups, ..Default::default() }
    }
}

/// Everything an [`crate::ApiServer`] needs.
pub struct Config {
    pub store: store::Store,
    /// Signs and checks service-account tokens.
    pub service_account_keys: Arc<pki::ServiceAccountKeys>,
    /// IPv4 network of ClusterIPs, such as `10.43.0.0/16`; the first address is the Service `kubernetes`.
    pub service_cidr: String,
    pub node_ports: RangeInclusive<u16>,
    pub cluster_domain: String,
    /// Where clients outside the process reach this server; published as the endpoint of the Service `kubernetes`,
    /// until [`crate::ApiServer::advertise`] says otherwise.
    pub advertise: SocketAddr,
    /// The cluster's name server: the ClusterIP of the Service kube-system/kube-dns and of no other.
    pub cluster_dns: Option<std::net::IpAddr>,
    /// The node that runs in this process; it may call itself a control plane.
    pub server_node: Option<String>,
    pub dialer: Arc<dyn NodeDialer>,
    /// Asked before authentication.
    pub supervisor: Option<Arc<dyn Supervisor>>,
    pub limits: Limits,
}

/// Bounds on what clients may make the server hold.
#[derive(Clone, Debug)]
pub struct Limits {
    pub body_bytes: usize,
    pub header_bytes: usize,
    /// Requests in work at once, watches and streams not counted.
    pub requests: usize,
    pub watches: usize,
    /// Log, exec, attach and port-forward streams.
    pub streams: usize,
    pub connections: usize,
    /// Bytes of large answers that clients have not taken yet, all together.
    pub answer_bytes: usize,
    pub request_timeout: Duration,
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 3 * 1024 * 1024,
            header_bytes: 64 * 1024,
            requests: 400,
            watches: 2000,
            streams: 200,
            connections: 1000,
            answer_bytes: 64 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}
