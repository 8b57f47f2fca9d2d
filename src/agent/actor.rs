//! The owner of one pod: steps its state, performs the effects, publishes what users see.
//!
//! Effects run as tasks of the actor; each gives back one outcome. So the loop itself never waits for anything but the
//! next outcome, the next message or the next timer, and everything of a pod ends with its actor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteParams, Patch};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::clock::Now;
use crate::context::Context;
use crate::execute;
use crate::keep::Volumes;
use crate::link::Link;
use crate::note::Note;
use crate::prober;
use crate::record::{Cause, PodRecord, Recorded};
use crate::start::Attempt;
use crate::status;
use crate::telling::{Tell, Telling};
use crate::worker::{Effect, Input, PodState, ProbeKind, Stage, Step, StopPlan};

/// Messages that wait for one pod; senders wait when it is full.
const INBOX: usize = 64;
/// How long a status or a deletion may be on its way.
const CALL_MAX: Duration = Duration::from_secs(20);

/// What the rest of the agent may read of a pod.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) pod: Arc<Pod>,
    pub(crate) status: PodStatus,
}

/// The way to a pod's actor.
pub(crate) struct Handle {
    pub(crate) inbox: mpsc::Sender<Input>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

/// What a task of the actor came back with.
pub(crate) enum Outcome {
    Input(Input),
    /// The status, and the pod's revision with it.
    Sent(Box<PodStatus>, Result<u64, client::Error>),
    Deleted(Result<(), client::Error>),
    Recorded(Result<(), String>),
    Link(Link),
    /// The node has others now.
    Addresses,
    Nothing,
}

pub(crate) struct Actor {
    ctx: Arc<Context>,
    state: PodState,
    volumes: Arc<Volumes>,
    pod: watch::Sender<Arc<Pod>>,
    view: watch::Sender<Arc<View>>,
    inbox: mpsc::Receiver<Input>,
    own_inbox: mpsc::Sender<Input>,
    tasks: JoinSet<Outcome>,
    stops: BTreeMap<String, AbortHandle>,
    probes: BTreeMap<(String, ProbeKind), AbortHandle>,
    keeping: bool,
    told: Telling,
    note: Note,
}

impl Actor {
    /// `recorded` is what the pod was last started from, if the node has a record of it.
    pub(crate) fn new(
        ctx: Arc<Context>,
        state: PodState,
        recorded: Option<Recorded>,
    ) -> (Actor, Handle) {
        let told = Telling::new(&state.pod);
        let shown = status::compute(&state, &ctx.host_ips(), told.last(), ctx.clock.now().wall);
        let (pod, pod_seen) = watch::channel(Arc::clone(&state.pod));
        let first = Arc::new(View { pod: Arc::clone(&state.pod), status: shown });
        let (view, view_seen) = watch::channel(first);
        let (own_inbox, inbox) = mpsc::channel(INBOX);
        let on_record = recorded.is_some();
        let recorded = recorded.unwrap_or_default();
        let volumes = Arc::new(Volumes::new(Arc::clone(&ctx), pod_seen, recorded));
        let handle = Handle { inbox: own_inbox.clone(), view: view_seen };
        let actor = Actor {
            ctx,
            state,
            volumes,
            pod,
            view,
            inbox,
            own_inbox,
            tasks: JoinSet::new(),
            stops: BTreeMap::new(),
            probes: BTreeMap::new(),
            keeping: false,
            told,
            note: Note::new(on_record),
        };
        (actor, handle)
    }

    /// Runs the pod until nothing of it is left.
    pub(crate) async fn run(mut self) {
        self.step(Input::Tick);
        let mut server = self.ctx.link.clone();
        let mut addresses = self.ctx.addresses.clone();
        while !self.finished() {
            let wake = self.wake().map(|at| self.ctx.clock.instant(at));
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                Some(input) = self.inbox.recv() => Outcome::Input(input),
                Some(done) = self.tasks.join_next() => done.unwrap_or(Outcome::Nothing),
                Ok(()) = server.changed() => Outcome::Link(*server.borrow_and_update()),
                Ok(()) = addresses.changed() => Outcome::Addresses,
                () = timer => Outcome::Input(Input::Tick),
            };
            self.handle(outcome);
        }
    }

