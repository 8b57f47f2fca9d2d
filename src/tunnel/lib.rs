//! Many byte streams over one WebSocket, which one side dials and both sides use: so a server reaches nodes that it cannot
//! connect to. The messages are those of K3s' tunnel.
//!
//! It knows neither TLS nor Kubernetes: it works on any byte stream, and what an address means is up to the side that is
//! asked for it. `mux` decides without IO; one task per session moves bytes between it and the socket. A stream is
//! paused alone when its reader is slow, every buffer is bounded by `Limits`, and a peer that falls silent ends the
//! session, which ends every stream with an error.

mod driver;
mod error;
mod frame;
mod handshake;
mod limits;
mod mux;
#[cfg(fuzzing)]
mod noise;
mod pump;
mod session;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

pub use error::Error;
pub use handshake::{connect, handshake_response};
pub use limits::{ADDRESS_MAX, ERROR_TEXT_MAX, Limits};
#[cfg(fuzzing)]
pub use noise::noise;
pub use session::{Counts, Session, serve};

/// A connection in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

pub type BoxIo = Box<dyn Io>;

/// Answers the peer's wish for a stream to an address: gives what the stream leads to, or says why not.
pub type Accept = Arc<
    dyn Fn(
            String, /* proto */
            String, /* address */
        ) -> BoxFuture<'static, io::Result<BoxIo>>
        + Send
        + Sync,
>;
