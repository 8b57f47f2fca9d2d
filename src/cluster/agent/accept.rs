//! What the server may reach through the tunnel: this node's kubelet and nothing else.

use std::io;
use std::sync::Arc;

use client::Tasks;
use futures_util::future::BoxFuture;
use tokio::io::DuplexStream;

/// The address by which the server asks for the kubelet of a node.
pub(crate) const KUBELET: &str = "127.0.0.1:10250";
/// Bytes that may wait between the tunnel and the kubelet on one stream.
const STREAM_BYTES: usize = 64 * 1024;

/// Answers a peer's dials: streams to the kubelet are handed to `serve`, all others are refused.
pub fn accept_kubelet(
    serve: impl Fn(DuplexStream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> tunnel::Accept {
    let tasks = Tasks::new();
    Arc::new(move |protocol, address| {
        let answer: io::Result<tunnel::BoxIo> = match is_kubelet(&protocol, &address) {
            true => {
                let (near, far) = tokio::io::duplex(STREAM_BYTES);
                tasks.spawn(serve(far));
                Ok(Box::new(near))
            }
            false => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{protocol}/{address} is not open to the server"),
            )),
        };
        Box::pin(async move { answer })
    })
}

fn is_kubelet(protocol: &str, address: &str) -> bool {
    protocol == "tcp" && matches!(address, KUBELET | "localhost:10250" | "[::1]:10250")
}
