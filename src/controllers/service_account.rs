//! Gives every namespace its ServiceAccount `default`.

use std::sync::Arc;

use client::{Controller, Error, Outcome};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use tokio::sync::watch;

use crate::action::Action;
use crate::namespace::is_active;
use crate::shell::{self, Shell};

const WORKERS: usize = 2;
const NAME: &str = "default";

#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) namespace: Namespace,
    #[serde(default)]
    pub(crate) account: Option<ServiceAccount>,
}

pub(crate) fn plan(observed: &Observed) -> Vec<Action> {
    if !is_active(&observed.namespace) || observed.account.is_some() {
        return Vec::new();
    }
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: observed.namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    };
    vec![Action::create(&ServiceAccount { metadata, ..ServiceAccount::default() }, None)]
}

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<String>::new("serviceaccount");
    controller.feed(&shell.caches.namespaces, |_, new| {
        new.and_then(|new| new.metadata.name.clone()).into_iter().collect()
    });
    controller.feed(&shell.caches.service_accounts, |old, new| match (old, new) {
        (Some(old), None) if old.metadata.name.as_deref() == Some(NAME) => {
            old.metadata.namespace.clone().into_iter().collect()
        }
        _ => Vec::new(),
    });
    shell::run(controller, WORKERS, shell, shutdown, reconcile).await;
}

async fn reconcile(shell: Arc<Shell>, name: String) -> Result<Outcome, Error> {
    let Some(namespace) = shell.caches.namespaces.get("", &name) else { return Ok(Outcome::Done) };
    let account = shell.caches.service_accounts.get(&name, NAME).map(|account| (*account).clone());
    let result = shell.perform(plan(&Observed { namespace: (*namespace).clone(), account })).await;
    shell::unless_exists(result)
}
