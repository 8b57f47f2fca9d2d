//! Where bundles come from: a URL, a registry, a file; for `ota`, which knows no network.

use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use ota::{FileSource, Source};
use runtime::image::{Reference, Registries, Remote};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const REGISTRY: &str = "oci://";
/// Pieces of a download that wait to be written.
const CHUNKS_WAITING_MAX: usize = 16;

/// Opens the source a text names; nothing of the bundle is read yet.
pub(crate) async fn open(text: &str, registries: Arc<Registries>) -> Result<Box<dyn Source>> {
    let remote = if text.starts_with("http://") || text.starts_with("https://") {
        Remote::url(text, registries)?
    } else if let Some(name) = text.strip_prefix(REGISTRY) {
        let reference = Reference::parse(name).with_context(|| format!("{text:?}"))?;
        Remote::artifact(&reference, registries, None).await?
    } else if Path::new(text).is_absolute() {
        let path = PathBuf::from(text);
        let opened = tokio::task::spawn_blocking(move || FileSource::open(&path)).await?;
        return Ok(Box::new(opened.with_context(|| format!("opening {text}"))?));
    } else {
        bail!(
            "expected an http or https URL, oci://REGISTRY/NAME:TAG or the absolute path of a file, not {text:?}"
        );
    };
    Ok(Box::new(RemoteSource { remote: Arc::new(remote), handle: Handle::current() }))
}

struct RemoteSource {
    remote: Arc<Remote>,
    handle: Handle,
}

impl Source for RemoteSource {
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let remote = self.remote.clone();
        let task = self.handle.spawn(async move { remote.read(range, sender).await });
        let handle = self.handle.clone();
        let mut reader = RemoteReader { chunks, current: Bytes::new(), task: Some(task), handle };
        // So that it is known from here on whether the server has ranges.
        reader.fill()?;
        Ok(Box::new(reader))
    }

    fn length(&self) -> Option<u64> {
        self.remote.length()
    }

    fn has_ranges(&self) -> bool {
        self.remote.has_ranges()
    }
}

/// A download read by a thread that may wait.
struct RemoteReader {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
    task: Option<JoinHandle<Result<(), runtime::image::Error>>>,
    handle: Handle,
}

impl RemoteReader {
    /// Waits for the next piece; the download's error is this reader's.
    fn fill(&mut self) -> io::Result<()> {
        if let Some(chunk) = self.chunks.blocking_recv() {
            self.current = chunk;
            return Ok(());
        }
        match self.task.take() {
            None => Ok(()),
            Some(task) => match self.handle.block_on(task) {
                Ok(ended) => ended.map_err(io::Error::other),
                Err(error) => Err(io::Error::other(error)),
            },
        }
    }
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.current.is_empty() {
            self.fill()?;
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sources_that_cannot_be_are_told() {
        for text in [
            "",
            "bundle.img",
            "ftp://host/x",
            "http://",
            "oci://UPPER/x",
            "/no/such/file",
            "/dev/zero",
            "/tmp",
        ] {
            assert!(open(text, Arc::default()).await.is_err(), "{text}");
        }
    }
}
