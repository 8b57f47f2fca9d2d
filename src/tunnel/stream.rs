//! A stream of a session as its user has it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frame::StreamId;
use crate::mux::{End, Opened, Read};
use crate::shared::{Shared, now};

/// One stream; dropping it ends it after what was written.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    id: StreamId,
    /// Taken from the session and not read yet.
    current: Bytes,
}

impl Stream {
    pub(crate) fn new(shared: Arc<Shared>, id: StreamId) -> Stream {
        Stream { shared, id, current: Bytes::new() }
    }

    pub(crate) fn poll_opened(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|state| match state.mux.opened(self.id, now()) {
            Opened::Open => Poll::Ready(Ok(())),
            Opened::Refused(why) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, why)))
            }
            Opened::Waiting => {
                state.wait_readable(self.id, cx.waker());
                Poll::Pending
            }
        })
    }

    /// The next piece of what was received; none at its end.
    pub(crate) fn poll_piece(&self, cx: &Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.shared.with(|state| match state.mux.read(self.id) {
            Read::Bytes(bytes) => Poll::Ready(Ok(Some(bytes))),
            Read::End(End::Finished) => Poll::Ready(Ok(None)),
            Read::End(End::Failed(why)) => Poll::Ready(Err(reset(why))),
            Read::Nothing => {
                state.wait_readable(self.id, cx.waker());
                Poll::Pending
            }
        })
    }

    /// How much can be written.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        self.shared.with(|state| match state.mux.room(self.id) {
            Some(0) => {
                state.wait_writable(self.id, cx.waker());
                Poll::Pending
            }
            Some(room) => Poll::Ready(Ok(room)),
            None => Poll::Ready(Err(closed(state.mux.write_failure(self.id)))),
        })
    }

    /// Waits until nothing can be written any more; gives the reason.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<io::Error> {
        self.shared.with(|state| {
            if state.mux.room(self.id).is_none() {
                return Poll::Ready(closed(state.mux.write_failure(self.id)));
            }
            state.wait_writable(self.id, cx.waker());
            Poll::Pending
        })
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.with(|state| {
            let taken = state.mux.write(self.id, bytes);
            taken.ok_or_else(|| closed(state.mux.write_failure(self.id)))
        })
    }

    pub(crate) fn finish(&self) {
        self.shared.with(|state| state.mux.finish(self.id));
    }

    pub(crate) fn accepted(&self) {
        self.shared.with(|state| state.mux.accepted(self.id));
    }

    pub(crate) fn refused(&self, why: &str) {
        self.shared.with(|state| state.mux.refused(self.id, why));
    }
}

fn reset(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

fn closed(why: Option<String>) -> io::Error {
    why.map_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "stream is closed"), reset)
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.with(|state| state.forget(self.id));
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.current.is_empty() {
            match stream.poll_piece(cx) {
                Poll::Ready(Ok(Some(piece))) => stream.current = piece,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let taken = stream.current.len().min(buf.remaining());
        buf.put_slice(&stream.current.split_to(taken));
        if stream.current.is_empty() {
            stream.current = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.poll_room(cx) {
            Poll::Ready(Ok(_)) => Poll::Ready(self.write(buf)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}
