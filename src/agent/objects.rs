//! The ConfigMaps and Secrets that pods of this node use: one small watch per object, shared by the pods that refer to it
//! and ended with the last of them. So the node never holds more than its pods mention. What the server was not heard about
//! yet is taken from the node's record while the server is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use client::{Cache, Client, Key, ListParams, Object, Subscription};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use tokio::sync::watch;

use crate::env::{self, Objects, References};
use crate::link::{self, Link};
use crate::record::Recorded;

/// How long a start waits for the objects it needs before it is tried again later.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// After this long the record is as good as a server that answers but does not tell.
const RECORD_AFTER: Duration = Duration::from_secs(15);

/// Hands out shared caches of single objects.
pub(crate) struct ObjectCaches {
    client: Client,
    link: watch::Receiver<Link>,
    services: Cache<Service>,
    config_maps: Shared<ConfigMap>,
    secrets: Shared<Secret>,
}

struct Shared<K>(Mutex<BTreeMap<Key, Weak<Cache<K>>>>);

/// The objects of one pod, kept current while this lives.
pub(crate) struct Held {
    namespace: String,
    config_maps: BTreeMap<String, Arc<Cache<ConfigMap>>>,
    secrets: BTreeMap<String, Arc<Cache<Secret>>>,
    services: Cache<Service>,
    recorded: Recorded,
    link: watch::Receiver<Link>,
}

impl ObjectCaches {
    pub(crate) fn new(client: Client, link: watch::Receiver<Link>) -> ObjectCaches {
        let services = Cache::start(client.clone(), ListParams::all());
        let (config_maps, secrets) = (Shared::new(), Shared::new());
        ObjectCaches { client, link, services, config_maps, secrets }
    }

    /// `recorded` is what the pod was last started from, if it ever was.
    pub(crate) fn hold(
        &self,
        namespace: &str,
        references: &References,
        recorded: Recorded,
    ) -> Held {
        Held {
            namespace: namespace.to_owned(),
            services: self.services.clone(),
            recorded,
            link: self.link.clone(),
            config_maps: self.config_maps.hold(
                &self.client,
                namespace,
                references.config_maps.iter(),
            ),
            secrets: self.secrets.hold(&self.client, namespace, references.secrets.iter()),
        }
    }
}

impl<K: Object> Shared<K> {
    fn new() -> Shared<K> {
        Shared(Mutex::new(BTreeMap::new()))
    }

    fn hold<'a>(
        &self,
        client: &Client,
        namespace: &str,
        names: impl Iterator<Item = &'a String>,
    ) -> BTreeMap<String, Arc<Cache<K>>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, cache| cache.strong_count() > 0);
        let mut held = BTreeMap::new();
        for name in names {
            let key = (namespace.to_owned(), name.clone());
            let cache = known.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                let params =
                    ListParams::all().namespace(namespace).fields(format!("metadata.name={name}"));
                Arc::new(Cache::start(client.clone(), params))
            });
            known.insert(key, Arc::downgrade(&cache));
            held.insert(name.clone(), cache);
        }
        held
    }
}

impl Held {
    /// The objects once all have been looked for; those that do not exist are `None`.
    pub(crate) async fn objects(&self) -> Result<Objects, String> {
        let all = async {
            Objects {
                config_maps: self.gather(&self.config_maps, &self.recorded.config_maps).await,
                secrets: self.gather(&self.secrets, &self.recorded.secrets).await,
            }
        };
        tokio::time::timeout(SYNC_TIMEOUT, all).await.map_err(|_| timed_out())
    }

    /// The variables of the namespace's Services; `links` says whether all of them are wanted.
    pub(crate) async fn service_variables(
        &self,
        links: bool,
    ) -> Result<Vec<(String, String)>, String> {
        let variables = async {
            tokio::select! {
                biased;
                () = self.services.synced() => self.current_variables(links),
                () = self.not_told() => self.recorded.services.clone(),
            }
        };
        tokio::time::timeout(SYNC_TIMEOUT, variables).await.map_err(|_| timed_out())
    }

    fn current_variables(&self, links: bool) -> Vec<(String, String)> {
        let services = self.services.list();
        env::service_variables(services.iter().map(AsRef::as_ref), &self.namespace, links)
    }

    /// Everything as far as it is known now, for the record.
    pub(crate) fn known(&self, links: bool) -> Recorded {
        let objects = Objects {
            config_maps: self.known_of(&self.config_maps, &self.recorded.config_maps),
            secrets: self.known_of(&self.secrets, &self.recorded.secrets),
        };
        let services = if self.services.is_synced() {
            self.current_variables(links)
        } else {
            self.recorded.services.clone()
        };
        Recorded::new(objects, services)
    }

    fn known_of<K: Object>(
        &self,
        caches: &BTreeMap<String, Arc<Cache<K>>>,
        recorded: &BTreeMap<String, Option<Arc<K>>>,
    ) -> BTreeMap<String, Option<Arc<K>>> {
        let known = caches.iter().filter_map(|(name, cache)| {
            let now = cache.is_synced().then(|| cache.get(&self.namespace, name));
            Some((name.clone(), now.or_else(|| recorded.get(name).cloned())?))
        });
        known.collect()
    }

    async fn gather<K: Object>(
        &self,
        caches: &BTreeMap<String, Arc<Cache<K>>>,
        recorded: &BTreeMap<String, Option<Arc<K>>>,
    ) -> BTreeMap<String, Option<Arc<K>>> {
        let one = async |name: &String, cache: &Arc<Cache<K>>| {
            let old = recorded.get(name);
            let found = tokio::select! {
                biased;
                () = cache.synced() => cache.get(&self.namespace, name),
                () = self.not_told(), if old.is_some() => old.cloned().flatten(),
            };
            (name.clone(), found)
        };
        let all = caches.iter().map(|(name, cache)| one(name, cache));
        join_all(all).await.into_iter().collect()
    }

    async fn not_told(&self) {
        drop(tokio::time::timeout(RECORD_AFTER, link::away(self.link.clone())).await);
    }

    /// An item for every change of any of the objects.
    pub(crate) fn changes(&self) -> BoxStream<'static, ()> {
        let maps = self.config_maps.values().map(|c| changes_of(c.subscribe()));
        let secrets = self.secrets.values().map(|c| changes_of(c.subscribe()));
        stream::select_all(maps.chain(secrets)).boxed()
    }
}

fn timed_out() -> String {
    "failed to sync configmap and secret cache: timed out waiting for the condition".to_owned()
}

fn changes_of<K: Object>(subscription: Subscription<K>) -> BoxStream<'static, ()> {
    stream::unfold(subscription, |mut subscription| async move {
        subscription.next().await;
        Some(((), subscription))
    })
    .boxed()
}
