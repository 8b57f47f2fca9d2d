//! A shared cache of the objects of a collection, kept current by list and watch.
//!
//! The task behind it is in one of two states: *listing* (nothing is known, or what is known may be old) and
//! *watching* from the revision reached. A watch that ends is continued from there; a revision the server has
//! compacted (410), leads back to listing. Both retry with back-off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::mailbox::Mailbox;
use crate::tasks::AbortOnDrop;
use crate::verbs::Unreadable;
use crate::{
    Backoff, Change, Client, Key, ListParams, Object, ResourcePath, Result, Subscription,
    WatchEvent, Watcher, key_of, revision_of,
};

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LIMIT: Duration = Duration::from_secs(15);

/// What a cache covers and keeps.
pub struct Scope<K> {
    pub resource: ResourcePath,
    pub params: ListParams,
    /// Removes what the users of the cache do not read, before the object is stored.
    pub trim: fn(&mut K),
}

/// The objects of a collection as last seen. Clones share one state; the last one ends the task.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
    _task: Arc<AbortOnDrop>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _task: self._task.clone() }
    }
}

struct Shared<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    subscribers: Mutex<Vec<Weak<Mailbox<K>>>>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    synced: bool,
    revision: u64,
}

impl<K: Object> Cache<K> {
    /// Starts a cache of the kind's own collection.
    pub fn start(client: Client, params: ListParams) -> Self {
        Self::start_with(client, Scope { resource: ResourcePath::of::<K>(), params, trim: |_| () })
    }

    /// Starts a cache of any collection whose objects can be read as `K`.
    pub fn start_with(client: Client, scope: Scope<K>) -> Self {
        Self::start_known(client, scope, None)
    }

    /// Like `start_with`, with what is known from before: it counts until the server's list replaces it. The objects are to
    /// have no revision, so that each is taken from the server then.
    pub fn start_known(client: Client, scope: Scope<K>, known: Option<Vec<K>>) -> Self {
        let progress = Progress { synced: known.is_some(), revision: 0 };
        let known = known.into_iter().flatten().map(|object| (key_of(&object), Arc::new(object)));
        let shared = Arc::new(Shared {
            objects: RwLock::new(known.collect()),
            subscribers: Mutex::default(),
            progress: watch::Sender::new(progress),
        });
        let task = AbortOnDrop::spawn(run(client, scope, shared.clone()));
        Self { shared, _task: Arc::new(task) }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.shared.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read().values().cloned().collect()
    }

