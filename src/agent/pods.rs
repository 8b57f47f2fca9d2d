//! The pods of this node: one actor each, made when the pod appears and told what happens to it.
//!
//! After a start the agent first learns what the API server and the runtime have. Containers of pods that still exist are
//! adopted as they run; what belongs to no pod any more is removed. Only then are changes followed.
//!
//! A server that does not answer soon is not waited for: the pods of the node's record go on, or are started. Nothing is
//! removed then before the server has been heard; what it says is compared by uid.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use client::{Cache, Change, Key, ListParams};
use k8s_openapi::api::core::v1::Pod;
use runtime::client::Events;
use runtime::protocol::{Event, Sandbox, Snapshot, State};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::actor::{Actor, View};
use crate::adopt;
use crate::container_spec::label;
use crate::context::Context;
use crate::execute;
use crate::link;
use crate::record::PodRecord;
use crate::worker::{Input, PodState};

/// How long the server has to say which pods there are, before those of the record are taken.
const SERVER_WAIT: Duration = Duration::from_secs(5);
/// The same for a server that answers, but has not told yet.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// How long after its start the agent waits for the node's network, which may only just have been made.
const NETWORK_WAIT: Duration = Duration::from_secs(10);
const RUNTIME_RETRY: Duration = Duration::from_secs(2);
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// What readers see of the node's pods.
#[derive(Clone, Default)]
pub(crate) struct Directory {
    views: Arc<RwLock<BTreeMap<Key, watch::Receiver<Arc<View>>>>>,
}

impl Directory {
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<watch::Receiver<Arc<View>>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<View>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.values().map(|v| Arc::clone(&v.borrow())).collect()
    }

    fn put(&self, key: Key, view: watch::Receiver<Arc<View>>) {
        self.views.write().unwrap_or_else(PoisonError::into_inner).insert(key, view);
    }

    /// Removes the entry unless a namesake has taken it over.
    fn remove(&self, key: &Key, uid: &str) {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        let own =
            views.get(key).is_some_and(|v| v.borrow().pod.metadata.uid.as_deref() == Some(uid));
        if own {
            views.remove(key);
        }
    }
}

struct Entry {
    key: Key,
    inbox: mpsc::Sender<Input>,
}

struct Dispatcher {
    ctx: Arc<Context>,
    cache: Cache<Pod>,
    directory: Directory,
    actors: BTreeMap<String, Entry>,
    /// Actors and clean-ups; each gives back the uid it worked for.
    tasks: JoinSet<String>,
    /// What the runtime had when the agent started.
    found: Snapshot,
    /// Until then the node's network may be waited for.
    network_by: Instant,
    /// What the record had, until the server has been heard.
    recorded: BTreeMap<String, PodRecord>,
    /// The server has said which pods there are.
    heard: bool,
}

/// Runs the node's pods until the task is dropped. Containers go on without it.
pub(crate) async fn run(
    ctx: Arc<Context>,
    directory: Directory,
    recorded: BTreeMap<String, PodRecord>,
) {
    let params = ListParams::all().fields(format!("spec.nodeName={}", ctx.config.node_name));
    let cache: Cache<Pod> = Cache::start(ctx.config.client.clone(), params);
    let mut events = ctx.config.runtime.events();
    let found = list_until_answered(&ctx).await;
    tokio::select! {
        biased;
        () = cache.synced() => {}
        () = server_waited_for(&ctx) => {}
    }
    let mut dispatcher = Dispatcher {
        ctx,
        cache,
        directory,
        actors: BTreeMap::new(),
        tasks: JoinSet::new(),
        found,
        network_by: Instant::now() + NETWORK_WAIT,
        recorded,
        heard: false,
    };
    dispatcher.run(&mut events).await;
}

async fn server_waited_for(ctx: &Context) {
    tokio::time::sleep(SERVER_WAIT).await;
    let away = link::away(ctx.link.clone());
    drop(tokio::time::timeout(ANSWER_WAIT.saturating_sub(SERVER_WAIT), away).await);
}

async fn list_until_answered(ctx: &Context) -> Snapshot {
    loop {
        match ctx.config.runtime.list().await {
            Ok(snapshot) => return snapshot,
            Err(error) => tracing::warn!(%error, "container runtime does not answer"),
        }
        tokio::time::sleep(RUNTIME_RETRY).await;
    }
}

impl Dispatcher {
    async fn run(&mut self, events: &mut Events) {
        let mut changes = self.cache.subscribe();
        if self.cache.is_synced() {
            self.begin_with_server().await;
        } else {
            self.begin_with_record().await;
        }
        loop {
            tokio::select! {
                change = changes.next() => self.change(change).await,
                Some(event) = events.next() => self.event(event).await,
                Some(done) = self.tasks.join_next() => {
                    if let Ok(uid) = done {
                        self.ended(&uid);
                    }
                }
            }
        }
    }

