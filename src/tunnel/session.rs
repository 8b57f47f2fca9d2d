//! A session as its owner has it.

use std::io;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role as SocketRole, WebSocketConfig};

use crate::driver::{Driver, Socket};
use crate::error::Error;
use crate::limits::Limits;
use crate::mux::{Mux, NotDialled, Role};
use crate::shared::{Shared, now};
use crate::stream::Stream;
use crate::{Accept, BoxIo};

/// What the socket buffers, in each direction.
const READ_BUFFER: usize = 16 << 10;
const WRITE_BUFFER: usize = 32 << 10;
/// The most that may wait in the socket: the buffer and the largest message of ours, which is a list of streams.
const WRITE_BUFFER_MAX: usize = 1 << 20;

/// What a session carries at this moment, and has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub streams: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Many streams over one connection. The session ends when the last clone is dropped, and its streams with it.
#[derive(Clone)]
pub struct Session {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    limits: Limits,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.fail(Error::Closed);
    }
}

/// Runs the server's side on a connection whose HTTP upgrade was answered.
pub fn serve(io: BoxIo, accept: Accept, limits: Limits) -> Session {
    // Without a handshake to do the future is ready at once; a task could not be started in a plain function else.
    let socket = WebSocketStream::from_raw_socket(io, SocketRole::Server, Some(config(&limits)));
    let (shared, session) = prepare(Role::Server, limits);
    match socket.now_or_never() {
        Some(socket) => start(socket, shared, accept, limits),
        None => shared.fail(Error::Closed),
    }
    session
}

pub(crate) fn client(socket: Socket, accept: Accept, limits: Limits) -> Session {
    let (shared, session) = prepare(Role::Client, limits);
    start(socket, shared, accept, limits);
    session
}

fn prepare(role: Role, limits: Limits) -> (Arc<Shared>, Session) {
    let shared = Arc::new(Shared::new(Mux::new(role, limits, now())));
    let owner = Owner { shared: Arc::clone(&shared), limits };
    (shared, Session { owner: Arc::new(owner) })
}

fn start(socket: Socket, shared: Arc<Shared>, accept: Accept, limits: Limits) {
    tokio::spawn(Driver::new(socket, shared, accept, limits).run());
}

pub(crate) fn config(limits: &Limits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(Some(limits.message_max))
        .max_frame_size(Some(limits.message_max))
}

impl Session {
    /// Opens a stream to an address that the peer may refuse; its reason is the error's text.
    pub async fn dial(&self, proto: &str, address: &str) -> io::Result<BoxIo> {
        let shared = &self.owner.shared;
        let id = shared.with(|state| state.mux.dial(proto, address)).map_err(not_dialled)?;
        let stream = Stream::new(Arc::clone(shared), id);
        let opened = std::future::poll_fn(|cx| stream.poll_opened(cx));
        match timeout(self.owner.limits.dial_timeout, opened).await {
            Ok(opened) => opened?,
            Err(_) => {
                let text =
                    format!("{proto}/{address} was not answered in time by the tunnel's peer");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        Ok(Box::new(stream))
    }

    /// Waits for the end of the session; says why it ended.
    pub async fn closed(&self) -> Error {
        let mut closed = self.owner.shared.closed.subscribe();
        let ended = closed.wait_for(Option::is_some).await;
        ended.ok().and_then(|error| error.clone()).unwrap_or(Error::Closed)
    }

    pub fn is_closed(&self) -> bool {
        self.owner.shared.with(|state| state.mux.failure().is_some())
    }

    /// Ends the session and with it all its streams.
    pub fn close(&self) {
        self.owner.shared.fail(Error::Closed);
    }

    pub fn counts(&self) -> Counts {
        self.owner.shared.with(|state| Counts {
            streams: state.mux.streams(),
            bytes_in: state.mux.bytes_in,
            bytes_out: state.mux.bytes_out,
        })
    }
}

fn not_dialled(error: NotDialled) -> io::Error {
    let kind = match error {
        NotDialled::Over(_) => io::ErrorKind::NotConnected,
        NotDialled::Address(_) => io::ErrorKind::InvalidInput,
        NotDialled::Streams(_) | NotDialled::Congested => io::ErrorKind::ResourceBusy,
    };
    io::Error::new(kind, error)
}