    fn handle(&mut self, outcome: Outcome) {
        let now = self.ctx.clock.now();
        match outcome {
            Outcome::Input(input) => self.step(input),
            Outcome::Sent(status, result) => {
                tracing::debug!(pod = self.state.name(), phase = status.phase, "status sent");
                self.warn("pod status not sent", result.as_ref().err());
                self.told.sent(*status, &result, &self.state.pod, now.mono);
                self.publish(now);
            }
            Outcome::Deleted(result) => {
                self.warn("pod not deleted", result.as_ref().err());
                self.told.deleted(&result, now.mono);
                self.publish(now);
            }
            Outcome::Recorded(result) => {
                if let Err(error) = &result {
                    tracing::warn!(pod = self.state.name(), error, "pod not recorded");
                }
                self.note.done(result.is_ok(), now.mono);
                self.publish(now);
            }
            Outcome::Link(link) => {
                if link == Link::Heard {
                    self.told.heard();
                }
                self.publish(now);
            }
            Outcome::Addresses => self.publish(now),
            Outcome::Nothing => {}
        }
    }

    fn warn(&self, what: &str, error: Option<&client::Error>) {
        let expected = |e: &client::Error| e.is_not_found() || e.is_conflict();
        if let Some(error) = error.filter(|e| !expected(e)) {
            tracing::warn!(pod = self.state.name(), %error, "{what}");
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.ctx.clock.now();
        let fresh = matches!(input, Input::Pod(_));
        if matches!(input, Input::Retry | Input::Volumes(Ok(()))) {
            self.note.objects += 1;
        }
        if let Input::Pod(pod) = &input {
            // Volumes show labels and annotations; nothing else of a pod that changes.
            self.pod.send_if_modified(|old| {
                let differs = old.metadata.labels != pod.metadata.labels
                    || old.metadata.annotations != pod.metadata.annotations;
                *old = Arc::clone(pod);
                differs
            });
        }
        tracing::debug!(pod = self.state.name(), input = input.label(), "step");
        for effect in self.state.step(input, now) {
            self.perform(effect);
        }
        if fresh {
            self.told.compare(&self.state.pod);
        }
        self.reap_stops();
        self.publish(now);
    }

    fn perform(&mut self, effect: Effect) {
        let ctx = Arc::clone(&self.ctx);
        let pod = Arc::clone(&self.state.pod);
        match effect {
            Effect::Event(note) => ctx.event(&pod, note),
            Effect::MountVolumes => self.mount(),
            Effect::CreateSandbox { replace } => {
                self.spawn(
                    async move { Input::Sandbox(execute::sandbox(&ctx, &pod, replace).await) },
                );
            }
            Effect::PullImage { name } => {
                self.spawn(async move { crate::pull::ensure(&ctx, &pod, name).await });
            }
            Effect::StartContainer { name, attempt } => self.start(name, attempt),
            Effect::PostStart { name, attempt } => {
                let ips = self.ips();
                self.spawn(
                    async move { execute::post_start(&ctx, &pod, name, attempt, &ips).await },
                );
            }
            Effect::Stop(plan) => self.stop(plan),
            Effect::Forget { name, attempt } => {
                self.tasks.spawn(async move {
                    execute::forget(&ctx, &pod, &name, attempt).await;
                    Outcome::Nothing
                });
            }
            Effect::StartProbe { name, attempt, kind } => self.probe(name, attempt, kind),
            Effect::StopProbes { name } => {
                self.probes.retain(|(of, _), task| {
                    let other = *of != name;
                    if !other {
                        task.abort();
                    }
                    other
                });
            }
            Effect::Cleanup { last } => {
                self.spawn(async move { Input::Cleaned(execute::clean(&ctx, &pod, last).await) });
            }
            Effect::Delete => self.told.ask_to_delete(),
        }
    }

    fn spawn(&mut self, work: impl Future<Output = Input> + Send + 'static) {
        self.tasks.spawn(async move { Outcome::Input(work.await) });
    }

    fn mount(&mut self) {
        let volumes = Arc::clone(&self.volumes);
        self.spawn(async move { Input::Volumes(volumes.set_up().await) });
        if std::mem::replace(&mut self.keeping, true) {
            return;
        }
        let volumes = Arc::clone(&self.volumes);
        let inbox = self.own_inbox.clone();
        self.tasks.spawn(async move {
            // A full inbox means that the pod is about to be looked at anyway.
            volumes.keep(move || drop(inbox.try_send(Input::Retry))).await;
            Outcome::Nothing
        });
    }

    fn start(&mut self, name: String, attempt: u32) {
        let ctx = Arc::clone(&self.ctx);
        let pod = Arc::clone(&self.state.pod);
        let volumes = Arc::clone(&self.volumes);
        let image = self.state.container(&name).and_then(|c| c.image.clone()).unwrap_or_default();
        let (ips, inbox) = (self.ips(), self.own_inbox.clone());
        let sub_paths = self.state.spec_of(&name).is_some_and(|c| {
            let mut mounts = c.volume_mounts.iter().flatten();
            mounts.any(|m| m.sub_path.is_some() || m.sub_path_expr.is_some())
        });
        self.spawn(async move {
            let _still = if sub_paths { Some(volumes.hold_still().await) } else { None };
            let wanted =
                Attempt { name: name.clone(), number: attempt, image, pod_ips: ips, inbox };
            let result = crate::start::start(&ctx, &pod, &volumes.held, wanted).await;
            Input::Started { name, attempt, result }
        });
    }

    fn stop(&mut self, plan: StopPlan) {
        let ctx = Arc::clone(&self.ctx);
        let pod = Arc::clone(&self.state.pod);
        let ips = self.ips();
        let name = plan.name.clone();
        let task = self.tasks.spawn(async move { execute::stop(&ctx, &pod, plan, &ips).await });
        if let Some(earlier) = self.stops.insert(name, task) {
            earlier.abort();
        }
    }

    /// A stop is over when its container is.
    fn reap_stops(&mut self) {
        let state = &self.state;
        self.stops.retain(|name, task| {
            let alive = state.container(name).is_some_and(crate::worker::Container::alive);
            if !alive {
                task.abort();
            }
            alive
        });
    }

    fn probe(&mut self, name: String, attempt: u32, kind: ProbeKind) {
        let Some(spec) = self.state.spec_of(&name) else { return };
        let Some(probe) = kind.of(spec).cloned() else { return };
        let target = prober::Target {
            id: status::container_id(self.state.uid(), &name, attempt),
            ports: spec.ports.clone().unwrap_or_default(),
            ip: self.ips().into_iter().next().unwrap_or_default(),
        };
        let runtime = self.ctx.config.runtime.clone();
        let inbox = self.own_inbox.clone();
        let key = (name.clone(), kind);
        let task = self.tasks.spawn(async move {
            prober::run(runtime, target, probe, |outcome| {
                let input = Input::Probed { name: name.clone(), attempt, kind, outcome };
                let inbox = inbox.clone();
                async move { inbox.send(input).await.is_ok() }
            })
            .await;
            Outcome::Nothing
        });
        if let Some(earlier) = self.probes.insert(key, task) {
            earlier.abort();
        }
    }

    fn ips(&self) -> Vec<String> {
        let host = self.state.pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
        if host {
            return self.ctx.host_ips();
        }
        self.state.ips.iter().map(ToString::to_string).collect()
    }

    /// Shows the present status to readers and brings it to the API server.
    fn publish(&mut self, now: Now) {
        let before = Arc::clone(&self.view.borrow());
        let shown = status::compute(&self.state, &self.ctx.host_ips(), &before.status, now.wall);
        if shown != before.status || !Arc::ptr_eq(&before.pod, &self.state.pod) {
            let pod = Arc::clone(&self.state.pod);
            self.view.send_replace(Arc::new(View { pod, status: shown.clone() }));
        }
        self.record(&shown, now);
        if self.state.gone || self.ctx.server_away() {
            return;
        }
        match self.told.next(&shown, self.state.starting(), now.mono) {
            Some(Tell::Status) => self.send(shown),
            Some(Tell::Delete) => self.send_delete(),
            None => {}
        }
    }

    fn send(&mut self, shown: PodStatus) {
        let body = match status::patch(self.state.uid(), &shown, self.told.last()) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%error, "pod status cannot be written as JSON");
                return;
            }
        };
        let client = self.ctx.config.client.clone();
        let (namespace, name) = (self.state.namespace().to_owned(), self.state.name().to_owned());
        self.tasks.spawn(async move {
            let patch = Patch::Strategic(body);
            let call = client.patch_sub::<Pod>(&namespace, &name, "status", &patch);
            let result = in_time("PATCH", &name, call).await;
            Outcome::Sent(Box::new(shown), result.map(|pod| client::revision_of(&pod)))
        });
    }

    /// Brings the node's record of the pod up to date, if the pod has ever been able to start.
    fn record(&mut self, shown: &PodStatus, now: Now) {
        let possible = self.note.exists || self.state.volumes == Step::Ready;
        if !possible || self.state.gone || self.state.stage == Stage::Done {
            return;
        }
        let cause = Cause::new(&self.state.pod, shown, self.note.objects);
        if !self.note.due(cause, now.mono) {
            return;
        }
        let (store, volumes) = (Arc::clone(&self.ctx.record), Arc::clone(&self.volumes));
        let (pod, status) = (Arc::clone(&self.state.pod), shown.clone());
        self.tasks.spawn(async move {
            let work = move || {
                let links =
                    pod.spec.as_ref().is_some_and(|s| s.enable_service_links != Some(false));
                let record = PodRecord::new(&pod, &status, volumes.held.known(links));
                store.save(&record).map(drop).map_err(|e| e.to_string())
            };
            let done = tokio::task::spawn_blocking(work).await;
            Outcome::Recorded(done.unwrap_or_else(|e| Err(e.to_string())))
        });
    }

    fn send_delete(&mut self) {
        let client = self.ctx.config.client.clone();
        let (namespace, name) = (self.state.namespace().to_owned(), self.state.name().to_owned());
        let params = DeleteParams::default().grace(0).uid(self.state.uid());
        self.tasks.spawn(async move {
            let call = client.delete::<Pod>(&namespace, &name, &params);
            Outcome::Deleted(in_time("DELETE", &name, call).await)
        });
    }

    fn finished(&self) -> bool {
        let over = self.state.gone || self.told.is_deleted();
        // A record that is being written must not appear after it was taken away.
        self.state.stage == Stage::Done && over && !self.note.busy()
    }

    /// The next moment at which something is due without any message.
    fn wake(&self) -> Option<Duration> {
        let now = self.ctx.clock.now();
        let deadline =
            self.state.deadline().filter(|_| self.state.stage == Stage::Active).map(|at| {
                now.mono + Duration::try_from(at.duration_since(now.wall)).unwrap_or_default()
            });
        let call = self.told.wake().filter(|_| !self.ctx.server_away());
        [self.state.next_wake(), deadline, self.note.wake(now.mono), call]
            .into_iter()
            .flatten()
            .min()
    }
}

async fn in_time<T>(
    method: &str,
    pod: &str,
    call: impl Future<Output = client::Result<T>>,
) -> client::Result<T> {
    tokio::time::timeout(CALL_MAX, call).await.unwrap_or_else(|_| {
        let (method, path) = (method.to_owned(), format!("pods/{pod}"));
        Err(client::Error::Timeout { method, path, seconds: CALL_MAX.as_secs() })
    })
}
