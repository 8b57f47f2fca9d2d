//! Output of containers: from their pipes or terminals into logs and to whoever is attached.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read, write};

use super::dispatch::no_such;
use super::job::{failure, internal};
use super::log::Stream;
use super::server::{Server, Source};
use crate::protocol::{Failure, FailureKind, Reply, SessionFds, State};

/// Bytes read from one stream before others get their turn.
pub(super) const READ_CHUNK: usize = 64 << 10;
/// Reads of one stream when a container has ended: its pipe holds no more than 16 of these.
const DRAIN_READS: usize = 64;
/// Attachments to one container at once.
const SINKS_MAX: usize = 8;
/// What an attached reader may lag behind before output is dropped for it.
const SINK_BYTES: i32 = 1 << 20;

/// A stream we read.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) fd: OwnedFd,
    pub(super) token: u64,
}

/// Someone attached.
#[derive(Debug)]
pub(super) struct Sink {
    out: OwnedFd,
    err: Option<OwnedFd>,
}

enum Read {
    Some,
    Later,
    End,
}

impl Server {
    /// Opens our end of a stream's named pipe and waits for output.
    pub(super) fn open_output(&mut self, id: &str, stream: Stream) -> io::Result<Outlet> {
        let name = if stream == Stream::Out { "stdout" } else { "stderr" };
        let path = self.layout.fifo(id, name);
        let file =
            OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        self.watch_output(id, stream, file.into())
    }

    pub(super) fn watch_output(
        &mut self,
        id: &str,
        stream: Stream,
        fd: OwnedFd,
    ) -> io::Result<Outlet> {
        sys::fds::set_nonblocking(fd.as_fd(), true)?;
        let token = self.watch(fd.as_fd(), Source::Output(id.to_owned(), stream))?;
        Ok(Outlet { fd, token })
    }

    pub(super) fn output_ready(&mut self, id: &str, stream: Stream) {
        if let Read::End = self.pump(id, stream) {
            self.close_output(id, stream);
        }
    }

    /// Takes what is in the pipes after the container's end. What others still hold open stays watched.
    pub(super) fn drain(&mut self, id: &str) {
        for stream in [Stream::Out, Stream::Err] {
            for _ in 0..DRAIN_READS {
                match self.pump(id, stream) {
                    Read::Some => {}
                    Read::Later => break,
                    Read::End => {
                        self.close_output(id, stream);
                        break;
                    }
                }
            }
        }
    }

    fn pump(&mut self, id: &str, stream: Stream) -> Read {
        let Some(entry) = self.containers.get_mut(id) else { return Read::Later };
        let outlet = if stream == Stream::Out { &entry.out } else { &entry.err };
        let Some(outlet) = outlet else { return Read::Later };
        match read(&outlet.fd, &mut self.buffer) {
            // EIO: the last process has closed the terminal.
            Ok(0) | Err(Errno::EIO) => Read::End,
            Ok(count) => {
                let bytes = self.buffer.get(..count).unwrap_or_default();
                entry.log.write(stream, bytes, Timestamp::now());
                entry.sinks.retain(|sink| sink.offer(stream, bytes));
                Read::Some
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Read::Later,
            Err(error) => {
                tracing::warn!(id, %error, "cannot read container output");
                Read::End
            }
        }
    }

    fn close_output(&mut self, id: &str, stream: Stream) {
        let Some(entry) = self.containers.get_mut(id) else { return };
        entry.log.finish(stream, Timestamp::now());
        let outlet = if stream == Stream::Out { entry.out.take() } else { entry.err.take() };
        if entry.out.is_none() && entry.err.is_none() {
            // Those attached see the end.
            entry.sinks.clear();
        }
        if let Some(outlet) = outlet {
            self.forget(outlet.fd.as_fd(), outlet.token);
        }
    }

    pub(super) fn attach(
        &mut self,
        id: &str,
        stdin: bool,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let entry = self.containers.get_mut(id).ok_or_else(|| no_such("container", id))?;
        if entry.record.status.state != State::Running {
            return Err(failure(FailureKind::State, format!("container {id} is not running")));
        }
        if entry.sinks.len() >= SINKS_MAX {
            return Err(failure(
                FailureKind::Limit,
                format!("container {id} has {SINKS_MAX} attachments"),
            ));
        }
        let tty = entry.record.spec.tty;
        let broken = |error: Errno| internal(format!("attach to {id}: {error}"));
        let input = match (stdin, tty) {
            (false, _) => None,
            (true, true) => entry.out.as_ref().map(|outlet| outlet.fd.try_clone()),
            // Given away, so that its end is the end of the container's input.
            (true, false) if entry.record.spec.stdin_once => entry.stdin.take().map(Ok),
            (true, false) => entry.stdin.as_ref().map(OwnedFd::try_clone),
        };
        let input =
            input.transpose().map_err(|error| internal(format!("attach to {id}: {error}")))?;
        let (out_read, out) = sink_pipe().map_err(broken)?;
        let (err_read, err) = match tty {
            true => (None, None),
            false => sink_pipe().map(|(read, write)| (Some(read), Some(write))).map_err(broken)?,
        };
        entry.sinks.push(Sink { out, err });
        let fds = SessionFds { stdin: input.is_some(), stdout: true, stderr: err_read.is_some() };
        let all = [input, Some(out_read), err_read].into_iter().flatten().collect();
        Ok((Reply::Session { session: 0, fds }, all))
    }

    pub(super) fn resize_container(
        &mut self,
        id: &str,
        columns: u16,
        rows: u16,
    ) -> Result<(), Failure> {
        let entry = self.entry(id)?;
        match &entry.out {
            Some(outlet) if entry.record.spec.tty => {
                sys::pty::set_window_size(outlet.fd.as_fd(), columns, rows)
                    .map_err(|error| internal(format!("resize {id}: {error}")))
            }
            _ => Err(failure(FailureKind::State, format!("container {id} has no terminal"))),
        }
    }
}

fn sink_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // A smaller pipe only drops earlier.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SINK_BYTES));
    Ok((read, write))
}

impl Sink {
    /// False when the other side has gone.
    fn offer(&self, stream: Stream, bytes: &[u8]) -> bool {
        let to = match (stream, &self.err) {
            (Stream::Err, Some(err)) => err,
            _ => &self.out,
        };
        !matches!(write(to, bytes), Err(Errno::EPIPE))
    }
}
