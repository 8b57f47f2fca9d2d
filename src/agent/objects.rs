//! The ConfigMaps and Secrets that pods of this node use: one small watch per object, shared by the pods that refer to it
//! and ended with the last of them. So the node never holds more than its pods mention.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use client::{Cache, Client, Key, ListParams, Object, Subscription};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::env::{Objects, References};

/// How long a start waits for the objects it needs before it is tried again later.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// Hands out shared caches of single objects.
pub(crate) struct ObjectCaches {
    client: Client,
    config_maps: Shared<ConfigMap>,
    secrets: Shared<Secret>,
}

struct Shared<K>(Mutex<BTreeMap<Key, Weak<Cache<K>>>>);

/// The objects of one pod, kept current while this lives.
pub(crate) struct Held {
    namespace: String,
    config_maps: BTreeMap<String, Arc<Cache<ConfigMap>>>,
    secrets: BTreeMap<String, Arc<Cache<Secret>>>,
}

impl ObjectCaches {
    pub(crate) fn new(client: Client) -> ObjectCaches {
        ObjectCaches { client, config_maps: Shared::new(), secrets: Shared::new() }
    }

    pub(crate) fn hold(&self, namespace: &str, references: &References) -> Held {
        Held {
            namespace: namespace.to_owned(),
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
        tokio::time::timeout(SYNC_TIMEOUT, async {
            Objects {
                config_maps: gather(&self.config_maps, &self.namespace).await,
                secrets: gather(&self.secrets, &self.namespace).await,
            }
        })
        .await
        .map_err(|_| {
            "failed to sync configmap and secret cache: timed out waiting for the condition"
                .to_owned()
        })
    }

    /// An item for every change of any of the objects.
    pub(crate) fn changes(&self) -> BoxStream<'static, ()> {
        let maps = self.config_maps.values().map(|c| changes_of(c.subscribe()));
        let secrets = self.secrets.values().map(|c| changes_of(c.subscribe()));
        stream::select_all(maps.chain(secrets)).boxed()
    }
}

async fn gather<K: Object>(
    caches: &BTreeMap<String, Arc<Cache<K>>>,
    namespace: &str,
) -> BTreeMap<String, Option<Arc<K>>> {
    let mut found = BTreeMap::new();
    for (name, cache) in caches {
        cache.synced().await;
        found.insert(name.clone(), cache.get(namespace, name));
    }
    found
}

fn changes_of<K: Object>(subscription: Subscription<K>) -> BoxStream<'static, ()> {
    stream::unfold(subscription, |mut subscription| async move {
        subscription.next().await;
        Some(((), subscription))
    })
    .boxed()
}
