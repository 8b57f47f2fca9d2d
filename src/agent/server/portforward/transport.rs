//! The two ways SPDY bytes travel: in binary WebSocket messages, or plainly after an upgrade to SPDY.

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_tungstenite::tungstenite::Message;

use crate::server::upgrade::Socket;

const READ_BYTES: usize = 32 << 10;

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Plain = Box<dyn Io>;

pub(super) enum Reader {
    Messages(SplitStream<Socket>),
    Plain(ReadHalf<Plain>),
}

pub(super) enum Writer {
    Messages(SplitSink<Socket, Message>),
    Plain(WriteHalf<Plain>),
}

pub(super) fn messages(socket: Socket) -> (Reader, Writer) {
    let (sink, stream) = socket.split();
    (Reader::Messages(stream), Writer::Messages(sink))
}

pub(super) fn plain(io: Plain) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(io);
    (Reader::Plain(reader), Writer::Plain(writer))
}

impl Reader {
    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        match self {
            Reader::Messages(messages) => loop {
                match messages.next().await?.ok()? {
                    Message::Binary(bytes) => return Some(bytes),
                    Message::Close(_) | Message::Text(_) => return None,
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
            },
            Reader::Plain(io) => {
                let mut bytes = BytesMut::with_capacity(READ_BYTES);
                match io.read_buf(&mut bytes).await {
                    Ok(0) | Err(_) => None,
                    Ok(_) => Some(bytes.freeze()),
                }
            }
        }
    }
}

impl Writer {
    /// Sends one piece; none when the client is gone.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Option<()> {
        match self {
            Writer::Messages(messages) => messages.send(Message::Binary(bytes)).await.ok(),
            Writer::Plain(io) => {
                io.write_all(&bytes).await.ok()?;
                io.flush().await.ok()
            }
        }
    }

    pub(super) async fn close(&mut self) {
        match self {
            Writer::Messages(messages) => drop(messages.close().await),
            Writer::Plain(io) => drop(io.shutdown().await),
        }
    }
}
