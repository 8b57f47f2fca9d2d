//! Reaches a port inside a pod: sockets are made in the pod's network namespace and connected from here.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a port may take to answer; nothing here leaves the machine.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the ports of a pod are.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) pod: String,
    /// None with the host's network.
    pub(super) netns: Option<PathBuf>,
}

impl Target {
    fn namespace(&self) -> String {
        self.netns.as_ref().map_or_else(|| "host".to_owned(), |path| path.display().to_string())
    }

    /// Connects to the port on the pod's loopback; the error is what upstream's users read.
    pub(super) async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        let namespace = self.namespace();
        let failed = |why: String| {
            format!(
                "error forwarding port {port} to pod {}, uid : failed to execute portforward in network namespace \
                 {namespace:?}: {why}",
                self.pod
            )
        };
        let path = self.netns.clone();
        let made = tokio::task::spawn_blocking(move || sockets(path)).await;
        let (v4, v6) =
            made.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| failed(e.to_string()))?;
        let first = match connect(v4, ([127, 0, 0, 1], port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => words("tcp4", &format!("127.0.0.1:{port}"), &error),
        };
        let second = match connect(v6, ([0, 0, 0, 0, 0, 0, 0, 1], port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => words("tcp6", &format!("[::1]:{port}"), &error),
        };
        Err(failed(format!(
            "failed to connect to localhost:{port} inside namespace {namespace:?}, IPv4: {first} IPv6 {second} "
        )))
    }
}

type Made = io::Result<TcpSocket>;

fn sockets(netns: Option<PathBuf>) -> io::Result<(Made, Made)> {
    let make = || (TcpSocket::new_v4(), TcpSocket::new_v6());
    match netns {
        Some(path) => sys::namespace::run_in_netns(&path, make),
        None => Ok(make()),
    }
}

async fn connect(socket: Made, address: std::net::SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(DIAL_TIMEOUT, socket?.connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A failed connect in the words of Go's net package.
fn words(network: &str, address: &str, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        io::ErrorKind::AddrNotAvailable => "connect: cannot assign requested address".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial {network} {address}: {why}")
}
