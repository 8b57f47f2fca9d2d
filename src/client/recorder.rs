//! The event recorder: tells users what happened to an object, without ever holding up the one who tells it.
//!
//! Repeats of an event become a higher count of the first one. What does not fit the bounds is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;

use crate::tasks::AbortOnDrop;
use crate::{Client, Error, Patch};

/// Events that may wait to be written.
const PENDING_MAX: usize = 512;
/// Events remembered to be counted up.
const KNOWN_MAX: usize = 1024;
/// How long a repeat counts as one, in seconds.
const KNOWN_SECONDS: i64 = 600;
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
    queue: mpsc::Sender<Record>,
    _task: Arc<AbortOnDrop>,
}

struct Record {
    id: Identity,
    at: Timestamp,
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
        let (queue, mut records) = mpsc::channel::<Record>(PENDING_MAX);
        let source =
            EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        let mut writer = Writer { client, source, known: BTreeMap::new() };
        let task = AbortOnDrop::spawn(async move {
            while let Some(record) = records.recv().await {
                if let Err(error) = writer.write(record).await {
                    tracing::debug!(%error, "event not recorded");
                }
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
        if self.queue.try_send(Record { id, at: Timestamp::now() }).is_err() {
            tracing::debug!(reason, "event dropped, too many are waiting");
        }
    }
}

impl Writer {
    async fn write(&mut self, record: Record) -> Result<(), Error> {
        let Record { mut id, at } = record;
        let revision = id.object.resource_version.take();
        self.known.retain(|_, known| at.duration_since(known.last).as_secs() < KNOWN_SECONDS);
        if self.repeat(&id, at).await? {
            return Ok(());
        }
        if self.known.len() >= KNOWN_MAX {
            self.forget_oldest();
        }
        let name =
            format!("{}.{:x}", id.object.name.as_deref().unwrap_or_default(), at.as_nanosecond());
        let event = self.event(&id, revision, &name, at);
        self.client.create(&event).await?;
        self.known.insert(id, Known { name, count: 1, last: at });
        Ok(())
    }

    /// Counts a known event up; false when it is not known or gone.
    async fn repeat(&mut self, id: &Identity, at: Timestamp) -> Result<bool, Error> {
        let Some(known) = self.known.get_mut(id) else { return Ok(false) };
        known.count = known.count.saturating_add(1);
        known.last = at;
        let patch = Patch::Merge(json!({"count": known.count, "lastTimestamp": seconds(at)}));
        let namespace = namespace_of(&id.object).to_owned();
        match self.client.patch::<Event>(&namespace, &known.name, &patch).await {
            Ok(_) => Ok(true),
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
