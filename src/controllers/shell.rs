//! Performs plans: the only place of this crate that sends requests.
//!
//! After a plan the caches are awaited, so that the next plan for the same object sees what this one did; that is
//! why planners need no record of what they expect.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::{
    Caches, Client, DeleteParams, Error, EventType, Outcome, PartialObject, Patch, Recorder,
    ResourcePath,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Config;
use crate::action::{Action, Deletion, Note, Target, Tell};

/// How long a cache may lag behind our own write before we go on without it.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);
/// Plans see whole seconds, deadlines may have fractions: a plan that is a fraction too early must not spin.
const WAKE_MIN: Duration = Duration::from_millis(50);
/// Most creations or deletions that are under way at once for one object.
const BATCH_MAX: usize = 32;

/// What a controller works with.
pub struct Shell {
    pub client: Client,
    pub caches: Caches,
    pub config: Arc<Config>,
    pub recorder: Recorder,
}

/// What a performed action leaves behind for the caches to see.
enum Effect {
    Nothing,
    Written(ResourcePath, u64),
    Deleted(ResourcePath, Target),
}

impl Shell {
    pub(crate) fn new(
        client: Client,
        caches: Caches,
        config: Arc<Config>,
        component: &str,
    ) -> Arc<Self> {
        let recorder = Recorder::new(client.clone(), component, None);
        Arc::new(Self { client, caches, config, recorder })
    }

    /// Performs the actions in order, neighbouring creations and deletions in growing batches; stops at the first
    /// failure.
    pub async fn perform(self: &Arc<Self>, actions: Vec<Action>) -> Result<Outcome, Error> {
        let mut effects = Vec::new();
        let mut outcome = Outcome::Done;
        let mut batch = Vec::new();
        let mut result = Ok(());
        for action in actions {
            if result.is_err() {
                break;
            }
            match action {
                Action::Wake(at) => outcome = sooner(outcome, at),
                Action::Create { .. } | Action::Delete { .. } => batch.push(action),
                Action::Event(note) => {
                    result = self.perform_batch(&mut batch, &mut effects).await;
                    if result.is_ok() {
                        self.tell(&note);
                    }
                }
                action => {
                    result = self.perform_batch(&mut batch, &mut effects).await;
                    if result.is_ok() {
                        result = self.one(action).await.map(|effect| effects.push(effect));
                    }
                }
            }
        }
        if result.is_ok() {
            result = self.perform_batch(&mut batch, &mut effects).await;
        }
        for effect in effects {
            self.await_effect(&effect).await;
        }
        result.map(|()| outcome)
    }

    /// Batches of 1, 2, 4, ...: when the first fails, a hundred others are not tried.
    async fn perform_batch(
        self: &Arc<Self>,
        batch: &mut Vec<Action>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let mut actions = std::mem::take(batch).into_iter();
        let mut size = 1;
        let mut failed = None;
        while failed.is_none() && actions.len() > 0 {
            let mut running = JoinSet::new();
            for action in actions.by_ref().take(size) {
                let shell = self.clone();
                running.spawn(async move { shell.one(action).await });
            }
            while let Some(ended) = running.join_next().await {
                match ended {
                    Ok(Ok(effect)) => effects.push(effect),
                    Ok(Err(error)) => failed = Some(error),
                    // Only a panic or the end of the runtime ends a task this way; the next look repairs it.
                    Err(error) => tracing::warn!(%error, "action did not finish"),
                }
            }
            size = (size * 2).min(BATCH_MAX);
        }
        failed.map_or(Ok(()), Err)
    }

    async fn one(&self, action: Action) -> Result<Effect, Error> {
        match action {
            Action::Create { resource, object, tell } => self.create(resource, object, tell).await,
            Action::Patch { resource, namespace, name, sub, body } => {
                let patch = Patch::Merge(body);
                let done = self
                    .client
                    .patch_at::<PartialObject>(resource, &namespace, &name, sub, &patch)
                    .await;
                match done {
                    // What is gone needs no patch.
                    Err(error) if error.is_not_found() => Ok(Effect::Nothing),
                    Err(error) => Err(error),
                    Ok(object) => Ok(Effect::Written(resource, client::revision_of(&object))),
                }
            }
            Action::Delete { resource, target, how, tell } => {
                self.delete(resource, target, how, tell).await
            }
            Action::Finalize { name, finalizers } => self.finalize(&name, finalizers).await,
            Action::Event(_) | Action::Wake(_) => Ok(Effect::Nothing),
        }
    }