    async fn begin_with_server(&mut self) {
        self.heard = true;
        self.resync().await;
        self.remove_orphans();
    }

    async fn begin_with_record(&mut self) {
        let pods: Vec<Arc<Pod>> = self.recorded.values().map(|r| Arc::clone(&r.pod)).collect();
        if !pods.is_empty() {
            tracing::info!(pods = pods.len(), "no API server, going on with the recorded pods");
        }
        for pod in pods {
            self.see(pod).await;
        }
    }

    async fn change(&mut self, change: Change<Pod>) {
        match change {
            Change::Resync if self.heard => self.resync().await,
            Change::Resync => {
                // The runtime has gone on since it was asked.
                self.found = list_until_answered(&self.ctx).await;
                self.begin_with_server().await;
            }
            // The first list ends with a resync, which has all of it.
            Change::Object { .. } if !self.heard => {}
            Change::Object { new: Some(pod), old, .. } => {
                let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
                if let Some(old) = old.filter(|old| uid(old) != uid(&pod)) {
                    self.send(&uid(&old), Input::Gone).await;
                }
                self.see(pod).await;
            }
            Change::Object { new: None, old, .. } => {
                if let Some(uid) = old.and_then(|pod| pod.metadata.uid.clone()) {
                    self.send(&uid, Input::Gone).await;
                }
            }
        }
    }

    /// Compares all pods of the cache with the actors.
    async fn resync(&mut self) {
        let pods = self.cache.list();
        let present: BTreeSet<String> =
            pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
        let gone: Vec<String> =
            self.actors.keys().filter(|uid| !present.contains(*uid)).cloned().collect();
        for uid in gone {
            self.send(&uid, Input::Gone).await;
        }
        for pod in pods {
            self.see(pod).await;
        }
    }

    async fn see(&mut self, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.actors.contains_key(&uid) {
            self.send(&uid, Input::Pod(pod)).await;
        } else {
            self.begin(uid, pod).await;
        }
    }

    async fn begin(&mut self, uid: String, pod: Arc<Pod>) {
        let key = client::key_of(pod.as_ref());
        let now = self.ctx.clock.now();
        let known = adopt::known(&self.ctx.paths, &pod, &self.found, now.wall).await;
        let sandbox = match self.found.sandboxes.iter().find(|s| s.id == uid && s.ready) {
            Some(sandbox) => match self.addresses(sandbox).await {
                None if known.iter().any(|k| k.running_since.is_some() && k.exit.is_none()) => {
                    // What runs is not to end for that.
                    Some(reported_addresses(&pod))
                }
                found => found,
            },
            None => None,
        };
        let sandbox = match sandbox {
            // The earlier agent may have died between making the sandbox and writing what containers mount.
            Some(ips) if known.is_empty() => {
                execute::write_files(&self.ctx, &pod, &ips).await.map(|()| ips).ok()
            }
            other => other,
        };
        // Adopted once; from now on the actor knows better.
        self.found.sandboxes.retain(|s| s.id != uid);
        self.found.containers.retain(|c| c.sandbox != uid);
        let state = if known.is_empty() && sandbox.is_none() {
            PodState::new(pod, now)
        } else {
            PodState::adopt(pod, now, known, sandbox)
        };
        let recorded = self.recorded.remove(&uid).map(|r| r.recorded);
        let (actor, handle) = Actor::new(Arc::clone(&self.ctx), state, recorded);
        self.directory.put(key.clone(), handle.view);
        self.actors.insert(uid.clone(), Entry { key, inbox: handle.inbox });
        self.tasks.spawn(async move {
            actor.run().await;
            uid
        });
    }

