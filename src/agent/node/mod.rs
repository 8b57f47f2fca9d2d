//! The node object: registration, status when it changes, and the lease (`lease`) that says "alive".
//!
//! The status is computed now and then, which costs nothing, and sent only if it says something that the API server does
//! not have: a write of the node is a write to its disk. The times of the conditions are therefore those of the last change.

mod lease;
mod notices;
mod register;
mod status;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Cache, Change, EventType, ListParams, Patch};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use runtime::protocol::Event;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::Context;
use crate::link::Link;
use crate::record::NodeRecord;

use notices::Board;

pub(crate) use lease::{LEASE_SECONDS, keep as keep_lease};

/// How often the status is computed although nothing is known to have changed.
const LOOK: Duration = Duration::from_secs(300);
/// The same for a node that is not ready.
const UNREADY_LOOK: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long one call may take before it counts as failed.
const CALL_MAX: Duration = Duration::from_secs(20);

/// Registers the node and keeps its status; tells `ready` when pods can be attached to the network. The pod range of the
/// record is good until the API server gives another.
pub(crate) async fn run(ctx: Arc<Context>, ready: watch::Sender<bool>, recorded: NodeRecord) {
    let params = ListParams::all().fields(format!("metadata.name={}", ctx.config.node_name));
    let cache: Cache<Node> = Cache::start(ctx.config.client.clone(), params);
    let mut keeper = Keeper {
        ctx,
        ready,
        cidr: String::new(),
        recorded,
        registered: None,
        announced: false,
        was_ready: false,
        notices: Board::open(Path::new(notices::FOLDER)),
        backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
    };
    keeper.run(cache).await;
}

struct Keeper {
    ctx: Arc<Context>,
    ready: watch::Sender<bool>,
    /// What the network was told.
    cidr: String,
    recorded: NodeRecord,
    /// The node when the agent last looked for it; `None` until it has, and again when it may have gone.
    registered: Option<Arc<Node>>,
    announced: bool,
    was_ready: bool,
    notices: Board,
    backoff: Backoff,
}

impl Keeper {
    async fn run(&mut self, cache: Cache<Node>) {
        let name = self.ctx.config.node_name.clone();
        let mut changes = cache.subscribe();
        let mut runtime_events = self.ctx.config.runtime.events();
        let mut server = self.ctx.link.clone();
        let mut addresses = self.ctx.addresses.clone();
        let mut was_away = false;
        let mut next = Instant::now();
        loop {
            let due = tokio::select! {
                change = changes.next() => {
                    self.see(&change, cache.get("", &name));
                    // Nobody heard of this agent for a while, and the node controller said so.
                    self.registered.as_ref().is_none_or(|node| {
                        status::ready_status(node.status.as_ref()) == Some("Unknown")
                    })
                }
                Some(event) = runtime_events.next() => event == Event::Lost,
                Ok(()) = server.changed() => {
                    let link = *server.borrow_and_update();
                    let back = link == Link::Heard && was_away;
                    was_away = link == Link::Away;
                    if back {
                        // What is known of the node is old: it may even have been deleted.
                        self.registered = None;
                        self.backoff.succeeded();
                    }
                    back
                }
                Ok(()) = addresses.changed() => true,
                () = self.notices.changed() => true,
                () = tokio::time::sleep_until(next) => true,
            };
            let range = self.follow_cidr().await;
            if due || range == Range::New {
                next = Instant::now() + self.report().await;
            }
            if range == Range::Failed {
                next = next.min(Instant::now() + self.backoff.failed_with_jitter());
            }
        }
    }

    fn see(&mut self, change: &Change<Node>, now: Option<Arc<Node>>) {
        match (change, now) {
            // Somebody deleted the node while its agent lives.
            (Change::Object { new: None, .. }, _) => self.registered = None,
            (_, Some(node)) => {
                let known = self.registered.as_deref().map_or(0, client::revision_of);
                if client::revision_of(node.as_ref()) > known {
                    self.registered = Some(node);
                }
            }
            (_, None) => self.registered = None,
        }
    }

