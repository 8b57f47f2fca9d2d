//! One client's port forwarding: a task that reads its frames, and one for each forwarded connection. Streams have no
//! windows, so a pod that does not read holds up its client, as upstream.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dial::Target;
use super::pairs::{Effect, Pairs, Start};
use super::spdy;
use super::transport::{Reader, Writer};

/// Frames that wait for the client, of all its connections.
const OUTGOING_MAX: usize = 8;
/// Pieces that wait for one connection in the pod.
const INBOUND_MAX: usize = 8;
const READ_BYTES: usize = 16 << 10;
/// A client that says nothing for so long is gone; it is upstream's limit.
const IDLE_MAX: Duration = Duration::from_hours(4);
/// How often a client is pinged while a pod holds it up, so that one that is gone is noticed.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// How long a pod that has said all may go on to listen.
const LINGER: Duration = Duration::from_secs(10);
/// How long the farewell to a client may take.
const FAREWELL: Duration = Duration::from_secs(5);
const PROBE_PING: u32 = 2;

/// What a forwarded connection gets from its client.
enum Inbound {
    Bytes(Bytes),
    End,
}

/// Serves one client until it leaves.
pub(super) async fn run((mut reader, mut writer): (Reader, Writer), target: Target) {
    let (outgoing, mut queue) = mpsc::channel(OUTGOING_MAX);
    let writing = async {
        while let Some(frame) = queue.recv().await {
            if writer.send(frame).await.is_none() {
                return;
            }
        }
    };
    let mut client = Client {
        target,
        outgoing,
        pairs: Pairs::new(),
        connections: HashMap::new(),
        tasks: JoinSet::new(),
        leaving: false,
    };
    tokio::select! {
        () = client.serve(&mut reader) => {}
        () = writing => {}
    }
    drop(client);
    drop(timeout(FAREWELL, writer.close()).await);
}

struct Client {
    target: Target,
    outgoing: mpsc::Sender<Bytes>,
    pairs: Pairs,
    /// The way to each connection by its data stream.
    connections: HashMap<u32, mpsc::Sender<Inbound>>,
    tasks: JoinSet<u32>,
    /// It opens no more streams.
    leaving: bool,
}

impl Client {
    async fn serve(&mut self, reader: &mut Reader) {
        while !(self.leaving && self.tasks.is_empty()) {
            let expiry = self.pairs.next_expiry();
            let expired = async {
                match expiry {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let effects = tokio::select! {
                read = timeout(IDLE_MAX, reader.next()) => {
                    let Ok(Some(bytes)) = read else { return };
                    match self.pairs.step(&bytes, Instant::now()) {
                        Ok(effects) => effects,
                        Err(bad) => {
                            tracing::debug!(%bad, "port forwarding ended: the client broke the protocol");
                            return;
                        }
                    }
                }
                () = expired => self.pairs.expire(Instant::now()),
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(data) = ended {
                        self.pairs.ended(data);
                        self.connections.remove(&data);
                    }
                    continue;
                }
            };
            for effect in effects {
                self.carry_out(effect).await;
            }
        }
    }

    async fn carry_out(&mut self, effect: Effect) {
        match effect {
            // A writer that is gone ends the whole.
            Effect::Send(frame) => drop(self.outgoing.send(frame).await),
            Effect::Start(start) => {
                let (sender, inbound) = mpsc::channel(INBOUND_MAX);
                self.connections.insert(start.data, sender);
                let (target, outgoing) = (self.target.clone(), self.outgoing.clone());
                self.tasks.spawn(connect(target, start, inbound, outgoing));
            }
            Effect::Deliver(data, bytes) => self.deliver(data, Inbound::Bytes(bytes)).await,
            Effect::Finish(data) => self.deliver(data, Inbound::End).await,
            Effect::Abandon(data) => drop(self.connections.remove(&data)),
            Effect::GoAway => self.leaving = true,
        }
    }

    async fn deliver(&self, data: u32, item: Inbound) {
        let Some(connection) = self.connections.get(&data) else { return };
        let mut sending = std::pin::pin!(connection.send(item));
        // A connection that has ended takes nothing more, and needs not.
        while timeout(PROBE_EVERY, &mut sending).await.is_err() {
            drop(self.outgoing.send(spdy::ping(PROBE_PING)).await);
        }
    }
}

/// Forwards one connection, tells the client how it ended, and gives its data stream.
async fn connect(
    target: Target,
    start: Start,
    inbound: mpsc::Receiver<Inbound>,
    outgoing: mpsc::Sender<Bytes>,
) -> u32 {
    match target.dial(start.port).await {
        Ok(stream) => forward(stream, start, inbound, &outgoing).await,
        Err(text) => {
            tracing::debug!(error = text, "port forwarding failed");
            drop(outgoing.send(spdy::data(start.error, text.as_bytes(), false)).await);
            finish(start, &outgoing).await;
        }
    }
    start.data
}

/// Says that both streams are over.
async fn finish(start: Start, outgoing: &mpsc::Sender<Bytes>) {
    for stream in [start.data, start.error] {
        drop(outgoing.send(spdy::data(stream, &[], true)).await);
    }
}

async fn forward(
    stream: TcpStream,
    start: Start,
    inbound: mpsc::Receiver<Inbound>,
    outgoing: &mpsc::Sender<Bytes>,
) {
    let (reading, writing) = stream.into_split();
    let mut down = std::pin::pin!(to_client(reading, start.data, outgoing));
    let mut up = std::pin::pin!(to_pod(writing, inbound));
    let abandoned = tokio::select! {
        () = &mut down => false,
        wanted = &mut up => match wanted {
            Wanted::Answer => {
                down.await;
                return finish(start, outgoing).await;
            }
            Wanted::Nothing => true,
        },
    };
    finish(start, outgoing).await;
    if !abandoned {
        drop(timeout(LINGER, up).await);
    }
}

/// What a client that sends no more still wants.
enum Wanted {
    Answer,
    Nothing,
}

async fn to_pod(mut writing: OwnedWriteHalf, mut inbound: mpsc::Receiver<Inbound>) -> Wanted {
    let mut open = true;
    while let Some(item) = inbound.recv().await {
        match item {
            // A pod that reads no more may still answer.
            Inbound::Bytes(bytes) if open => open = writing.write_all(&bytes).await.is_ok(),
            Inbound::Bytes(_) => {}
            Inbound::End => {
                drop(writing.shutdown().await);
                return Wanted::Answer;
            }
        }
    }
    Wanted::Nothing
}

/// Nothing is allocated while the pod says nothing.
async fn to_client(reading: OwnedReadHalf, data: u32, outgoing: &mpsc::Sender<Bytes>) {
    loop {
        if reading.readable().await.is_err() {
            return;
        }
        let mut frame = BytesMut::with_capacity(spdy::HEADER + READ_BYTES);
        frame.put_bytes(0, spdy::HEADER);
        match reading.try_read_buf(&mut frame) {
            Ok(0) => return,
            Ok(len) => {
                frame[..spdy::HEADER].copy_from_slice(&spdy::data_header(data, len, false));
                if outgoing.send(frame.freeze()).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "forwarded connection ended");
                return;
            }
        }
    }
}
