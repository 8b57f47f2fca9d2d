//! The network side: connections, TLS, HTTP/1.1 and HTTP/2 with bounds, and an orderly end.

use crate::stall::StallGuard;
use crate::{ApiServer, Body, BoxError};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pki::PeerIdentity;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Streams of one HTTP/2 connection; client-go opens up to 250 and a watch takes one.
const STREAMS_MAX: u32 = 250;
const HEADER_LIST_BYTES: u32 = 64 * 1024;
/// What a client may send on one stream before it is read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Also how long an HTTP/1.1 connection may lie idle; Go clients close theirs after 90 seconds.
const HEADER_TIMEOUT: Duration = Duration::from_secs(100);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// A client that takes nothing for so long, though there is something to take, is cut off.
const WRITE_STALL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_SECONDS: u32 = 30;
const KEEP_ALIVE_PROBES: u32 = 4;
/// How long open connections may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl ApiServer {
    /// Serves until `shutdown` becomes true, then lets open requests end.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let slots = Arc::new(Semaphore::new(self.config.limits.connections));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let slot = tokio::select! {
                () = crate::server::closed(&mut shutdown) => break,
                slot = slots.clone().acquire_owned() => slot,
            };
            let accepted = tokio::select! {
                () = crate::server::closed(&mut shutdown) => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            connections.spawn(async move {
                let _slot = slot;
                server.connection(acceptor, stream).await;
            });
        }
        drop(listener);
        self.close();
        let drained =
            tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} })
                .await;
        if drained.is_err() {
            tracing::info!(
                connections = connections.len(),
                "ending connections that did not end by themselves"
            );
            connections.shutdown().await;
        }
    }

    async fn connection(self: Arc<Self>, acceptor: TlsAcceptor, stream: TcpStream) {
        keep_alive(&stream);
        let handshake =
            tokio::time::timeout(self.config.limits.handshake_timeout, acceptor.accept(stream))
                .await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "tls handshake failed"),
            Err(_) => return tracing::debug!("tls handshake took too long"),
        };
        let Some(peer) = peer_of(&stream) else {
            return tracing::debug!("client certificate without a common name");
        };
        let server = self.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (server, peer) = (server.clone(), peer.clone());
            async move {
                let request =
                    request.map(|body| body.map_err(|e| -> BoxError { e.into() }).boxed_unsync());
                Ok::<Response<Body>, std::convert::Infallible>(
                    server.handle_remote(peer, request).await,
                )
            }
        });
        let builder = http(self.config.limits.header_bytes);
        let connection = builder.serve_connection_with_upgrades(
            TokioIo::new(StallGuard::new(stream, WRITE_STALL)),
            service,
        );
        let mut connection = std::pin::pin!(connection);
        let mut closing = self.closing();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = crate::server::closed(&mut closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection failed");
        }
    }
}

/// Finds out about clients that are gone without a word. Without it the connection only lasts longer.
fn keep_alive(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let set = setsockopt(stream, sockopt::TcpNoDelay, &true)
        .and(setsockopt(stream, sockopt::KeepAlive, &true))
        .and(setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_SECONDS))
        .and(setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_SECONDS))
        .and(setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVE_PROBES));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set the options of a connection");
    }
}

fn http(header_bytes: usize) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// The outer `None` is a certificate that names nobody; the inner one is no certificate.
fn peer_of(stream: &TlsStream<TcpStream>) -> Option<Option<Arc<PeerIdentity>>> {
    match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        None => Some(None),
        Some(certificate) => pki::peer_identity(certificate).map(|peer| Some(Arc::new(peer))),
    }
}
