//! The garbage collector: deletes objects whose owners are gone, and carries out foreground and orphan deletion.
//!
//! It holds no objects, only their trimmed metadata, and an index from owner uid to dependents. The index is a hint:
//! what it says is checked in the caches, and what is deleted because of a missing owner is checked at the server.

mod graph;
mod plan;

use std::sync::{Arc, Mutex, MutexGuard};

use client::{Controller, Error, Outcome, PartialObject, ResourcePath};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::sync::watch;

use crate::shell::{self, Shell};
use crate::table::{Context, Metadata};

use graph::{Graph, Item};
pub(crate) use plan::{Dependent, Observed, Owner, OwnerState, plan};

const WORKERS: usize = 8;

struct Collector {
    metadata: Arc<Metadata>,
    graph: Mutex<Graph>,
}

pub(crate) async fn run(context: Context, shutdown: watch::Receiver<bool>) {
    let collector = Arc::new(Collector { metadata: context.metadata, graph: Mutex::default() });
    let mut controller = Controller::<Item>::new("garbage");
    for (kind, (_, cache)) in collector.metadata.kinds.iter().enumerate() {
        let collector = collector.clone();
        controller.feed(cache, move |old, new| collector.graph().change(kind, old, new));
    }
    shell::run(controller, WORKERS, context.shell, shutdown, move |shell, item| {
        let collector = collector.clone();
        async move { collector.reconcile(shell, item).await }
    })
    .await;
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn reconcile(&self, shell: Arc<Shell>, item: Item) -> Result<Outcome, Error> {
        let Some(object) = self.get(&item) else { return Ok(Outcome::Done) };
        let concerns = object.metadata.owner_references.is_some()
            || object.metadata.deletion_timestamp.is_some();
        if !concerns {
            return Ok(Outcome::Done);
        }
        let mut owners = Vec::new();
        for reference in object.metadata.owner_references.iter().flatten() {
            let state = self.owner_state(&shell, &item, reference).await?;
            owners.push(Owner { reference: reference.clone(), state });
        }
        let observed = Observed {
            resource: self.metadata.kinds[item.kind].0.qualified(),
            dependents: self.dependents(object.metadata.uid.as_deref().unwrap_or_default()),
            meta: object.metadata.clone(),
            owners,
        };
        shell.perform(plan(&observed)).await
    }

    fn get(&self, item: &Item) -> Option<Arc<PartialObject>> {
        self.metadata.kinds.get(item.kind)?.1.get(&item.namespace, &item.name)
    }

    /// Gone owners are asked for at the server before anything is deleted because of them.
    async fn owner_state(
        &self,
        shell: &Shell,
        item: &Item,
        owner: &OwnerReference,
    ) -> Result<OwnerState, Error> {
        let (group, version) = api::resource::split_api_version(&owner.api_version);
        let known = self
            .metadata
            .kinds
            .iter()
            .find(|(kind, _)| kind.kind == owner.kind && kind.group == group);
        let Some((resource, cache)) = known else {
            // A kind that is not served: nothing can be said about its objects, so nothing is done.
            tracing::debug!(kind = owner.kind, version, "owner of an unknown kind");
            return Ok(OwnerState::Present);
        };
        let namespace = if resource.namespaced { item.namespace.as_str() } else { "" };
        let cached = cache.get(namespace, &owner.name).filter(|object| is(object, owner));
        let object = match cached {
            Some(object) => Some((*object).clone()),
            None => {
                let path = ResourcePath::from(*resource);
                let live =
                    shell.client.get_at::<PartialObject>(path, namespace, &owner.name).await?;
                live.filter(|object| is(object, owner))
            }
        };
        Ok(match object {
            None => OwnerState::Absent,
            Some(object) if plan::waits_for_dependents(&object.metadata) => OwnerState::Waiting,
            Some(_) => OwnerState::Present,
        })
    }

    fn dependents(&self, uid: &str) -> Vec<Dependent> {
        let items = self.graph().dependents(uid);
        let dependent = |item: Item| {
            let object = self.get(&item)?;
            let owners = object.metadata.owner_references.as_ref()?;
            owners.iter().any(|owner| owner.uid == uid).then(|| Dependent {
                resource: self.metadata.kinds[item.kind].0.qualified(),
                meta: object.metadata.clone(),
            })
        };
        items.into_iter().filter_map(dependent).collect()
    }
}

fn is(object: &PartialObject, owner: &OwnerReference) -> bool {
    object.metadata.uid.as_deref() == Some(owner.uid.as_str())
}
