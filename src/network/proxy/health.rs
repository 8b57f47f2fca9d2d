//! The ports where load balancers ask whether this node has endpoints of a Service.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Questions answered at a time for one Service; more wait in the socket.
const CONNECTIONS_MAX: usize = 16;
const REQUEST_BYTES_MAX: usize = 8 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What is answered for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) local_endpoints: usize,
}

/// The listeners by port.
#[derive(Default)]
pub(crate) struct Health {
    tasks: JoinSet<()>,
    listeners: BTreeMap<u16, Listener>,
}

struct Listener {
    report: watch::Sender<Report>,
    task: tokio::task::AbortHandle,
}

impl Health {
    /// Opens and closes ports so that those of `reports` are open.
    pub(crate) fn set(&mut self, reports: &BTreeMap<u16, Report>) {
        while self.tasks.try_join_next().is_some() {}
        self.listeners.retain(|port, listener| {
            let wanted = reports.contains_key(port) && !listener.task.is_finished();
            if !wanted {
                listener.task.abort();
            }
            wanted
        });
        for (port, report) in reports {
            if let Some(listener) = self.listeners.get(port) {
                listener.report.send_if_modified(|current| {
                    let changed = current != report;
                    current.clone_from(report);
                    changed
                });
                continue;
            }
            let (sender, receiver) = watch::channel(report.clone());
            let task = self.tasks.spawn(listen(*port, receiver));
            self.listeners.insert(*port, Listener { report: sender, task });
        }
    }
}

async fn listen(port: u16, report: watch::Receiver<Report>) {
    let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(port, %error, "cannot listen on a Service's healthCheckNodePort");
            return;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let report = report.borrow().clone();
                    connections.spawn(async move {
                        // A client that is gone needs no answer.
                        drop(timeout(REQUEST_TIMEOUT, answer(stream, &report)).await);
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, report: &Report) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(response(report).as_bytes()).await?;
    stream.shutdown().await
}

pub(crate) fn response(report: &Report) -> String {
    let Report { namespace, name, local_endpoints } = report;
    let status = if *local_endpoints > 0 { "200 OK" } else { "503 Service Unavailable" };
    let body = serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": true,
    });
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {local_endpoints}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
