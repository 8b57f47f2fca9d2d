//! A watch: the stream of changes to a collection after a revision.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::request::Query;
use crate::verbs::skipped;
use crate::{Body, Client, Error, ListParams, Object, PartialObject, ResourcePath, Result};

/// How long the server may keep one watch open.
const WATCH_SECONDS: u64 = 480;
/// How much longer we wait for it to end before we give the connection up.
const WATCH_SLACK: Duration = Duration::from_secs(20);
/// Longest line, which is one event.
const LINE_BYTES_MAX: usize = 8 << 20;

/// One change.
#[derive(Clone, Debug)]
pub enum WatchEvent<K> {
    Added(K),
    Modified(K),
    Deleted(K),
    /// Nothing changed up to this revision.
    Bookmark(String),
}

/// Reads the events of one watch.
pub struct Watcher<K> {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    scanned: usize,
    path: String,
    resource: ResourcePath,
    deadline: Instant,
    kind: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Client {
    /// Watches a collection after `revision`.
    pub async fn watch<K: Object>(
        &self,
        params: &ListParams,
        revision: &str,
    ) -> Result<Watcher<K>> {
        self.watch_at(ResourcePath::of::<K>(), params, revision).await
    }

    /// Watches a collection given by its path.
    pub async fn watch_at<K: Object>(
        &self,
        resource: ResourcePath,
        params: &ListParams,
        revision: &str,
    ) -> Result<Watcher<K>> {
        let watch = Some((revision, WATCH_SECONDS));
        let metadata_only = K::URL_PATH_SEGMENT.is_empty();
        let request = Query { params, limit: 0, continue_token: "", watch, metadata_only }
            .request(resource)?;
        let path = request.uri().path().to_owned();
        let response = self.open(request).await?;
        Ok(Watcher {
            body: response.into_body(),
            buffer: BytesMut::new(),
            scanned: 0,
            path,
            resource,
            deadline: Instant::now() + Duration::from_secs(WATCH_SECONDS) + WATCH_SLACK,
            kind: PhantomData,
        })
    }
}

impl<K: Object> Watcher<K> {
    /// The next event, or `None` when the server ended the watch in the ordinary way.
    pub async fn next(&mut self) -> Result<Option<WatchEvent<K>>> {
        loop {
            if let Some(event) = self.take()? {
                return Ok(Some(event));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Error::TooLarge { path: self.path.clone(), limit: LINE_BYTES_MAX });
            }
            let Ok(frame) = tokio::time::timeout_at(self.deadline, self.body.frame()).await else {
                return Ok(None);
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|source| Error::Transport {
                method: "WATCH".to_owned(),
                path: self.path.clone(),
                source,
            })?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// An event that has arrived already.
    pub(crate) fn take(&mut self) -> Result<Option<WatchEvent<K>>> {
        loop {
            let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n')
            else {
                self.scanned = self.buffer.len();
                return Ok(None);
            };
            let end = self.scanned + end;
            let event = decode(&self.buffer[..end], &self.path, self.resource);
            self.buffer.advance(end + 1);
            self.scanned = 0;
            if let Some(event) = event? {
                return Ok(Some(event));
            }
        }
    }
}

/// Decodes a line; blank lines, kinds of event that are unknown here and unreadable objects give `None`.
fn decode<K: Object>(
    line: &[u8],
    path: &str,
    resource: ResourcePath,
) -> Result<Option<WatchEvent<K>>> {
    let failed = |source| Error::Decode { what: format!("watch event of {path}"), source };
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(failed)?;
    let event: fn(K) -> WatchEvent<K> = match line.r#type {
        "ADDED" => WatchEvent::Added,
        "MODIFIED" => WatchEvent::Modified,
        "DELETED" => WatchEvent::Deleted,
        "BOOKMARK" => {
            let bookmark: PartialObject =
                serde_json::from_str(line.object.get()).map_err(failed)?;
            return Ok(Some(WatchEvent::Bookmark(
                bookmark.metadata.resource_version.unwrap_or_default(),
            )));
        }
        "ERROR" => {
            let status: api::Status = serde_json::from_str(line.object.get()).map_err(failed)?;
            return Err(Error::Api(Box::new(status)));
        }
        _ => return Ok(None),
    };
    match serde_json::from_str(line.object.get()) {
        Ok(object) => Ok(Some(event(object))),
        Err(error) => {
            skipped(line.object, resource, &error);
            Ok(None)
        }
    }
}
