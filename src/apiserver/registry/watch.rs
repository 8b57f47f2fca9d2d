//! Watch: the state first where the client asks for it, then every change, bookmarks, and an end in good time.
//!
//! Nothing is sent ahead of the client: the next events are taken from the store when the connection wants more, so a
//! slow client holds one chunk here and falls out of the store's bounded history instead of filling memory.

use super::list::{MATCH, asked_revision, invalid_options, number, range};
use super::{Context, store_error};
use crate::answer::{self, Answer, Form, Result};
use crate::request::Query;
use crate::select::Selection;
use crate::{ApiServer, BoxError, object};
use api::{FieldError, Resource, Status};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use store::{Entry, Event, EventKind, ListOptions, Revision};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// Events are gathered up to about this size before they go out together.
const CHUNK_BYTES: usize = 64 * 1024;
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after this, plus up to as much again.
const TIMEOUT_MIN_SECONDS: u64 = 1800;
const TIMEOUT_MAX_SECONDS: u64 = 24 * 3600;

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One client's watch.
struct Watcher {
    server: Arc<ApiServer>,
    res: &'static Resource,
    selection: Selection,
    form: Form,
    changes: store::Watch,
    initial: VecDeque<Entry>,
    pending: VecDeque<Event>,
    /// The state the initial events show, until the bookmark after them is sent.
    initial_end: Option<Revision>,
    bookmarks: bool,
    next_bookmark: Instant,
    bookmarked: Revision,
    deadline: Instant,
    closing: tokio::sync::watch::Receiver<bool>,
    header_sent: bool,
    finished: bool,
    _permit: OwnedSemaphorePermit,
}

/// Why a waiting watch goes on.
enum Woken {
    Closed,
    Changed(std::result::Result<Vec<Event>, store::Error>),
    Due,
}

/// What the client asked for beyond the selection.
struct Wish {
    after: Option<Revision>,
    initial_events: bool,
    mark_initial_end: bool,
    bookmarks: bool,
    timeout: Duration,
}

pub(super) async fn watch(cx: &Context<'_>) -> Result<Answer> {
    let mut selection = Selection::from_query(cx.res, cx.query)?;
    if !cx.target.name.is_empty() {
        selection.require_name(&cx.target.name);
    }
    let wish = Wish::read(cx.query)?;
    let permit = cx.server.watch_permit()?;
    let range = range(cx.res, &cx.target.namespace, &selection);
    let store = &cx.server.config.store;
    let (initial, start) = match wish.initial_events {
        true => {
            let page =
                store.list(&range, ListOptions::default()).await.map_err(|e| store_error(&e))?;
            if let Some(asked) = wish.after.filter(|asked| *asked > page.revision) {
                return Err(store_error(&store::Error::Future {
                    requested: asked,
                    current: page.revision,
                }));
            }
            let entries =
                page.entries.into_iter().filter(|e| selection.matches(cx.res, &e.value)).collect();
            (entries, page.revision)
        }
        false => (VecDeque::new(), wish.after.unwrap_or_default()),
    };
    let changes = match store.watch(&range, start) {
        Ok(changes) => changes,
        // Once the parameters are valid, clients expect errors of a watch as its events.
        Err(store::Error::Compacted { oldest }) => {
            return Ok(error_stream(&Status::too_old_resource_version(start, oldest)));
        }
        Err(other) => return Err(store_error(&other)),
    };
    let now = Instant::now();
    let watcher = Watcher {
        server: cx.server.clone(),
        res: cx.res,
        selection,
        form: cx.form,
        changes,
        initial,
        pending: VecDeque::new(),
        initial_end: wish.mark_initial_end.then_some(start),
        bookmarks: wish.bookmarks,
        next_bookmark: now + BOOKMARK_INTERVAL,
        bookmarked: start,
        deadline: now + wish.timeout,
        closing: cx.server.closing(),
        header_sent: false,
        finished: false,
        _permit: permit,
    };
    let stream = futures_util::stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next_chunk().await?;
        Some((Ok::<_, BoxError>(Frame::data(chunk)), watcher))
    });
    Ok(Answer::Response(stream_response(StreamBody::new(stream).boxed_unsync())))
}

fn stream_response(body: crate::Body) -> Response<crate::Body> {
    let mut response = answer::json_response(StatusCode::OK, Bytes::new());
    *response.body_mut() = body;
    response
}

fn error_stream(status: &Status) -> Answer {
    let mut chunk = BytesMut::new();
    write_event(&mut chunk, "ERROR", &status.to_bytes());
    Answer::Response(stream_response(answer::full(chunk.freeze())))
}

fn write_event(chunk: &mut BytesMut, kind: &str, object: &[u8]) {
    chunk.put_slice(b"{\"type\":\"");
    chunk.put_slice(kind.as_bytes());
    chunk.put_slice(b"\",\"object\":");
    chunk.put_slice(object);
    chunk.put_slice(b"}\n");
}

