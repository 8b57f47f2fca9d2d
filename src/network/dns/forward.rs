//! Asks the node's resolvers: over UDP, over TCP what does not fit, the next one when one does not answer.
//!
//! Each query leaves from a socket of its own, so port and id are unpredictable and an answer can only come from the
//! resolver asked. The same question is under way once; others who ask it wait for that answer. That also bounds a
//! loop through resolvers which lead back here: the query that comes back waits for itself and fails.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use super::cache::{Cache, Key, Reply, lifetime};
use super::packet::{Packet, Request, UDP_MAX};
use super::resolv_conf::Upstreams;

/// How long a resolver may take over UDP.
const UDP_WAIT: Duration = Duration::from_millis(1200);
/// How long it may take over TCP.
const TCP_WAIT: Duration = Duration::from_millis(2000);
/// How often the list of resolvers is gone through.
const ROUNDS: usize = 2;
/// How long all of it may take; clients give up after five seconds.
const TOTAL_WAIT: Duration = Duration::from_millis(4500);
/// Bytes of a UDP datagram that are read.
const DATAGRAM_MAX: usize = 4096;

/// The questions resolvers are being asked, as many as there are queries in flight at most.
type UnderWay = HashMap<Box<[u8]>, watch::Receiver<Option<Reply>>>;

pub(crate) struct Forwarder {
    upstreams: Upstreams,
    cache: Mutex<Cache>,
    under_way: Mutex<UnderWay>,
    /// The resolver that answered last.
    preferred: AtomicUsize,
}

/// Why a resolver gave no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the answer is malformed")]
    Malformed,
}

/// The duty to answer a question others may wait for; ends with it.
struct Duty<'a> {
    forwarder: &'a Forwarder,
    key: &'a Key,
    result: watch::Sender<Option<Reply>>,
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        self.forwarder.under_way().remove(self.key.as_bytes());
    }
}

impl Forwarder {
    pub(crate) fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            cache: Mutex::default(),
            under_way: Mutex::default(),
            preferred: AtomicUsize::new(0),
        }
    }

    pub(crate) fn cached(&self, key: &Key) -> Option<Reply> {
        self.cache().get(key, Instant::now())
    }

    /// The resolvers' reply, from the cache if it is there. None: none of them answered.
    pub(crate) async fn ask(&self, request: &Request) -> Option<Reply> {
        let key = Key::new(request);
        loop {
            if let Some(reply) = self.cached(&key) {
                return Some(reply);
            }
            let mut waiting = match self.join(&key) {
                Ok(duty) => return self.answer(request, &duty).await,
                Err(waiting) => waiting,
            };
            // An error: whoever had the duty gave it up.
            if let Ok(reply) = waiting.wait_for(Option::is_some).await {
                return reply.clone();
            }
        }
    }

    fn join<'a>(&'a self, key: &'a Key) -> Result<Duty<'a>, watch::Receiver<Option<Reply>>> {
        let mut under_way = self.under_way();
        if let Some(waiting) = under_way.get(key.as_bytes()) {
            return Err(waiting.clone());
        }
        let (result, waiting) = watch::channel(None);
        under_way.insert(key.as_bytes().into(), waiting);
        Ok(Duty { forwarder: self, key, result })
    }

    async fn answer(&self, request: &Request, duty: &Duty<'_>) -> Option<Reply> {
        let current = self.upstreams.current().await;
        if current.changed {
            self.cache().clear();
        }
        let consulted = timeout(TOTAL_WAIT, self.consult(request, &current.servers)).await;
        let message = consulted.ok().flatten().unwrap_or_else(|| failure(&request.query));
        let made = Instant::now();
        let packet = Arc::new(Packet::new(&message)?.shrunk());
        let reply = Reply { packet, made };
        self.cache().put(duty.key, reply.clone(), lifetime(&message));
        duty.result.send_replace(Some(reply.clone()));
        Some(reply)
    }

    /// Asks one resolver after the other, beginning with the one that answered last.
    async fn consult(&self, request: &Request, servers: &[SocketAddr]) -> Option<Message> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut unhelpful = None;
        for turn in 0..servers.len() * ROUNDS {
            let number = (first + turn) % servers.len();
            let server = *servers.get(number)?;
            match exchange(request, server).await {
                Ok(message) => match message.response_code {
                    ResponseCode::NoError | ResponseCode::NXDomain => {
                        self.preferred.store(number, Ordering::Relaxed);
                        return Some(message);
                    }
                    _ => unhelpful = Some(message),
                },
                Err(error) => tracing::debug!(%server, %error, "resolver failed"),
            }
            if turn + 1 >= servers.len() && unhelpful.is_some() {
                break;
            }
        }
        unhelpful
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn cache_usage(&self) -> (usize, usize) {
        self.cache().usage()
    }
}

fn failure(query: &Query) -> Message {
    let mut message = Message::error_msg(0, OpCode::Query, ResponseCode::ServFail);
    message.metadata.recursion_available = true;
    message.queries.push(query.clone());
    message
}

/// Asks one resolver; without EDNS if it does not know that.
async fn exchange(request: &Request, server: SocketAddr) -> Result<Message, Failure> {
    let message = attempt(request, server, true).await?;
    match message.response_code {
        ResponseCode::FormErr | ResponseCode::NotImp => attempt(request, server, false).await,
        _ => Ok(message),
    }
}

async fn attempt(request: &Request, server: SocketAddr, edns: bool) -> Result<Message, Failure> {
    let question = question(request, edns);
    let bytes = question.to_vec().map_err(|_| Failure::Malformed)?;
    let message = timeout(UDP_WAIT, over_udp(&bytes, &question, server)).await??;
    if !message.truncation {
        return Ok(clean(message));
    }
    let message = timeout(TCP_WAIT, over_tcp(&bytes, &question, server)).await??;
    Ok(clean(message))
}

fn question(request: &Request, edns: bool) -> Message {
    // A random id.
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.metadata.checking_disabled = request.checking_disabled;
    question.queries.push(request.query.clone());
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX).set_version(0);
        edns.set_dnssec_ok(request.edns.is_some_and(|(_, dnssec)| dnssec));
        question.edns = Some(edns);
    }
    question
}

async fn over_udp(
    bytes: &[u8],
    question: &Message,
    server: SocketAddr,
) -> Result<Message, Failure> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not answer this question may be forged: go on waiting for what does.
        let message = buffer.get(..length).and_then(|bytes| Message::from_vec(bytes).ok());
        if let Some(message) = message.filter(|message| answers(message, question)) {
            return Ok(message);
        }
    }
}

async fn over_tcp(
    bytes: &[u8],
    question: &Message,
    server: SocketAddr,
) -> Result<Message, Failure> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| Failure::Malformed)?;
    let mut framed = Vec::with_capacity(bytes.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let message = Message::from_vec(&buffer).map_err(|_| Failure::Malformed)?;
    if answers(&message, question) { Ok(message) } else { Err(Failure::Malformed) }
}

/// Whether a message answers a question. Some servers leave the question out of failures.
fn answers(message: &Message, question: &Message) -> bool {
    let failed = message.response_code != ResponseCode::NoError;
    message.message_type == MessageType::Response
        && message.id == question.id
        && (message.queries == question.queries || failed && message.queries.is_empty())
}

/// Takes away what concerned only the exchange with the resolver.
fn clean(mut message: Message) -> Message {
    message.edns = None;
    message.signature = None;
    message.metadata.id = 0;
    message.metadata.authoritative = false;
    message.metadata.authentic_data = false;
    message.metadata.truncation = false;
    message.metadata.recursion_available = true;
    message
}
