//! The whole server on loopback, with an API server that comes and goes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Body, BoxError, Client, Transport, full};
use futures_util::future::BoxFuture;
use futures_util::stream;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};

use super::responder::Responder;
use super::{isolated, query};
use crate::dns::server::{CONNECTIONS_MAX, IN_FLIGHT_MAX};
use crate::dns::{Config, Error, run};

const PATIENCE: Duration = Duration::from_secs(10);
const ADDRESS: &str = "127.0.0.10:53";

/// An API server with the objects of `cases/cluster.json`.
#[derive(Clone, Default)]
struct Api {
    /// Where changes of Services go, once they are watched.
    services: Arc<Mutex<Option<mpsc::Sender<String>>>>,
    away: Arc<Mutex<bool>>,
}

impl Transport for Api {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, client::Result<Response<Body>>> {
        let uri = request.uri().to_string();
        Box::pin(async move {
            if *self.away.lock().unwrap() {
                return std::future::pending().await;
            }
            let cluster: Value = serde_json::from_str(super::CLUSTER).unwrap();
            let services = uri.starts_with("/api/v1/services");
            assert!(
                services || uri.starts_with("/apis/discovery.k8s.io/v1/endpointslices"),
                "{uri}"
            );
            let (sender, receiver) = mpsc::channel::<String>(8);
            if !uri.contains("watch=") {
                let items = &cluster[if services { "services" } else { "slices" }];
                let list = json!({"metadata": {"resourceVersion": "100"}, "items": items});
                return Ok(Response::new(full(list.to_string())));
            }
            if services {
                *self.services.lock().unwrap() = Some(sender);
            } else {
                // Nothing ever changes, and the watch goes on.
                std::mem::forget(sender);
            }
            let frames = stream::unfold(receiver, |mut receiver| async {
                let text = receiver.recv().await?;
                Some((Ok::<_, BoxError>(Frame::data(Bytes::from(text))), receiver))
            });
            Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
        })
    }
}

impl Api {
    async fn change(&self, event: Value) {
        let watched = || self.services.lock().unwrap().clone();
        eventually(|| async { watched().is_some() }).await;
        watched().unwrap().send(format!("{event}\n")).await.unwrap();
    }
}

