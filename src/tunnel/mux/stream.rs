//! The state of one stream: what was received and not read, what waits to be sent, and how each half ended.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// How much of what was received is kept in one piece.
const PIECE: usize = 32 << 10;

/// How a stream is coming up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Ours, and the peer has not said anything about it.
    Asked,
    /// The peer's, and our side is still dialling.
    Dialling,
    Open,
}

/// How the receiving half ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// All was received.
    Finished,
    /// Something may be missing; why.
    Failed(String),
}

/// What our side still has to say after the bytes that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// That nothing more comes, then the half is closed.
    Finishing,
    /// That the stream is over, because nobody uses it any more.
    Leaving,
    Closed,
}

/// A pause that was asked for. What the peer sent before it saw that may still be on its way; the pong to a ping sent
/// after the pause says that nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) ping: u64,
    pub(super) seen: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) opening: Opening,
    pub(super) inbox: Inbox,
    pub(super) outbox: BytesMut,
    pub(super) end: Option<End>,
    pub(super) sending: Sending,
    /// The peer forgot the stream; nothing is to be said about it any more.
    pub(super) over: bool,
    /// Nobody here uses the stream any more.
    pub(super) unused: bool,
    /// The peer must not be sent to.
    pub(super) held: bool,
    /// The peer was told not to send.
    pub(super) hold: Option<Hold>,
    /// It is in the queue of streams with something to say.
    pub(super) queued: bool,
    /// The peer has said something about it, so that it must know it.
    pub(super) known: bool,
    /// The peer's last list lacked it.
    pub(super) missed: bool,
}

impl Stream {
    pub(super) fn new(opening: Opening) -> Stream {
        Stream {
            opening,
            inbox: Inbox::default(),
            outbox: BytesMut::new(),
            end: None,
            sending: Sending::Open,
            over: false,
            unused: false,
            held: false,
            hold: None,
            queued: false,
            known: opening == Opening::Dialling,
            missed: false,
        }
    }

    /// Whether it has something to say that the peer allows.
    pub(super) fn wants_to_send(&self) -> bool {
        if self.over {
            return false;
        }
        let last_word = matches!(self.sending, Sending::Finishing | Sending::Leaving);
        if self.outbox.is_empty() { last_word } else { !self.held }
    }

    /// Ends both halves; bytes that were received can still be read.
    pub(super) fn end_with(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.over = true;
        self.sending = Sending::Closed;
        self.outbox = BytesMut::new();
    }

    /// Whether the table may forget it.
    pub(super) fn is_done(&self) -> bool {
        self.unused && (self.over || (self.end.is_some() && self.sending == Sending::Closed))
    }
}

/// Bytes in order. Pieces are copied out of the socket's buffers, which would outlive a few bytes of theirs otherwise, so
/// that what it holds is at most twice what it counts.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pieces: VecDeque<BytesMut>,
    len: usize,
}

impl Inbox {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.len += data.len();
        match self.pieces.back_mut() {
            Some(last) if last.len() + data.len() <= PIECE => last.extend_from_slice(data),
            _ => self.pieces.push_back(BytesMut::from(data)),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.len -= piece.len();
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        Some(piece.freeze())
    }

    /// Forgets all; says how much it was.
    pub(super) fn clear(&mut self) -> usize {
        self.pieces = VecDeque::new();
        std::mem::take(&mut self.len)
    }
}
