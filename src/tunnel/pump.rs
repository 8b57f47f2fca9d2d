//! Copies between a stream that the peer opened and what its address led to. It keeps no buffers while nothing moves.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::BoxIo;
use crate::stream::Stream;

/// The most that is read in one go, on the stack.
const READ_MAX: usize = 16 << 10;
/// How often one direction may go on before the other gets its turn.
const ROUNDS_MAX: usize = 8;

struct Pump {
    stream: Stream,
    io: BoxIo,
    /// Received and not written yet.
    piece: Bytes,
    unflushed: bool,
    received_all: bool,
    inbound_done: bool,
    outbound_done: bool,
}

/// Copies until both directions are done or one fails.
pub(crate) async fn pump(stream: Stream, io: BoxIo) {
    let mut pump = Pump {
        stream,
        io,
        piece: Bytes::new(),
        unflushed: false,
        received_all: false,
        inbound_done: false,
        outbound_done: false,
    };
    let ended = std::future::poll_fn(|cx| pump.poll(cx)).await;
    if let Err((side, error)) = ended {
        tracing::debug!(%error, side, "tunnelled stream ended early");
        if side == Side::Io.name() {
            pump.stream.refused(&error.to_string());
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Stream,
    Io,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Stream => "tunnel",
            Side::Io => "address",
        }
    }
}

type Failure = (&'static str, io::Error);

fn on(side: Side) -> impl Fn(io::Error) -> Failure {
    move |error| (side.name(), error)
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        for _ in 0..ROUNDS_MAX {
            let inbound = self.inbound_done || self.poll_inbound(cx)?.is_pending();
            let outbound = self.outbound_done || self.poll_outbound(cx)?.is_pending();
            if self.inbound_done && self.outbound_done {
                return Poll::Ready(Ok(()));
            }
            if inbound && outbound {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One step from the tunnel to the address.
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.piece.is_empty() && !self.received_all {
            match self.stream.poll_piece(cx).map_err(on(Side::Stream))? {
                Poll::Ready(Some(piece)) => self.piece = piece,
                Poll::Ready(None) => self.received_all = true,
                Poll::Pending if self.unflushed => return self.poll_flush(cx),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.piece.is_empty() {
            let shutdown = Pin::new(&mut self.io).poll_shutdown(cx).map_err(on(Side::Io))?;
            self.inbound_done = shutdown.is_ready();
            return shutdown.map(Ok);
        }
        match Pin::new(&mut self.io).poll_write(cx, &self.piece).map_err(on(Side::Io))? {
            Poll::Ready(0) => Poll::Ready(Err(on(Side::Io)(io::ErrorKind::WriteZero.into()))),
            Poll::Ready(written) => {
                self.piece.advance(written);
                if self.piece.is_empty() {
                    self.piece = Bytes::new();
                }
                self.unflushed = true;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Flushes while nothing more comes from the tunnel, whose waker is registered already.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if Pin::new(&mut self.io).poll_flush(cx).map_err(on(Side::Io))?.is_ready() {
            self.unflushed = false;
        }
        Poll::Pending
    }

    /// One step from the address to the tunnel.
    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let room = match self.stream.poll_room(cx) {
            Poll::Ready(Ok(room)) => room.min(READ_MAX),
            Poll::Ready(Err(error)) => return self.outbound_over(error),
            Poll::Pending => return Poll::Pending,
        };
        let mut space = [const { MaybeUninit::<u8>::uninit() }; READ_MAX];
        let mut buf = ReadBuf::uninit(&mut space[..room]);
        let read = Pin::new(&mut self.io).poll_read(cx, &mut buf).map_err(on(Side::Io))?;
        if read.is_pending() {
            return match self.stream.poll_over(cx) {
                Poll::Ready(error) => self.outbound_over(error),
                Poll::Pending => Poll::Pending,
            };
        }
        if buf.filled().is_empty() {
            self.stream.finish();
            self.outbound_done = true;
        } else if let Err(error) = self.stream.write(buf.filled()) {
            return self.outbound_over(error);
        }
        Poll::Ready(Ok(()))
    }

    /// The peer takes nothing more. If all is well, what it sent before is still delivered.
    fn outbound_over(&mut self, error: io::Error) -> Poll<Result<(), Failure>> {
        if error.kind() != io::ErrorKind::BrokenPipe {
            return Poll::Ready(Err(on(Side::Stream)(error)));
        }
        self.outbound_done = true;
        Poll::Ready(Ok(()))
    }
}
