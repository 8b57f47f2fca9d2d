//! The seams inside the process: requests of our own components to the API server, the API server's to the kubelets here
//! and elsewhere, and what it hands to the supervisor.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use agent::KubeletApi;
use apiserver::{ApiServer, BoxFuture, NodeDialer, Stream, User};
use bytes::Bytes;
use client::{Body, Tasks, Transport};
use cluster::Supervisor;

/// Bytes that may wait between the API server and the kubelet on one stream.
const STREAM_BYTES: usize = 64 * 1024;

/// Carries requests to the API server in the same process under a fixed identity, past TLS and authentication and through
/// everything else.
pub(crate) struct InProcess {
    api: Arc<ApiServer>,
    user: User,
}

impl InProcess {
    pub(crate) fn new(api: Arc<ApiServer>, user: User) -> InProcess {
        InProcess { api, user }
    }
}

impl Transport for InProcess {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, client::Result<http::Response<Body>>> {
        Box::pin(
            async move { Ok(self.api.handle(self.user.clone(), request.map(client::full)).await) },
        )
    }
}

/// Reaches the kubelet in the same process directly, and all others by their tunnels.
pub(crate) struct Dialer {
    nodes: Mutex<BTreeMap<String, KubeletApi>>,
    streams: Tasks,
    supervisor: Arc<Supervisor>,
}

impl Dialer {
    pub(crate) fn new(supervisor: Arc<Supervisor>) -> Dialer {
        Dialer { nodes: Mutex::default(), streams: Tasks::new(), supervisor }
    }

    pub(crate) fn set(&self, node: &str, kubelet: KubeletApi) {
        self.nodes.lock().unwrap_or_else(|p| p.into_inner()).insert(node.to_owned(), kubelet);
    }

    /// A stream to the kubelet, if it is in this process.
    fn connect(&self, node: &str) -> Option<Box<dyn Stream>> {
        let kubelet = self.nodes.lock().unwrap_or_else(|p| p.into_inner()).get(node).cloned()?;
        let (near, far) = tokio::io::duplex(STREAM_BYTES);
        self.streams.spawn(async move { kubelet.serve_stream(far).await });
        Some(Box::new(near))
    }
}

impl NodeDialer for Dialer {
    fn dial(&self, node: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        if let Some(stream) = self.connect(node) {
            return Box::pin(async move { Ok(stream) });
        }
        let tunnelled = self.supervisor.dial(node);
        Box::pin(async move {
            let stream: Box<dyn Stream> = Box::new(tunnelled.await?);
            Ok(stream)
        })
    }
}

/// The supervisor, as the API server asks it.
pub(crate) struct Front(pub(crate) Arc<Supervisor>);

impl apiserver::Supervisor for Front {
    fn handle(
        &self,
        peer: Option<pki::PeerIdentity>,
        request: http::Request<Body>,
    ) -> BoxFuture<'static, http::Response<Body>> {
        let supervisor = self.0.clone();
        Box::pin(async move { supervisor.handle(peer, request).await })
    }
}
