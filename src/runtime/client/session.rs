//! Sessions: the descriptors of a command or an attachment, as streams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::connection::Answer;
use super::{Error, Runtime};
use crate::protocol::{ExecSpec, Reply};

const READ_CHUNK: usize = 16 << 10;
/// How long output may go on after a killed command's end, held open by its children.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A command in a container, or an attachment to one. With a terminal, `stdin` and `stdout` are the same master.
///
/// Dropping the descriptors hangs up: the command gets SIGPIPE or, with a terminal, SIGHUP once the connection that made it
/// ends.
#[derive(Debug)]
pub struct ExecSession {
    /// For [`Runtime::exec_wait`] and its kin; zero for an attachment.
    pub id: u64,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl ExecSession {
    pub(super) fn from_answer(answer: Answer) -> Result<ExecSession, Error> {
        let Reply::Session { session, fds: present } = answer.reply else {
            return Err(Error::Unexpected("exec"));
        };
        let mut fds = answer.fds.into_iter();
        let mut take = |wanted: bool| match (wanted, fds.len()) {
            (false, _) => Ok(None),
            (true, 0) => Err(Error::Session("a descriptor is missing".to_owned())),
            (true, _) => Ok(fds.next()),
        };
        Ok(ExecSession {
            id: session,
            stdin: take(present.stdin)?,
            stdout: take(present.stdout)?,
            stderr: take(present.stderr)?,
        })
    }
}

/// A pipe or terminal end as an asynchronous stream. The end of a terminal (`EIO`) reads as end of file.
#[derive(Debug)]
pub struct FdStream {
    fd: AsyncFd<OwnedFd>,
}

impl FdStream {
    /// Needs a tokio runtime with IO.
    pub fn new(fd: OwnedFd) -> io::Result<FdStream> {
        sys::fds::set_nonblocking(fd.as_fd(), true)?;
        #[expect(
            deprecated,
            reason = "OwnedFd keeps its descriptor open; the replacement is unsafe"
        )]
        Ok(FdStream { fd: AsyncFd::new(fd)? })
    }
}

impl AsyncRead for FdStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), space)?)) {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for FdStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Pipes end when the descriptor is dropped.
        Poll::Ready(Ok(()))
    }
}

impl std::os::fd::AsRawFd for FdStream {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// What a command run to its end gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// None when it was killed at the deadline.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

pub(super) async fn run_to_end(
    runtime: &Runtime,
    id: &str,
    args: Vec<String>,
    deadline: Duration,
    limit: usize,
) -> Result<ExecOutput, Error> {
    let mut session = runtime.exec(id, &ExecSpec { args, ..ExecSpec::default() }).await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let code = {
        let out = Capture::new(session.stdout.take(), &mut stdout, limit)?;
        let err = Capture::new(session.stderr.take(), &mut stderr, limit)?;
        let mut reading = Box::pin(async { tokio::join!(out.run(), err.run()) });
        let (code, drained) =
            wait_while_reading(runtime, session.id, deadline, reading.as_mut()).await?;
        if !drained {
            // What is still in the pipes belongs to the output; a child that keeps them open does not.
            let _ = timeout(DRAIN_TIMEOUT, reading).await;
        }
        code
    };
    Ok(ExecOutput { code, stdout, stderr })
}

/// The exit code (none when killed at the deadline) and whether the output has ended. Output may outlast the command (a
/// daemon it left behind), so the command's end counts.
async fn wait_while_reading(
    runtime: &Runtime,
    session: u64,
    deadline: Duration,
    mut reading: Pin<&mut impl Future<Output = ((), ())>>,
) -> Result<(Option<i32>, bool), Error> {
    let mut waiting = Box::pin(runtime.exec_wait(session));
    let mut drained = false;
    let ended = timeout(deadline, async {
        loop {
            tokio::select! {
                code = &mut waiting => return code,
                _ = &mut reading, if !drained => drained = true,
            }
        }
    })
    .await;
    match ended {
        Ok(code) => Ok((Some(code?), drained)),
        Err(_) => {
            runtime.exec_signal(session, nix::libc::SIGKILL).await?;
            Ok((None, drained))
        }
    }
}

struct Capture<'a> {
    stream: Option<FdStream>,
    into: &'a mut Vec<u8>,
    limit: usize,
}

impl<'a> Capture<'a> {
    fn new(fd: Option<OwnedFd>, into: &'a mut Vec<u8>, limit: usize) -> Result<Self, Error> {
        let stream =
            fd.map(FdStream::new).transpose().map_err(|error| Error::Session(error.to_string()))?;
        Ok(Capture { stream, into, limit })
    }

    /// Reads to the end; what is above the limit is thrown away so that the command does not block.
    async fn run(self) {
        let Some(mut stream) = self.stream else { return };
        let mut chunk = vec![0; READ_CHUNK];
        while let Ok(read) = stream.read(&mut chunk).await {
            if read == 0 {
                return;
            }
            let keep = read.min(self.limit.saturating_sub(self.into.len()));
            self.into.extend_from_slice(chunk.get(..keep).unwrap_or_default());
        }
    }
}
