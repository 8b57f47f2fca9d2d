//! Applies one file: the edge to the API.

use client::{Client, DeleteParams, Error, EventType, Propagation, Recorder, ResourcePath};
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::Value;

use crate::documents::{self, Document};
use crate::folder::{self, File};
use crate::loop_state::Outcome;
use crate::plan::{self, ADDON, Id, Step, Wanted};
use crate::record::{self, NAMESPACE, Record};

/// How often an object is read and written again when others write it at the same moment.
const CONFLICTS_MAX: usize = 5;
/// Failures of one file that are told; the others are counted.
const TOLD_MAX: usize = 5;

const CONFIG_MAPS: ResourcePath = ResourcePath { group: "", version: "v1", plural: "configmaps" };

/// What applying needs.
pub(crate) struct Deployer {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
}

/// One file being worked on.
struct Work<'a> {
    deployer: &'a Deployer,
    file: &'a File,
    about: ObjectReference,
    record: Record,
}

/// The objects of a file, or why there are none.
struct Content {
    checksum: String,
    documents: Vec<Document>,
}

impl Deployer {
    /// Brings the cluster to what the file says, and says what came of it.
    pub(crate) async fn deploy(&self, file: &File) -> Outcome {
        let result = match file.is_disabled {
            true => self.remove(file).await,
            false => self.apply(file).await,
        };
        result.unwrap_or_else(|error| {
            tracing::warn!(path = %file.path.display(), %error, "manifest not applied");
            Outcome::Failed
        })
    }

    async fn apply(&self, file: &File) -> Result<Outcome, Error> {
        let mut work = self.begin(file).await?;
        let path = file.path.clone();
        let read = tokio::task::spawn_blocking(move || content(&path)).await;
        let content = match read {
            Ok(Ok(content)) => content,
            Ok(Err((reason, text))) => return Ok(work.refused(reason, &text)),
            Err(error) => return Ok(work.refused("ReadManifestFailed", &error.to_string())),
        };
        let (wanted, mut failures) = plan::order(content.documents);
        let mut given: Vec<Id> = wanted.iter().map(|wanted| wanted.id.clone()).collect();
        given.sort();
        let dropped = work.record.dropped(&given);
        // Noted before it is done: what a loss of power interrupts is still known afterwards.
        work.note(work.record.clone().with(&given)).await?;
        let mut changes = 0;
        for wanted in &wanted {
            match self.bring(&file.addon, wanted).await {
                Ok(changed) => changes += usize::from(changed),
                Err(error) => {
                    failures.push(format!("line {}: {}: {error}", wanted.line, wanted.id))
                }
            }
        }
        if failures.is_empty() {
            for id in &dropped {
                changes += usize::from(self.delete(&file.addon, id).await?);
            }
            let source = file.path.display().to_string();
            let is_news = work.record.checksum != content.checksum;
            work.note(Record { source, checksum: content.checksum, objects: given }).await?;
            work.applied(changes, is_news);
            return Ok(Outcome::Done);
        }
        work.failed(&failures);
        Ok(Outcome::Failed)
    }

    /// Deletes what the file has brought, and its record.
    async fn remove(&self, file: &File) -> Result<Outcome, Error> {
        let name = record::name(&file.addon);
        let Some(map) = self.client.get_at::<Value>(CONFIG_MAPS, NAMESPACE, &name).await? else {
            return Ok(Outcome::Done);
        };
        for id in &Record::of_config_map(&map).objects {
            self.delete(&file.addon, id).await?;
        }
        let params = DeleteParams::default();
        match self.client.delete_at(CONFIG_MAPS, NAMESPACE, &name, &params).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        tracing::info!(path = %file.path.display(), "objects of a disabled manifest deleted");
        Ok(Outcome::Done)
    }

