//! A log as a stream of bytes; following waits for the kernel to say that the directory of the log has changed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use runtime::client::FdStream;
use tokio::io::AsyncReadExt;

use super::Options;
use super::read::Reader;

/// Room for a few notices; more of them only mean the same.
const NOTICE_BYTES: usize = 4096;

struct Follower {
    log: PathBuf,
    options: Options,
    reader: Option<Reader>,
    notices: Option<FdStream>,
    /// Ends when nothing more will be written.
    ended: BoxFuture<'static, ()>,
    over: bool,
}

/// The bytes of a log. With `follow` the stream goes on until `ended` has come and everything is read.
pub(crate) fn stream(
    log: &Path,
    options: Options,
    ended: BoxFuture<'static, ()>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let ended = ended.fuse().boxed();
    let first =
        Follower { log: log.to_owned(), options, reader: None, notices: None, ended, over: false };
    stream::unfold(Some(first), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.reader.is_none() && self.options.follow {
            // Watched before it is read, so that nothing falls between.
            self.notices = Some(watch(&self.log)?);
        }
        loop {
            let (chunk, full) = self.read().await?;
            if !chunk.is_empty() {
                return Ok(Some(chunk.into()));
            }
            if !self.options.follow || self.over || full {
                return Ok(None);
            }
            self.wait().await?;
        }
    }

    async fn read(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let reader = self.reader.take();
        let (log, options) = (self.log.clone(), self.options.clone());
        let work = move || -> io::Result<(Reader, Vec<u8>)> {
            let mut reader = match reader {
                Some(reader) => reader,
                None => Reader::open(&log, &options)?,
            };
            let chunk = reader.chunk()?;
            Ok((reader, chunk))
        };
        let (reader, chunk) =
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        let full = reader.full();
        self.reader = Some(reader);
        Ok((chunk, full))
    }

    async fn wait(&mut self) -> io::Result<()> {
        let Some(notices) = &mut self.notices else { return Ok(()) };
        let mut buffer = [0; NOTICE_BYTES];
        tokio::select! {
            read = notices.read(&mut buffer) => drop(read?),
            () = &mut self.ended => self.over = true,
        }
        Ok(())
    }
}

fn watch(log: &Path) -> io::Result<FdStream> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let directory = log.parent().unwrap_or(Path::new("/"));
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(directory, flags)?;
    FdStream::new(OwnedFd::from(inotify))
}
