//! The sockets: datagrams and connections in, replies out, all of it bounded.
//!
//! What is known is answered at once by the task that reads the socket; only a query that others must be asked for gets
//! a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Error;
use super::packet::{Carrier, Incoming, Request, read};
use super::resolver::{Resolver, fail};

/// Queries others are asked for at the same time; more fail at once.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// Connections at the same time; more wait to be accepted.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// How long a connection may be silent, or take to accept a reply.
const IDLE_MAX: Duration = Duration::from_secs(8);
/// Bytes of a query that are read from a datagram.
const DATAGRAM_MAX: usize = 4096;
/// How long to wait after the system refused to receive or accept, as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of all addresses.
pub(crate) struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Sockets {
    pub(crate) async fn bind(addresses: &[SocketAddr]) -> Result<Self, Error> {
        if addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        let mut sockets = Self { udp: Vec::new(), tcp: Vec::new() };
        for &address in addresses {
            let failed = |protocol| move |source| Error::Bind { protocol, address, source };
            sockets.udp.push(UdpSocket::bind(address).await.map_err(failed("udp"))?);
            sockets.tcp.push(TcpListener::bind(address).await.map_err(failed("tcp"))?);
        }
        Ok(sockets)
    }
}

/// What all sockets share.
#[derive(Clone)]
struct Shared {
    resolver: Arc<Resolver>,
    in_flight: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// Serves until `shutdown` becomes true.
pub(crate) async fn serve(
    sockets: Sockets,
    resolver: Arc<Resolver>,
    mut shutdown: watch::Receiver<bool>,
) {
    let shared = Shared {
        resolver,
        in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    let mut tasks = JoinSet::new();
    for socket in sockets.udp {
        tasks.spawn(datagrams(Arc::new(socket), shared.clone()));
    }
    for listener in sockets.tcp {
        tasks.spawn(connections(listener, shared.clone()));
    }
    // An error means that nobody can ask for the end any more.
    drop(shutdown.wait_for(|ended| *ended).await);
    tasks.shutdown().await;
}

async fn datagrams(socket: Arc<UdpSocket>, shared: Shared) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut out = Vec::with_capacity(DATAGRAM_MAX);
    loop {
        while tasks.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "cannot receive a query");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match read(buffer.get(..length).unwrap_or(&buffer)) {
            Incoming::Noise => {}
            Incoming::Refusal(bytes) => send(&socket, &bytes, client).await,
            Incoming::Request(request) => {
                if shared.resolver.immediate(&request, Carrier::Udp, &mut out) {
                    send(&socket, &out, client).await;
                } else if let Ok(permit) = shared.in_flight.clone().try_acquire_owned() {
                    let (socket, resolver) = (socket.clone(), shared.resolver.clone());
                    tasks.spawn(async move {
                        let mut out = Vec::new();
                        resolver.resolve(&request, Carrier::Udp, &mut out).await;
                        send(&socket, &out, client).await;
                        drop(permit);
                    });
                } else {
                    fail(&request, Carrier::Udp, &mut out);
                    send(&socket, &out, client).await;
                }
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if bytes.is_empty() {
        return;
    }
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "cannot send a reply");
    }
}

async fn connections(listener: TcpListener, shared: Shared) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = shared.connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                tasks.spawn(async move {
                    if let Err(error) = converse(stream, &shared).await {
                        tracing::debug!(%client, %error, "connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one query after the other until the client has no more.
async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    let mut framed = Vec::new();
    loop {
        let Ok(length) = timeout(IDLE_MAX, stream.read_u16()).await? else { return Ok(()) };
        buffer.resize(usize::from(length), 0);
        timeout(IDLE_MAX, stream.read_exact(&mut buffer)).await??;
        let reply = match read(&buffer) {
            Incoming::Noise => return Ok(()),
            Incoming::Refusal(bytes) => bytes,
            Incoming::Request(request) => respond(&request, shared).await,
        };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        framed.clear();
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&reply);
        timeout(IDLE_MAX, stream.write_all(&framed)).await??;
    }
}

async fn respond(request: &Request, shared: &Shared) -> Vec<u8> {
    let mut out = Vec::new();
    if shared.resolver.immediate(request, Carrier::Tcp, &mut out) {
        return out;
    }
    match shared.in_flight.try_acquire() {
        Ok(_permit) => shared.resolver.resolve(request, Carrier::Tcp, &mut out).await,
        Err(_) => fail(request, Carrier::Tcp, &mut out),
    }
    out
}