    /// Makes the API server's view of the node right; when to look again.
    async fn report(&mut self) -> Duration {
        if self.ctx.server_away() {
            return LOOK; // its return ends the wait
        }
        match tokio::time::timeout(CALL_MAX, self.try_report()).await {
            Ok(Ok(true)) => LOOK,
            Ok(Ok(false)) => UNREADY_LOOK,
            Ok(Err(error)) => {
                tracing::warn!(%error, "node status not sent");
                self.backoff.failed_with_jitter()
            }
            Err(_) => self.backoff.failed_with_jitter(),
        }
    }

    /// Whether the node is ready.
    async fn try_report(&mut self) -> client::Result<bool> {
        let node = match &self.registered {
            Some(node) => Arc::clone(node),
            None => {
                let node = Arc::new(register::register(&self.ctx, &self.notices).await?);
                self.registered = Some(Arc::clone(&node));
                self.follow_cidr().await;
                node
            }
        };
        if !std::mem::replace(&mut self.announced, true) {
            self.event(EventType::Normal, "Starting", "Starting kubelet.".to_owned());
        }
        for event in self.notices.read() {
            self.event(event.kind(), &event.reason, event.message);
        }
        let ours = status::compute(&self.ctx, Some(&node), &self.notices).await;
        if !node.status.as_ref().is_some_and(|theirs| status::says(theirs, &ours)) {
            let (name, patch) =
                (&self.ctx.config.node_name, Patch::Strategic(status::patch(&ours)));
            let client = &self.ctx.config.client;
            let node = client.patch_sub::<Node>("", name, "status", &patch).await?;
            self.registered = Some(Arc::new(node));
        }
        self.backoff.succeeded();
        let is_ready = status::ready_status(Some(&ours)) == Some("True");
        let was_ready = self.was_ready
            && status::ready_status(node.status.as_ref()).is_none_or(|ready| ready == "True");
        if is_ready && !was_ready {
            let name = &self.ctx.config.node_name;
            self.event(
                EventType::Normal,
                "NodeReady",
                format!("Node {name} status is now: NodeReady"),
            );
        }
        self.was_ready = is_ready;
        Ok(is_ready)
    }

    /// Hands a new pod range to the network.
    async fn follow_cidr(&mut self) -> Range {
        let spec = self.registered.as_ref().and_then(|n| n.spec.as_ref());
        let given = spec.and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty());
        let wanted = given.unwrap_or_else(|| self.recorded.pod_cidr.clone());
        let result = if wanted.is_empty() || wanted == self.cidr {
            Range::Same
        } else {
            match self.ctx.config.network.set_pod_cidr(&wanted).await {
                Ok(()) => {
                    self.cidr.clone_from(&wanted);
                    self.record(wanted).await;
                    Range::New
                }
                Err(error) => {
                    tracing::warn!(cidr = wanted, error, "pod network not set up");
                    Range::Failed
                }
            }
        };
        self.ready.send_replace(self.ctx.config.network.ready());
        result
    }

    async fn record(&mut self, pod_cidr: String) {
        let record = NodeRecord { pod_cidr };
        if record == self.recorded {
            return;
        }
        self.recorded = record.clone();
        let store = Arc::clone(&self.ctx.record);
        let done = tokio::task::spawn_blocking(move || store.save_node(&record)).await;
        if let Err(error) = done.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            tracing::warn!(%error, "node not recorded");
        }
    }

    fn event(&self, kind: EventType, reason: &str, message: String) {
        let name = self.ctx.config.node_name.clone();
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            uid: Some(name.clone()),
            name: Some(name),
            ..ObjectReference::default()
        };
        self.ctx.recorder.event(&object, kind, reason, message);
    }
}

/// What became of the node's pod range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Range {
    Same,
    New,
    Failed,
}
