//! The local socket by which `copepod upgrade` on a board asks the board's node: one line with a request in, lines of
//! statuses out. Only root may.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::upgrade_status::{Phase, Status};

/// Connections at once; one more is closed.
const CONNECTIONS_MAX: usize = 4;
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// How long a request may take to come, and a status to be taken.
const IO_MAX: Duration = Duration::from_secs(10);
/// After a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What an update is asked with.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Request {
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) allow_downgrade: bool,
}

/// A status, and whether it came about since the start of the machine.
pub(crate) type Told = Option<(Status, bool)>;

/// A request, and where to say why it is not begun: it is begun when that is dropped.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) refuse: oneshot::Sender<String>,
}

/// Serves the socket at `path`, for ever.
pub(crate) async fn listen(path: &Path, requests: mpsc::Sender<Asked>, told: watch::Sender<Told>) {
    let listener = match bind(path) {
        Ok(listener) => listener,
        Err(error) => {
            warn!("updates cannot be asked for on this machine: {error:#}");
            return;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve(stream, requests.clone(), told.subscribe()));
                }
                Ok(_) => {}
                // Such as too many open files, which passes.
                Err(error) => {
                    warn!(%error, "{}", path.display());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn bind(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let what = || path.display().to_string();
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(what);
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(what)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(what)?;
    Ok(listener)
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<Asked>, mut told: watch::Receiver<Told>) {
    let (reader, mut writer) = stream.into_split();
    let refused = |source: &str, message: String| Status {
        phase: Phase::Refused,
        source: source.to_owned(),
        version: String::new(),
        percent: None,
        message,
    };
    let request = match read(reader).await {
        Ok(request) => request,
        Err(message) => {
            let _ = write(&mut writer, &refused("", message)).await;
            return;
        }
    };
    told.mark_unchanged();
    let source = request.source.clone();
    let (refuse, begun) = oneshot::channel();
    if requests.send(Asked { request, refuse }).await.is_err() {
        return;
    }
    if let Ok(message) = begun.await {
        let _ = write(&mut writer, &refused(&source, message)).await;
        return;
    }
    while told.changed().await.is_ok() {
        let Some((status, _)) = told.borrow_and_update().clone() else { continue };
        if write(&mut writer, &status).await.is_err() || status.phase.is_end() {
            return;
        }
    }
}

/// The request, or what is wrong with it.
async fn read(reader: impl AsyncReadExt + Unpin) -> Result<Request, String> {
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    match tokio::time::timeout(IO_MAX, reader.read_line(&mut line)).await {
        Err(_) => return Err(format!("no request came within {} s", IO_MAX.as_secs())),
        Ok(Err(error)) => return Err(format!("the request cannot be read: {error}")),
        Ok(Ok(_)) => {}
    }
    if !line.ends_with('\n') {
        let text = "expected one line of JSON that ends with a line feed";
        return Err(format!("{text}, of at most {REQUEST_BYTES_MAX} bytes"));
    }
    serde_json::from_str(&line).map_err(|error| format!("the request is no valid JSON: {error}"))
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), status: &Status) -> std::io::Result<()> {
    let mut text = serde_json::to_string(status).unwrap_or_default();
    text.push('\n');
    tokio::time::timeout(IO_MAX, writer.write_all(text.as_bytes())).await?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    struct Served {
        path: PathBuf,
        requests: mpsc::Receiver<Asked>,
        told: watch::Sender<Told>,
        _folder: tempfile::TempDir,
        _server: JoinSet<()>,
    }

    async fn start() -> Served {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        // One that was left by a node that ended.
        std::fs::write(&path, "").unwrap();
        let (sender, requests) = mpsc::channel(1);
        let told = watch::Sender::new(None);
        let mut server = JoinSet::new();
        let (place, tell) = (path.clone(), told.clone());
        server.spawn(async move { listen(&place, sender, tell).await });
        while UnixStream::connect(&path).await.is_err() {
            tokio::task::yield_now().await;
        }
        Served { path, requests, told, _folder: folder, _server: server }
    }

    fn status(phase: Phase) -> Status {
        let (source, version) = ("/x".to_owned(), "1.0.0".to_owned());
        Status { phase, source, version, percent: None, message: "m".to_owned() }
    }

    async fn ask(served: &Served, text: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        // One that is closed at once takes nothing.
        let _ = stream.write_all(text.as_bytes()).await;
        BufReader::new(stream)
    }

    async fn answer(stream: &mut BufReader<UnixStream>) -> Option<Status> {
        let mut line = String::new();
        let read = stream.read_line(&mut line).await.unwrap_or(0);
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    #[tokio::test]
    async fn a_request_is_followed_to_its_end() {
        let mut served = start().await;
        let mode = std::fs::metadata(&served.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only root may");
        let mut stream = ask(&served, "{\"source\":\"/x\",\"allow-downgrade\":true}\n").await;
        let Asked { request, refuse } = served.requests.recv().await.unwrap();
        assert_eq!(request, Request { source: "/x".to_owned(), allow_downgrade: true });
        drop(refuse);
        for phase in [Phase::Checking, Phase::Writing, Phase::Failed] {
            served.told.send_replace(Some((status(phase), true)));
            assert_eq!(answer(&mut stream).await.unwrap().phase, phase);
        }
        assert_eq!(answer(&mut stream).await, None);
    }

    #[tokio::test]
    async fn wrong_requests_are_refused_with_the_reason() {
        let mut served = start().await;
        let long = format!("{{\"source\":\"{}\"}}\n", "x".repeat(20_000));
        let rows = [
            ("what?\n", "no valid JSON"),
            ("{}\n", "missing field `source`"),
            ("\n", "no valid JSON"),
            (long.as_str(), "of at most 16384 bytes"),
        ];
        for (text, expected) in rows {
            let answer = answer(&mut ask(&served, text).await).await.unwrap();
            assert_eq!(answer.phase, Phase::Refused);
            assert!(answer.message.contains(expected), "{answer:?}");
        }
        let mut stream = ask(&served, "{\"source\":\"/y\"}\n").await;
        served.requests.recv().await.unwrap().refuse.send("busy".to_owned()).unwrap();
        served.told.send_replace(Some((status(Phase::Writing), true)));
        let answer = answer(&mut stream).await.unwrap();
        assert_eq!((answer.source.as_str(), answer.message.as_str()), ("/y", "busy"));
    }

    #[tokio::test]
    async fn connections_are_bounded_in_number_and_time() {
        let served = start().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(ask(&served, "").await);
        }
        assert_eq!(answer(&mut ask(&served, "{\"source\":\"/x\"}\n").await).await, None);
        tokio::time::pause();
        for stream in &mut silent {
            assert!(answer(stream).await.unwrap().message.contains("no request came within 10 s"));
        }
    }
}
