//! The namespace controller: empties a namespace that is being deleted, then lets it go.

mod plan;

use std::sync::Arc;

use client::{Controller, Error, ListParams, Outcome, PartialObject, ResourcePath};
use k8s_openapi::api::core::v1::Namespace;
use tokio::sync::watch;

use crate::shell::{self, Shell};
use crate::table::Context;

pub(crate) use plan::{Content, Observed, plan};

const WORKERS: usize = 4;

/// Things can be created in it.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

pub(crate) async fn run(context: Context, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<String>::new("namespace");
    controller.feed(&context.shell.caches.namespaces, |_, new| {
        let ending = new.filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
        ending.and_then(|namespace| namespace.metadata.name.clone()).into_iter().collect()
    });
    for (resource, cache) in
        context.metadata.kinds.iter().filter(|(resource, _)| resource.namespaced)
    {
        let namespaces = context.shell.caches.namespaces.clone();
        tracing::trace!(resource = resource.plural, "watched for namespace deletion");
        controller.feed(cache, move |old, new| {
            let (Some(gone), None) = (old, new) else { return Vec::new() };
            let name = gone.metadata.namespace.clone().unwrap_or_default();
            let ending = namespaces.get("", &name).is_some_and(|namespace| !is_active(&namespace));
            if ending { vec![name] } else { Vec::new() }
        });
    }
    shell::run(controller, WORKERS, context.shell, shutdown, reconcile).await;
}

async fn reconcile(shell: Arc<Shell>, name: String) -> Result<Outcome, Error> {
    // Read from the server: what is decided here cannot be taken back.
    let Some(namespace) = shell.client.get_opt::<Namespace>("", &name).await? else {
        return Ok(Outcome::Done);
    };
    if is_active(&namespace) {
        return Ok(Outcome::Done);
    }
    let mut contents = Vec::new();
    let deletable = api::RESOURCES.iter().filter(|resource| {
        resource.namespaced
            && resource.has_verb("list")
            && resource.has_verb("delete")
            && !is_alias(resource)
    });
    for resource in deletable {
        let params = ListParams::all().namespace(name.as_str());
        let list =
            shell.client.list_at::<PartialObject>(ResourcePath::from(resource), &params).await?;
        let content = |object: PartialObject| Content {
            resource: resource.qualified(),
            meta: object.metadata,
        };
        contents.extend(list.items.into_iter().map(content));
    }
    shell.perform(plan(&Observed { namespace, contents }, shell::now())).await
}

/// The same objects are stored under another group as well.
fn is_alias(resource: &api::Resource) -> bool {
    resource.storage_group != resource.group
}
