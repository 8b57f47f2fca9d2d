//! The event recorder: tells users what happened to an object, without ever holding up the one who tells it.
//!
//! Repeats of an event become a higher count of the first one. What does not fit the bounds is dropped, the oldest first.
//! While the server is away events wait for it, repeats as one, until they are too old to tell anybody anything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::tasks::AbortOnDrop;
use crate::{Backoff, Client, Error, Patch};

/// Events that may wait to be written.
const PENDING_MAX: usize = 512;
/// Events remembered to be counted up.
const KNOWN_MAX: usize = 1024;
/// How long a repeat counts as one, in seconds.
const KNOWN_SECONDS: i64 = 600;
/// How long an event waits for a server that is away; the API server keeps events for an hour, too.
const WAIT_MAX: Duration = Duration::from_secs(3600);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// Longest message, as upstream allows.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn text(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Records events in the name of a component; clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    queue: Arc<Queue>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<Record>,
    /// The server is away: nothing is taken out for now.
    stalled: bool,
}

struct Record {
    id: Identity,
    at: Timestamp,
    since: Instant,
    count: i32,
}

/// What makes two events the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    object: Reference,
    kind: EventType,
    reason: String,
    message: String,
}

/// The comparable form of an object reference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    field_path: Option<String>,
}

struct Known {
    name: String,
    count: i32,
    last: Timestamp,
}

struct Writer {
    client: Client,
    source: EventSource,
    known: BTreeMap<Identity, Known>,
}

impl Recorder {
    /// `component` is the reporting part, such as `deployment-controller`; `host` the node it runs on, if any.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let queue = Arc::new(Queue::default());
        let source =
            EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        let mut writer = Writer { client, source, known: BTreeMap::new() };
        let records = queue.clone();
        let task = AbortOnDrop::spawn(async move {
            loop {
                let record = records.take().await;
                writer.write_when_possible(record, &records).await;
            }
        });
        Self { queue, _task: Arc::new(task) }
    }

    /// Records an event; returns at once, and drops the event when too many wait.
    pub fn event(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        truncate(&mut message);
        let object = Reference::from(object);
        let id = Identity { object, kind, reason: reason.to_owned(), message };
        self.queue.add(Record { id, at: Timestamp::now(), since: Instant::now(), count: 1 });
    }
}

impl Queue {
    fn add(&self, record: Record) {
        let mut waiting = self.lock();
        if waiting.stalled
            && let Some(known) = waiting.records.iter_mut().find(|r| r.id.same(&record.id))
        {
            known.count = known.count.saturating_add(1);
            (known.at, known.since) = (record.at, record.since);
            return;
        }
        if waiting.records.len() >= PENDING_MAX {
            tracing::debug!("oldest event dropped, too many are waiting");
            waiting.records.pop_front();
        }
        waiting.records.push_back(record);
        drop(waiting);
        self.added.notify_one();
    }

    async fn take(&self) -> Record {
        loop {
            if let Some(record) = self.lock().records.pop_front() {
                return record;
            }
            self.added.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Identity {
    /// Equal but for the revision of the object, which says nothing about the event.
    fn same(&self, other: &Identity) -> bool {
        let (a, b) = (&self.object, &other.object);
        self.kind == other.kind
            && self.reason == other.reason
            && self.message == other.message
            && (&a.namespace, &a.name, &a.uid, &a.field_path, &a.kind)
                == (&b.namespace, &b.name, &b.uid, &b.field_path, &b.kind)
    }
}

/// The server is away, or somebody in front of it says so.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Transport { .. } | Error::Timeout { .. })
        || matches!(error.code(), Some(502..=504))
}

impl Writer {
    /// Writes the event; while the server is away it is tried again, ever more rarely, until the event is too old.
    async fn write_when_possible(&mut self, record: Record, queue: &Queue) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
        while record.since.elapsed() <= WAIT_MAX {
            let Err(error) = self.write(&record).await else { break };
            let away = is_away(&error);
            queue.lock().stalled = away;
            if !away {
                tracing::debug!(%error, "event not recorded");
                return;
            }
            tokio::time::sleep(backoff.failed_with_jitter()).await;
        }
        queue.lock().stalled = false;
    }

    async fn write(&mut self, record: &Record) -> Result<(), Error> {
        let (mut id, at) = (record.id.clone(), record.at);
        let revision = id.object.resource_version.take();
        self.known.retain(|_, known| at.duration_since(known.last).as_secs() < KNOWN_SECONDS);
        if self.repeat(&id, record).await? {
            return Ok(());
        }
        if self.known.len() >= KNOWN_MAX {
            self.forget_oldest();
        }
        let name =
            format!("{}.{:x}", id.object.name.as_deref().unwrap_or_default(), at.as_nanosecond());
        let event = Event { count: Some(record.count), ..self.event(&id, revision, &name, at) };
        self.client.create(&event).await?;
        self.known.insert(id, Known { name, count: record.count, last: at });
        Ok(())
    }

    /// Counts a known event up; false when it is not known or gone.
    async fn repeat(&mut self, id: &Identity, record: &Record) -> Result<bool, Error> {
        let Some(known) = self.known.get_mut(id) else { return Ok(false) };
        let count = known.count.saturating_add(record.count);
        let patch = Patch::Merge(json!({"count": count, "lastTimestamp": seconds(record.at)}));
        let namespace = namespace_of(&id.object).to_owned();
        match self.client.patch::<Event>(&namespace, &known.name, &patch).await {
            Ok(_) => {
                (known.count, known.last) = (count, record.at);
                Ok(true)
            }
            Err(error) if error.is_not_found() => {
                self.known.remove(id);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn forget_oldest(&mut self) {
        let oldest =
            self.known.iter().min_by_key(|(_, known)| known.last).map(|(id, _)| id.clone());
        if let Some(id) = oldest {
            self.known.remove(&id);
        }
    }

    fn event(&self, id: &Identity, revision: Option<String>, name: &str, at: Timestamp) -> Event {
        let object = &id.object;
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace_of(object).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: object.api_version.clone(),
                kind: object.kind.clone(),
                namespace: object.namespace.clone(),
                name: object.name.clone(),
                uid: object.uid.clone(),
                resource_version: revision,
                field_path: object.field_path.clone(),
            },
            reason: Some(id.reason.clone()),
            message: Some(id.message.clone()),
            type_: Some(id.kind.text().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(seconds(at))),
            last_timestamp: Some(Time(seconds(at))),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            ..Event::default()
        }
    }
}

impl From<&ObjectReference> for Reference {
    fn from(object: &ObjectReference) -> Self {
        Self {
            api_version: object.api_version.clone(),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: object.uid.clone(),
            resource_version: object.resource_version.clone(),
            field_path: object.field_path.clone(),
        }
    }
}

/// Events of cluster-scoped objects live in the default namespace.
fn namespace_of(object: &Reference) -> &str {
    object.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

/// Kubernetes times have whole seconds.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn truncate(message: &mut String) {
    if message.len() > MESSAGE_BYTES_MAX {
        let end =
            (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
    }
}
