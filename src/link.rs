//! The seams inside the process: requests of our own components to the API server, and the API server's to the kubelet.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use agent::KubeletApi;
use apiserver::{ApiServer, BoxFuture, NodeDialer, Stream, User};
use bytes::Bytes;
use client::{Body, Tasks, Transport};

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

/// Reaches kubelets in the same process.
#[derive(Default)]
pub(crate) struct Dialer {
    nodes: Mutex<BTreeMap<String, KubeletApi>>,
    streams: Tasks,
}

impl Dialer {
    pub(crate) fn set(&self, node: &str, kubelet: KubeletApi) {
        self.nodes.lock().unwrap_or_else(|p| p.into_inner()).insert(node.to_owned(), kubelet);
    }

    fn connect(&self, node: &str) -> io::Result<Box<dyn Stream>> {
        let kubelet = self.nodes.lock().unwrap_or_else(|p| p.into_inner()).get(node).cloned();
        let Some(kubelet) = kubelet else {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                format!("node {node:?} is not connected"),
            ));
        };
        let (near, far) = tokio::io::duplex(STREAM_BYTES);
        self.streams.spawn(async move { kubelet.serve_stream(far).await });
        Ok(Box::new(near))
    }
}

impl NodeDialer for Dialer {
    fn dial(&self, node: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let stream = self.connect(node);
        Box::pin(async move { stream })
    }
}
