//! The bounds of a session, each with a name.

use std::time::Duration;

/// The most bytes of a Connect's `proto/address`.
pub const ADDRESS_MAX: usize = 266;
/// The most bytes of an error's text.
pub const ERROR_TEXT_MAX: usize = 100;

/// What one session may use and how long it waits. The defaults are those of K3s' tunnel where it has them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams at one time, dialled and accepted together.
    pub streams_max: usize,
    /// The largest WebSocket message taken from the peer.
    pub message_max: usize,
    /// A stream with more unread bytes pauses its peer.
    pub pause_above: usize,
    /// A paused stream with fewer unread bytes lets its peer go on.
    pub resume_below: usize,
    /// A stream with more unread bytes fails when its peer has seen the pause and goes on. What was under way before may
    /// fill `receive_total`.
    pub fail_above: usize,
    /// With more unread bytes over all streams, every stream that is not read is paused. With more of one stream, or
    /// twice as many of all, nothing is read from the peer for up to `unread_wait`.
    pub receive_total: usize,
    /// A stream that leaves no room and is not read for so long fails.
    pub unread_wait: Duration,
    /// Payload of one Data message.
    pub chunk: usize,
    /// Bytes of one stream that wait to be sent.
    pub send_buffer: usize,
    /// Control messages that may wait before nothing more is read from the peer.
    pub control_max: usize,
    /// How often the dialling side pings.
    pub ping_every: Duration,
    /// How often the dialling side tells which streams it knows.
    pub sync_every: Duration,
    /// A peer that was not heard for so long, or takes nothing for so long, is gone.
    pub deadline: Duration,
    /// How long opening a stream may take.
    pub dial_timeout: Duration,
    /// How long the WebSocket handshake may take.
    pub handshake_timeout: Duration,
}

#[cfg(any(test, fuzzing))]
impl Limits {
    /// Small enough to be reached.
    pub(crate) fn small() -> Limits {
        Limits {
            streams_max: 8,
            pause_above: 64,
            resume_below: 16,
            fail_above: 128,
            receive_total: 256,
            chunk: 16,
            send_buffer: 48,
            control_max: 32,
            ..Limits::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            streams_max: 1024,
            message_max: 1 << 20,
            pause_above: 2 << 20,
            resume_below: 256 << 10,
            fail_above: 4 << 20,
            receive_total: 16 << 20,
            unread_wait: Duration::from_secs(5),
            chunk: 16 << 10,
            send_buffer: 64 << 10,
            control_max: 1024,
            ping_every: Duration::from_secs(5),
            sync_every: Duration::from_secs(60),
            deadline: Duration::from_secs(60),
            dial_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}