    async fn begin<'a>(&'a self, file: &'a File) -> Result<Work<'a>, Error> {
        let name = record::name(&file.addon);
        let map = match self.client.get_at::<Value>(CONFIG_MAPS, NAMESPACE, &name).await? {
            Some(map) => map,
            None => {
                let source = file.path.display().to_string();
                let record = Record { source, ..Record::default() };
                self.client.create_at(CONFIG_MAPS, &record.config_map(&file.addon)).await?
            }
        };
        let text = |place: &str| map.pointer(place).and_then(Value::as_str).map(str::to_owned);
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            name: Some(name),
            uid: text("/metadata/uid"),
            ..ObjectReference::default()
        };
        Ok(Work { deployer: self, file, about, record: Record::of_config_map(&map) })
    }

    /// Brings one object to what the manifest says; true when something changed.
    async fn bring(&self, addon: &str, wanted: &Wanted) -> Result<bool, String> {
        let (resource, id) = (ResourcePath::from(wanted.resource), &wanted.id);
        let mut tries = 0;
        loop {
            let live = self
                .client
                .get_at::<Value>(resource, &id.namespace, &id.name)
                .await
                .map_err(|error| error.to_string())?;
            let before = live.as_ref().map(revision);
            let step = plan::step(addon, wanted, live).map_err(|error| error.to_string())?;
            let written = match &step {
                Step::Nothing => return Ok(false),
                Step::NotYet(why) => return Err(why.clone()),
                Step::Create(object) => self.client.create_at::<Value>(resource, object).await,
                Step::Replace(object) => self.client.replace_at::<Value>(resource, object).await,
            };
            tries += 1;
            match written {
                // The server writes nothing when only what it fills in itself differs.
                Ok(object) => return Ok(before != Some(revision(&object))),
                Err(error)
                    if tries < CONFLICTS_MAX
                        && (error.is_conflict()
                            || error.is_already_exists()
                            || error.is_not_found() && before.is_some()) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Deletes an object unless somebody else has taken it over; true when it was there.
    async fn delete(&self, addon: &str, id: &Id) -> Result<bool, Error> {
        // A kind that is served no more has no objects.
        let Some(resource) = plan::resource(id) else { return Ok(false) };
        let resource = ResourcePath::from(resource);
        let live = self.client.get_at::<Value>(resource, &id.namespace, &id.name).await?;
        let Some(live) = live.filter(|live| plan::annotation(live, ADDON) == Some(addon)) else {
            return Ok(false);
        };
        let uid = live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let params = DeleteParams::default().uid(uid).propagation(Propagation::Background);
        match self.client.delete_at(resource, &id.namespace, &id.name, &params).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(true),
        }
    }
}

impl Work<'_> {
    /// Keeps the record in the cluster, if it says something new.
    async fn note(&mut self, record: Record) -> Result<(), Error> {
        if record == self.record {
            return Ok(());
        }
        let map = record.config_map(&self.file.addon);
        self.deployer.client.replace_at::<Value>(CONFIG_MAPS, &map).await?;
        self.record = record;
        Ok(())
    }

    fn refused(&self, reason: &str, text: &str) -> Outcome {
        self.tell(EventType::Warning, reason, text);
        match reason {
            "ParseManifestFailed" => Outcome::Wrong,
            _ => Outcome::Failed,
        }
    }

    fn failed(&self, failures: &[String]) {
        let told = failures.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("; ");
        let more = match failures.len().saturating_sub(TOLD_MAX) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        self.tell(EventType::Warning, "ApplyManifestFailed", &format!("{told}{more}"));
    }

    fn applied(&self, changes: usize, is_news: bool) {
        if changes > 0 || is_news {
            let count = self.record.objects.len();
            let text = format!("{count} objects applied, {changes} of them changed");
            self.tell(EventType::Normal, "AppliedManifest", &text);
        }
    }

    fn tell(&self, kind: EventType, reason: &str, text: &str) {
        let path = self.file.path.display();
        match kind {
            EventType::Normal => tracing::info!(%path, "manifest: {text}"),
            EventType::Warning => tracing::warn!(%path, reason, "manifest: {text}"),
        }
        let message = format!("{path}: {text}");
        self.deployer.recorder.event(&self.about, kind, reason, message);
    }
}

fn content(path: &std::path::Path) -> Result<Content, (&'static str, String)> {
    let text = folder::read(path).map_err(|error| ("ReadManifestFailed", error.to_string()))?;
    let documents =
        documents::read(&text).map_err(|error| ("ParseManifestFailed", error.to_string()))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let checksum = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Content { checksum, documents })
}

fn revision(object: &Value) -> String {
    let revision = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    revision.unwrap_or_default().to_owned()
}
