//! Publishes the cluster's CA in every namespace, as ConfigMap `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Controller, Error, Outcome, ROOT_CA_CONFIG_MAP};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use tokio::sync::watch;

use crate::action::Action;
use crate::namespace::is_active;
use crate::shell::{self, Shell};

const WORKERS: usize = 2;
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";

#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) namespace: Namespace,
    #[serde(default)]
    pub(crate) published: Option<ConfigMap>,
    pub(crate) root_ca_pem: String,
}

pub(crate) fn plan(observed: &Observed) -> Vec<Action> {
    if !is_active(&observed.namespace) {
        return Vec::new();
    }
    let data = BTreeMap::from([(KEY.to_owned(), observed.root_ca_pem.clone())]);
    let annotation = ("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
    match &observed.published {
        None => {
            let metadata = ObjectMeta {
                name: Some(ROOT_CA_CONFIG_MAP.to_owned()),
                namespace: observed.namespace.metadata.name.clone(),
                annotations: Some(BTreeMap::from([annotation])),
                ..ObjectMeta::default()
            };
            vec![Action::create(
                &ConfigMap { metadata, data: Some(data), ..ConfigMap::default() },
                None,
            )]
        }
        Some(old) => {
            let mut new = ConfigMap { data: Some(data), ..old.clone() };
            new.metadata.annotations.get_or_insert_default().extend([annotation]);
            Action::update(old, &new).into_iter().collect()
        }
    }
}

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<String>::new("root-ca");
    controller.feed(&shell.caches.namespaces, |_, new| {
        new.and_then(|new| new.metadata.name.clone()).into_iter().collect()
    });
    controller.feed(&shell.caches.root_cas, |old, new| {
        new.or(old).and_then(|map| map.metadata.namespace.clone()).into_iter().collect()
    });
    shell::run(controller, WORKERS, shell, shutdown, reconcile).await;
}

async fn reconcile(shell: Arc<Shell>, name: String) -> Result<Outcome, Error> {
    let Some(namespace) = shell.caches.namespaces.get("", &name) else { return Ok(Outcome::Done) };
    let observed = Observed {
        namespace: (*namespace).clone(),
        published: shell.caches.root_cas.get(&name, ROOT_CA_CONFIG_MAP).map(|map| (*map).clone()),
        root_ca_pem: shell.config.root_ca_pem.clone(),
    };
    shell::unless_exists(shell.perform(plan(&observed)).await)
}