async fn eventually<F: Future<Output = bool>>(check: impl Fn() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn config(folder: &tempfile::TempDir) -> Config {
    let path = folder.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 127.0.0.10\nnameserver 127.0.0.1\n").unwrap();
    Config::new(vec![ADDRESS.parse().unwrap()], "cluster.local", path)
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.queries.push(query(name, kind));
    message.to_vec().unwrap()
}

async fn over_udp(name: &str) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(ADDRESS).await.unwrap();
    socket.send(&question(name, RecordType::A)).await.ok()?;
    let mut buffer = [0; 1500];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().ok()?;
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

async fn addresses(name: &str) -> Vec<String> {
    let answers = over_udp(name).await.map(|message| message.answers).unwrap_or_default();
    answers.iter().map(|record| record.data.to_string()).collect()
}

async fn over_tcp(stream: &mut TcpStream, name: &str) -> Message {
    let bytes = question(name, RecordType::A);
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

#[test]
fn the_cluster_and_the_world() {
    isolated(|| async {
        let upstream = Responder::start("127.0.0.1:53".parse().unwrap(), 1).await;
        let (folder, api) = (tempfile::tempdir().unwrap(), Api::default());
        let client = Client::new(Arc::new(api.clone()));
        let (end, shutdown) = watch::channel(false);
        let server = tokio::spawn(run(client, config(&folder), shutdown));

        let web = "web.shop.svc.cluster.local.";
        eventually(|| async { addresses(web).await == ["10.43.7.7"] }).await;
        let outside = over_udp("plain.example.").await.unwrap();
        assert_eq!(outside.answers[0].data.to_string(), "192.0.2.1");
        assert!(outside.edns.is_none(), "the client did not speak EDNS");
        let mut stream = TcpStream::connect(ADDRESS).await.unwrap();
        assert_eq!(over_tcp(&mut stream, web).await.answers.len(), 1);
        assert_eq!(over_tcp(&mut stream, "long.example.").await.answers.len(), 200);
        assert!(over_udp("long.example.").await.unwrap().truncation);
        assert_eq!(upstream.asked(), ["udp plain", "udp long", "tcp long"]);

        let mut changed =
            serde_json::from_str::<Value>(super::CLUSTER).unwrap()["services"][1].take();
        changed["spec"]["clusterIPs"] = json!(["10.43.9.9"]);
        changed["metadata"]["resourceVersion"] = json!("101");
        api.change(json!({"type": "MODIFIED", "object": changed})).await;
        eventually(|| async { addresses(web).await == ["10.43.9.9"] }).await;

        *api.away.lock().unwrap() = true;
        *api.services.lock().unwrap() = None;
        assert_eq!(
            addresses(web).await,
            ["10.43.9.9"],
            "the API server is away, the names are not"
        );

        end.send(true).unwrap();
        server.await.unwrap().unwrap();
        std::net::UdpSocket::bind(ADDRESS).unwrap();
    });
}

#[test]
fn nothing_is_denied_before_the_api_was_seen() {
    isolated(|| async {
        let (folder, api) = (tempfile::tempdir().unwrap(), Api::default());
        *api.away.lock().unwrap() = true;
        let (_end, shutdown) = watch::channel(false);
        let server = tokio::spawn(run(Client::new(Arc::new(api)), config(&folder), shutdown));
        eventually(|| async {
            let reply = over_udp("web.shop.svc.cluster.local.").await;
            reply.is_some_and(|reply| reply.response_code == ResponseCode::ServFail)
        })
        .await;
        server.abort();
    });
}

#[test]
fn errors_name_the_socket() {
    isolated(|| async {
        let folder = tempfile::tempdir().unwrap();
        let client = || Client::new(Arc::new(Api::default()));
        let (_end, shutdown) = watch::channel(false);
        let _taken = tokio::net::TcpListener::bind(ADDRESS).await.unwrap();
        let error = run(client(), config(&folder), shutdown.clone()).await.unwrap_err();
        let expected = "cannot listen on tcp 127.0.0.10:53: Address already in use (os error 98)";
        assert_eq!(error.to_string(), expected);
        let absent: SocketAddr = "10.43.0.10:53".parse().unwrap();
        let elsewhere = Config { listen: vec![absent], ..config(&folder) };
        let error = run(client(), elsewhere, shutdown.clone()).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on udp 10.43.0.10:53: "), "{error}");
        let nowhere = Config { listen: Vec::new(), ..config(&folder) };
        assert!(matches!(run(client(), nowhere, shutdown.clone()).await, Err(Error::NoAddress)));
        let zone = Config {
            zone: "a..b".to_owned(),
            listen: vec!["127.0.0.11:53".parse().unwrap()],
            ..config(&folder)
        };
        let error = run(client(), zone, shutdown).await.unwrap_err();
        assert_eq!(error.to_string(), "zone \"a..b\" is not a domain name");
    });
}

#[test]
fn queries_and_connections_are_bounded() {
    isolated(|| async {
        let upstream = Responder::start("127.0.0.1:53".parse().unwrap(), 1).await;
        let folder = tempfile::tempdir().unwrap();
        let (_end, shutdown) = watch::channel(false);
        let client = Client::new(Arc::new(Api::default()));
        let server = tokio::spawn(run(client, config(&folder), shutdown));
        let web = "web.shop.svc.cluster.local.";
        eventually(|| async { addresses(web).await == ["10.43.7.7"] }).await;

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(ADDRESS).await.unwrap();
        for number in 0..IN_FLIGHT_MAX {
            let name = format!("silent.{number}.example.");
            socket.send(&question(&name, RecordType::A)).await.unwrap();
            if (number + 1).is_multiple_of(32) {
                // The system's buffers hold no more.
                eventually(|| async { upstream.asked().len() > number }).await;
            }
        }
        let more = over_udp("plain.example.").await.unwrap();
        assert_eq!(more.response_code, ResponseCode::ServFail, "too much is asked already");
        assert_eq!(addresses(web).await, ["10.43.7.7"], "what is known needs nobody");

        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(ADDRESS).await.unwrap();
            assert_eq!(over_tcp(&mut stream, web).await.answers.len(), 1);
            streams.push(stream);
        }
        let mut late = TcpStream::connect(ADDRESS).await.unwrap();
        let early =
            tokio::time::timeout(Duration::from_millis(100), over_tcp(&mut late, web)).await;
        assert!(early.is_err(), "it waits for its turn");
        drop(streams.pop());
        let mut buffer = [0; 2];
        late.read_exact(&mut buffer).await.unwrap();
        server.abort();
    });
}
