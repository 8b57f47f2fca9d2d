//! Why a session did not come up or ended.

use std::time::Duration;

/// The end of a session, or of the attempt to make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("tunnel closed by this side")]
    Closed,
    #[error("tunnel closed by the peer")]
    ClosedByPeer,
    #[error("tunnel peer was not heard for {0:?}")]
    Silent(Duration),
    #[error("tunnel peer took nothing for {0:?}")]
    Stalled(Duration),
    #[error("tunnel peer broke the protocol: {0}")]
    Protocol(String),
    #[error("tunnel connection failed: {0}")]
    Connection(String),
    #[error("tunnel handshake failed: {0}")]
    Handshake(String),
    #[error("tunnel handshake was answered with status {status}, expected 101: {body}")]
    Refused { status: u16, body: String },
}