impl Wish {
    fn read(query: &Query) -> Result<Self> {
        let after = asked_revision(query)?.filter(|v| *v > 0);
        let invalid = |error: FieldError| Err(invalid_options(error));
        let send_initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let matching = query.get("resourceVersionMatch");
        match (send_initial, matching) {
            (Some(_), Some("NotOlderThan")) | (None, None) => {}
            (Some(_), None) => {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                return invalid(FieldError::forbidden(MATCH, why));
            }
            (Some(_), Some(other)) => {
                return invalid(FieldError::not_supported(MATCH, other, &["NotOlderThan"]));
            }
            (None, Some(_)) => {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                return invalid(FieldError::forbidden(MATCH, why));
            }
        }
        let seconds = match number(query, "timeoutSeconds")?.filter(|n| *n > 0) {
            Some(seconds) => seconds.min(TIMEOUT_MAX_SECONDS),
            None => TIMEOUT_MIN_SECONDS + spread(TIMEOUT_MIN_SECONDS),
        };
        let bookmarks = query.flag("allowWatchBookmarks");
        Ok(Self {
            after,
            initial_events: send_initial.unwrap_or(after.is_none()),
            mark_initial_end: send_initial == Some(true) && bookmarks,
            bookmarks,
            timeout: Duration::from_secs(seconds),
        })
    }
}

/// Some number below `limit`, so that watches that began together do not end together.
fn spread(limit: u64) -> u64 {
    let byte = object::random_bytes(1).ok().and_then(|b| b.first().copied()).unwrap_or_default();
    u64::from(byte) * limit / 256
}

impl Watcher {
    /// The next events as one chunk; `None` ends the stream.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        while !self.finished && chunk.is_empty() {
            if let Err(status) = self.fill(&mut chunk).await {
                write_event(&mut chunk, "ERROR", &status.to_bytes());
                self.finished = true;
            }
        }
        (!chunk.is_empty()).then(|| chunk.freeze())
    }

    async fn fill(&mut self, chunk: &mut BytesMut) -> Result<()> {
        while let Some(entry) = self.initial.pop_front() {
            self.write(chunk, "ADDED", entry.value)?;
            if chunk.len() >= CHUNK_BYTES {
                return Ok(());
            }
        }
        if let Some(revision) = self.initial_end.take() {
            let bookmark = self.bookmark(revision, true);
            write_event(chunk, "BOOKMARK", &bookmark);
            return Ok(());
        }
        if !chunk.is_empty() {
            return Ok(());
        }
        if self.pending.is_empty() {
            self.wait(chunk).await?;
        }
        while let Some(event) = self.pending.pop_front() {
            self.tell(chunk, event)?;
            if chunk.len() >= CHUNK_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Waits for changes, for the time of a bookmark, or for the end.
    async fn wait(&mut self, chunk: &mut BytesMut) -> Result<()> {
        let bookmark_due = if self.bookmarks { self.next_bookmark } else { self.deadline };
        let woken = tokio::select! {
            biased;
            () = crate::server::closed(&mut self.closing) => Woken::Closed,
            events = self.changes.next() => Woken::Changed(events),
            () = tokio::time::sleep_until(self.deadline.min(bookmark_due)) => Woken::Due,
        };
        match woken {
            Woken::Closed => self.finished = true,
            Woken::Changed(Ok(events)) => self.pending.extend(events),
            Woken::Changed(Err(store::Error::Closed)) => self.finished = true,
            Woken::Changed(Err(_)) => {
                return Err(Status::too_old_resource_version(
                    self.bookmarked,
                    self.changes.progress(),
                ));
            }
            Woken::Due => {
                let now = Instant::now();
                self.finished = now >= self.deadline;
                let progress = self.changes.progress();
                // A last bookmark before the end saves the client a list when it comes back.
                if self.bookmarks && progress > self.bookmarked {
                    let bookmark = self.bookmark(progress, false);
                    write_event(chunk, "BOOKMARK", &bookmark);
                    self.bookmarked = progress;
                }
                self.next_bookmark = now + BOOKMARK_INTERVAL;
            }
        }
        Ok(())
    }

    /// Tells a change as the selection sees it: an object that begins to match is added, one that ceases is deleted.
    fn tell(&mut self, chunk: &mut BytesMut, event: Event) -> Result<()> {
        let revision = event.entry.modified;
        let before = event.previous.filter(|p| self.selection.matches(self.res, &p.value));
        let now = match event.kind {
            EventKind::Put => {
                Some(event.entry).filter(|e| self.selection.matches(self.res, &e.value))
            }
            EventKind::Delete => None,
        };
        self.bookmarked = revision;
        match (before, now) {
            (None, None) => Ok(()),
            (None, Some(entry)) => self.write(chunk, "ADDED", entry.value),
            (Some(_), Some(entry)) => self.write(chunk, "MODIFIED", entry.value),
            (Some(last), None) => {
                let last = object::restamp(object::storage_form(self.res), &last.value, revision);
                self.write(chunk, "DELETED", last)
            }
        }
    }

    fn write(&mut self, chunk: &mut BytesMut, kind: &str, stored: Bytes) -> Result<()> {
        let mut bytes = answer::one(self.res, stored, self.form)?;
        if matches!(self.form, Form::Table(_)) {
            // Only the first table of a stream carries the columns.
            if std::mem::replace(&mut self.header_sent, true) {
                let mut table = object::decode(&bytes)?;
                object::set(&mut table, &["columnDefinitions"], Value::Null);
                bytes = table.to_string().into();
            }
        }
        write_event(chunk, kind, &bytes);
        Ok(())
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let (kind, version) = match self.form {
            Form::Plain => (self.res.kind, self.res.api_version()),
            Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            Form::Table(_) => {
                let table = json!({
                    "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": null, "rows": [],
                    "metadata": metadata,
                });
                return table.to_string().into();
            }
        };
        json!({"kind": kind, "apiVersion": version, "metadata": metadata}).to_string().into()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        tracing::trace!(
            resource = self.res.plural,
            watches = self.server.watches_free(),
            "watch ended"
        );
    }
}