    /// The objects of a namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = (namespace.to_owned(), String::new());
        let objects = self.shared.read();
        objects
            .range(first..)
            .take_while(|(key, _)| key.0 == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects of a namespace whose names begin so, ordered by name.
    pub fn list_named(&self, namespace: &str, prefix: &str) -> Vec<Arc<K>> {
        let first = (namespace.to_owned(), prefix.to_owned());
        let objects = self.shared.read();
        objects
            .range(first..)
            .take_while(|(key, _)| key.0 == namespace && key.1.starts_with(prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn len(&self) -> usize {
        self.shared.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the first list has arrived, unless all was known from before.
    pub async fn synced(&self) {
        self.wait_for(|progress| progress.synced).await;
    }

    /// Waits until the first list has arrived.
    pub async fn heard(&self) {
        self.wait_for(|progress| progress.revision > 0).await;
    }

    async fn wait_for(&self, reached: impl FnMut(&Progress) -> bool) {
        let mut progress = self.shared.progress.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(progress.wait_for(reached).await);
    }

    pub fn is_synced(&self) -> bool {
        self.shared.progress.borrow().synced
    }

    /// The revision the cache has reached.
    pub fn revision(&self) -> u64 {
        self.shared.progress.borrow().revision
    }

    /// Waits until the cache has seen `revision`, so that a caller reads its own writes; false after `limit`.
    pub async fn caught_up(&self, revision: u64, limit: Duration) -> bool {
        self.until(limit, |_, reached| reached >= revision).await
    }

    /// Waits until `done` holds of the cache and the revision it has reached; false after `limit`.
    pub async fn until(&self, limit: Duration, done: impl Fn(&Self, u64) -> bool) -> bool {
        let mut progress = self.shared.progress.subscribe();
        let wait = async {
            loop {
                let reached = progress.borrow_and_update().revision;
                if done(self, reached) || progress.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Receives all changes from now on.
    pub fn subscribe(&self) -> Subscription<K> {
        let mailbox = Arc::new(Mailbox::new());
        let mut subscribers = self.shared.subscribers();
        subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        subscribers.push(Arc::downgrade(&mailbox));
        if self.is_synced() {
            mailbox.push(Change::Resync);
        }
        drop(subscribers);
        Subscription { mailbox, cache: self.clone() }
    }
}

impl<K> Shared<K> {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.objects.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn subscribers(&self) -> MutexGuard<'_, Vec<Weak<Mailbox<K>>>> {
        self.subscribers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<K: Object> Shared<K> {
    /// Stores or removes one object and tells the subscribers.
    fn apply(&self, key: Key, new: Option<Arc<K>>) {
        let old = {
            let mut objects = self.objects.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            match &new {
                Some(object) => objects.insert(key.clone(), object.clone()),
                None => objects.remove(&key),
            }
        };
        if old.is_none() && new.is_none() {
            return;
        }
        let mut subscribers = self.subscribers();
        let change = Change::Object { key, old, new };
        subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(mailbox) => {
                mailbox.push(change.clone());
                true
            }
            None => false,
        });
    }

    /// Replaces everything by a list, as the difference to what is known.
    fn replace(&self, items: Vec<K>, revision: u64) {
        let first = !self.progress.borrow().synced;
        let mut gone: BTreeMap<Key, ()> = self.read().keys().map(|key| (key.clone(), ())).collect();
        for item in items {
            let key = key_of(&item);
            gone.remove(&key);
            let known = self.read().get(&key).is_some_and(|old| same_version(&**old, &item));
            if !known {
                self.apply(key, Some(Arc::new(item)));
            }
        }
        for (key, ()) in gone {
            self.apply(key, None);
        }
        // Under the lock, so that a new subscriber either is told here or sees that the cache is filled.
        let subscribers = self.subscribers();
        self.reached(revision);
        if first {
            subscribers
                .iter()
                .filter_map(Weak::upgrade)
                .for_each(|subscriber| subscriber.push(Change::Resync));
        }
    }

    fn reached(&self, revision: u64) {
        self.progress.send_modify(|progress| {
            *progress = Progress { synced: true, revision: progress.revision.max(revision) };
        });
    }
}

fn same_version<K: Object>(old: &K, new: &K) -> bool {
    let (old, new) = (old.metadata(), new.metadata());
    old.uid == new.uid && old.resource_version == new.resource_version
}

/// Keeps the cache current until the task is aborted.
async fn run<K: Object>(client: Client, scope: Scope<K>, shared: Arc<Shared<K>>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut revision = None;
    loop {
        let Err(error) = step(&client, &scope, &shared, &mut revision, &mut backoff).await else {
            continue;
        };
        if error.is_gone() {
            revision = None;
        }
        let delay = backoff.failed_with_jitter();
        tracing::debug!(resource = scope.resource.plural, %error, ?delay, "cache retries");
        tokio::time::sleep(delay).await;
    }
}

/// Lists when no revision is known, then watches until the watch ends.
async fn step<K: Object>(
    client: &Client,
    scope: &Scope<K>,
    shared: &Shared<K>,
    revision: &mut Option<String>,
    backoff: &mut Backoff,
) -> Result<()> {
    let start = match revision {
        Some(revision) => revision.clone(),
        None => {
            let mut list = client
                .list_pages::<K>(scope.resource, &scope.params, Unreadable::IsSkipped)
                .await?;
            list.items.iter_mut().for_each(|item| trim(item, scope));
            shared.replace(list.items, list.revision.parse().unwrap_or(0));
            revision.insert(list.revision).clone()
        }
    };
    let mut watcher = client.watch_at::<K>(scope.resource, &scope.params, &start).await?;
    backoff.succeeded();
    follow(&mut watcher, scope, shared, revision).await
}

async fn follow<K: Object>(
    watcher: &mut Watcher<K>,
    scope: &Scope<K>,
    shared: &Shared<K>,
    revision: &mut Option<String>,
) -> Result<()> {
    while let Some(event) = watcher.next().await? {
        let (object, present) = match event {
            WatchEvent::Bookmark(reached) => {
                shared.reached(reached.parse().unwrap_or(0));
                *revision = Some(reached);
                continue;
            }
            WatchEvent::Deleted(object) => (object, false),
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
        };
        let mut object = object;
        trim(&mut object, scope);
        let reached = revision_of(&object);
        *revision = object.metadata().resource_version.clone();
        shared.apply(key_of(&object), present.then(|| Arc::new(object)));
        shared.reached(reached);
    }
    Ok(())
}

fn trim<K: Object>(object: &mut K, scope: &Scope<K>) {
    object.metadata_mut().managed_fields = None;
    (scope.trim)(object);
}