    /// The addresses of a sandbox that was there before; `None` if the network fails.
    async fn addresses(&self, sandbox: &Sandbox) -> Option<Vec<IpAddr>> {
        let Some(netns) = sandbox.netns.as_ref().filter(|_| !sandbox.spec.host_network) else {
            return Some(Vec::new());
        };
        let mut ready = self.ctx.network_ready.clone();
        drop(tokio::time::timeout_at(self.network_by, ready.wait_for(|r| *r)).await);
        match self.ctx.config.network.attach(&sandbox.id, netns).await {
            Ok(ips) => Some(ips),
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id, error, "sandbox not connected");
                None
            }
        }
    }

    async fn send(&self, uid: &str, input: Input) {
        if let Some(entry) = self.actors.get(uid) {
            // The actor never waits for this task, so a full inbox empties by itself; a closed one has ended.
            drop(entry.inbox.send(input).await);
        }
    }

    fn ended(&mut self, uid: &str) {
        if let Some(entry) = self.actors.remove(uid) {
            self.directory.remove(&entry.key, uid);
            self.forget(uid.to_owned());
        }
    }

    /// Takes a pod that is over out of the record.
    fn forget(&mut self, uid: String) {
        let record = Arc::clone(&self.ctx.record);
        self.tasks.spawn_blocking(move || {
            if let Err(error) = record.remove(&uid) {
                tracing::warn!(uid, %error, "record of a pod that is over not removed");
            }
            uid
        });
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::ContainerStarted { .. } => {}
            Event::ContainerExited { id } => match self.ctx.config.runtime.container(&id).await {
                Ok(container) => self.exited(&container).await,
                Err(error) => {
                    tracing::debug!(container = id, %error, "exit of a container that is gone")
                }
            },
            Event::Lost => self.relist().await,
        }
    }

    async fn exited(&self, container: &runtime::protocol::Container) {
        let Some((uid, name, attempt)) = adopt::identity(container) else { return };
        if let Some(exit) = adopt::termination(&self.ctx.paths, container).await {
            let made = Some(container.created_at);
            self.send(uid, Input::Exited { name: name.to_owned(), attempt, made, exit }).await;
        }
    }

    async fn relist(&mut self) {
        let snapshot = list_until_answered(&self.ctx).await;
        for container in
            snapshot.containers.iter().filter(|c| c.state == State::Exited && !c.removing)
        {
            self.exited(container).await;
        }
        for uid in self.actors.keys() {
            let sandbox = snapshot.sandboxes.iter().any(|s| s.id == *uid && s.ready);
            let running = snapshot
                .containers
                .iter()
                .filter(|c| c.sandbox == *uid && c.state != State::Exited)
                .map(|c| (c.name.clone(), c.attempt))
                .collect();
            self.send(uid, Input::Relisted { sandbox, running }).await;
        }
    }

    /// Removes what the runtime and the disk have of pods that no longer exist.
    fn remove_orphans(&mut self) {
        let mut orphans: BTreeMap<String, (String, String)> = BTreeMap::new();
        for sandbox in &self.found.sandboxes {
            let text = |key: &str| sandbox.spec.labels.get(key).cloned().unwrap_or_default();
            orphans.insert(sandbox.id.clone(), (text(label::POD_NAMESPACE), text(label::POD_NAME)));
        }
        let directories = std::fs::read_dir(self.ctx.paths.pods()).into_iter().flatten().flatten();
        for entry in directories {
            let uid = entry.file_name().to_string_lossy().into_owned();
            orphans.entry(uid).or_default();
        }
        orphans.retain(|uid, _| !self.actors.contains_key(uid));
        for (uid, (namespace, name)) in orphans {
            tracing::info!(pod = name, uid, "removing what is left of a pod that no longer exists");
            let ctx = Arc::clone(&self.ctx);
            let ids: Vec<String> = self
                .found
                .containers
                .iter()
                .filter(|c| c.sandbox == uid)
                .map(|c| c.id.clone())
                .collect();
            self.tasks.spawn(async move {
                remove_orphan(&ctx, &namespace, &name, &uid, ids).await;
                uid
            });
        }
        self.remove_old_logs();
        self.found = Snapshot::default();
        self.recorded.clear();
        let (record, uids) = (Arc::clone(&self.ctx.record), self.actors.keys().cloned().collect());
        self.tasks.spawn_blocking(move || {
            record.retain(&uids);
            String::new()
        });
    }

    /// Log directories are named after the pod's uid too.
    fn remove_old_logs(&self) {
        for entry in std::fs::read_dir(self.ctx.paths.logs()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = name.rsplit('_').next().is_some_and(|uid| self.actors.contains_key(uid));
            if !known && let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "old logs not removed");
            }
        }
    }
}

/// What was last said of the pod's addresses.
fn reported_addresses(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

async fn remove_orphan(ctx: &Context, namespace: &str, name: &str, uid: &str, ids: Vec<String>) {
    let mut stops = JoinSet::new();
    for id in ids {
        let runtime = ctx.config.runtime.clone();
        stops.spawn(async move { stop_orphan(&runtime, &id).await });
    }
    while stops.join_next().await.is_some() {}
    if let Err(error) = execute::clean_up(ctx, namespace, name, uid, true).await {
        tracing::warn!(uid, error, "pod that no longer exists not removed");
    }
}

/// Gives an orphan its grace period; removing it afterwards kills it.
async fn stop_orphan(runtime: &runtime::client::Runtime, id: &str) {
    let Ok(container) = runtime.container(id).await else { return };
    if container.state != State::Running {
        return;
    }
    let mut events = runtime.events();
    let signal = adopt::stop_signal(&container).unwrap_or(15);
    if runtime.signal(id, signal).await.is_err() {
        return;
    }
    let seconds =
        container.labels.get(label::GRACE).and_then(|g| g.parse().ok()).map(Duration::from_secs);
    let exit = async {
        while let Some(event) = events.next().await {
            if matches!(&event, Event::ContainerExited { id: other } if other == id) {
                return;
            }
        }
    };
    drop(tokio::time::timeout(seconds.unwrap_or(ORPHAN_GRACE), exit).await);
}