    async fn create(
        &self,
        resource: ResourcePath,
        object: Value,
        tell: Option<Tell>,
    ) -> Result<Effect, Error> {
        let created = self.client.create_at::<PartialObject>(resource, &object).await;
        match created {
            Ok(object) => {
                let name = object.metadata.name.clone().unwrap_or_default();
                self.told(tell.as_ref(), Ok(&name));
                Ok(Effect::Written(resource, client::revision_of(&object)))
            }
            // Nothing can be created there any more; the namespace's end removes the owner too.
            Err(error) if error.is_namespace_terminating() => Ok(Effect::Nothing),
            Err(error) => {
                self.told(tell.as_ref(), Err(&error));
                Err(error)
            }
        }
    }

    async fn delete(
        &self,
        resource: ResourcePath,
        target: Target,
        how: Deletion,
        tell: Option<Tell>,
    ) -> Result<Effect, Error> {
        let mut params = DeleteParams { propagation: how.propagation, ..DeleteParams::default() }
            .uid(&target.uid);
        params.grace = how.force.then_some(0);
        match self.client.delete_at(resource, &target.namespace, &target.name, &params).await {
            Ok(_) => {
                self.told(tell.as_ref(), Ok(&target.name));
                Ok(Effect::Deleted(resource, target))
            }
            Err(error) if error.is_not_found() || error.is_conflict() => {
                Ok(Effect::Deleted(resource, target))
            }
            Err(error) => {
                self.told(tell.as_ref(), Err(&error));
                Err(error)
            }
        }
    }

    async fn finalize(&self, name: &str, finalizers: Vec<String>) -> Result<Effect, Error> {
        let Some(mut namespace) = self.client.get_opt::<Namespace>("", name).await? else {
            return Ok(Effect::Nothing);
        };
        namespace.spec.get_or_insert_default().finalizers = Some(finalizers);
        match self.client.put(&namespace, "finalize").await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Effect::Nothing),
        }
    }

    fn told(&self, tell: Option<&Tell>, result: Result<&str, &Error>) {
        let Some(tell) = tell else { return };
        let (kind, (reason, text), detail) = match result {
            Ok(name) => (EventType::Normal, tell.done, name.to_owned()),
            Err(error) => (EventType::Warning, tell.failed, error.to_string()),
        };
        self.recorder.event(&tell.about, kind, reason, format!("{text}: {detail}"));
    }

    fn tell(&self, note: &Note) {
        self.recorder.event(&note.about, note.kind, note.reason, note.message.clone());
    }

    async fn await_effect(&self, effect: &Effect) {
        let seen = match effect {
            Effect::Nothing => true,
            Effect::Written(resource, revision) => {
                self.caches.caught_up(*resource, *revision, CATCH_UP_LIMIT).await
            }
            Effect::Deleted(resource, Target { namespace, name, uid }) => {
                self.caches.deletion_seen(*resource, (namespace, name), uid, CATCH_UP_LIMIT).await
            }
        };
        if !seen {
            tracing::warn!("a cache has not seen our own write for {CATCH_UP_LIMIT:?}");
        }
    }
}

/// The earlier of the outcome so far and a wake-up time.
fn sooner(outcome: Outcome, at: Timestamp) -> Outcome {
    let delay =
        Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default().max(WAKE_MIN);
    match outcome {
        Outcome::After(known) if known <= delay => outcome,
        _ => Outcome::After(delay),
    }
}

/// Runs a put-together loop whose reconcile gets the shell.
pub(crate) async fn run<Q, F, R>(
    controller: client::Controller<Q>,
    workers: usize,
    shell: Arc<Shell>,
    shutdown: watch::Receiver<bool>,
    reconcile: F,
) where
    Q: Ord + Clone + std::fmt::Debug + Send + Sync + 'static,
    F: Fn(Arc<Shell>, Q) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Outcome, Error>> + Send + 'static,
{
    controller.run(workers, shutdown, move |key| reconcile(shell.clone(), key)).await;
}

/// The time as Kubernetes stores it, in whole seconds.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// What we wanted to create is there already: as good as created.
pub(crate) fn unless_exists(result: Result<Outcome, Error>) -> Result<Outcome, Error> {
    match result {
        Err(error) if error.is_already_exists() => Ok(Outcome::Done),
        result => result,
    }
}
