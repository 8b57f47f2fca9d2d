//! Updates of the board a node runs on: takes requests from the node's annotation and from a local socket, works on them one
//! at a time, says how far it is, and judges the trial of a new version.
//!
//! On a machine that is no board PID 1 has left no facts, and nothing of this runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use client::{Cache, Client, ListParams, Recorder};
use k8s_openapi::api::core::v1::Node;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ota::{BootFacts, Journal, Places, State, Update, Verdict};
use runtime::client::FdStream;
use runtime::image::Registries;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::factory_reset;
use crate::upgrade_health::judge;
use crate::upgrade_job::Job;
use crate::upgrade_news::{annotate, tell};
use crate::upgrade_resume::{Next, Resume};
use crate::upgrade_socket::{Asked, Request, Told, listen};
use crate::upgrade_status::{DOWNGRADE, Phase, REQUEST, STATUS, Status};

/// Where `copepod upgrade` reaches the node of its machine.
pub(crate) const SOCKET: &str = "/run/copepod/upgrade.sock";
const FOLDER: &str = "/run/copepod";
/// Requests that wait; a second one is refused anyway.
const REQUESTS_MAX: usize = 4;
/// How long a restart waits for the API server to hear of it.
const TELL_MAX: Duration = Duration::from_secs(20);

/// What the node hands over.
pub(crate) struct Settings {
    pub(crate) client: Client,
    pub(crate) node_name: String,
    pub(crate) registries: Arc<Registries>,
    /// The node is a server too.
    pub(crate) is_server: bool,
}

struct Upgrades {
    settings: Arc<Settings>,
    recorder: Recorder,
    facts: BootFacts,
    places: Places,
    told: watch::Sender<Told>,
    work: Option<Work>,
    resume: Resume,
    /// The source in the node's annotation, as seen last.
    wanted: Option<String>,
    /// A request that was worked on; its annotation is to go.
    finished: Option<String>,
    /// The node's revision without that annotation: what is older still shows it.
    taken_away: u64,
}

struct Work {
    task: JoinHandle<Result<Update, ota::Error>>,
    request: Request,
    stop: Arc<AtomicBool>,
}

/// Runs until it is told to stop.
pub(crate) async fn run(settings: Settings, mut stopped: watch::Receiver<bool>) {
    match Upgrades::new(settings) {
        Ok(Some(upgrades)) => upgrades.run(stopped).await,
        Ok(None) => stop(&mut stopped).await,
        Err(error) => {
            warn!("this board takes no updates: {error:#}");
            stop(&mut stopped).await;
        }
    }
}

impl Upgrades {
    fn new(settings: Settings) -> Result<Option<Upgrades>> {
        let path = Path::new(Places::FACTS);
        if !path.exists() {
            return Ok(None);
        }
        let facts = BootFacts::read(path)?;
        let places = Places::of_board(&facts);
        let journal = Journal::read(&places.upgrade())?;
        let status = Status::of_journal(&journal);
        let finished = journal.last.filter(|_| facts.settled).map(|outcome| outcome.source);
        let told = watch::Sender::new(status.map(|status| (status, facts.settled || facts.trial)));
        let recorder =
            Recorder::new(settings.client.clone(), "factory-reset", Some(&settings.node_name));
        let settings = Arc::new(settings);
        Ok(Some(Upgrades {
            settings,
            recorder,
            facts,
            places,
            told,
            work: None,
            resume: Resume::default(),
            wanted: None,
            finished,
            taken_away: 0,
        }))
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let (sender, mut requests) = mpsc::channel(REQUESTS_MAX);
        let mut side = tokio::task::JoinSet::new();
        side.spawn(tell(self.settings.clone(), self.told.subscribe()));
        let told = self.told.clone();
        side.spawn(async move { listen(Path::new(SOCKET), sender, told).await });
        if self.facts.trial {
            let journal = Journal::read(&self.places.upgrade()).unwrap_or_default();
            if let Some(update) = journal.state.update() {
                let Settings { client, node_name, .. } = &*self.settings;
                let before = update.before.clone();
                side.spawn(judge(client.clone(), node_name.clone(), before));
            }
        }
        let name = &self.settings.node_name;
        let params = ListParams::all().fields(format!("metadata.name={name}"));
        let nodes: Cache<Node> = Cache::start(self.settings.client.clone(), params);
        let mut changes = nodes.subscribe();
        let mut folder = sys::notify::watch_folder(Path::new(FOLDER)).and_then(FdStream::new).ok();
        loop {
            self.go_on();
            let due = self.resume.due();
            tokio::select! {
                () = stop(&mut stopped) => break,
                _ = changes.next() => {}
                Some(asked) = requests.recv() => self.asked(asked),
                () = Resume::over(due) => self.resume.is_over(),
                ended = ended(&mut self.work) => self.ended(ended).await,
                () = changed(&mut folder) => self.look_at_facts(),
            }
            if let Some(node) = nodes.get("", &self.settings.node_name) {
                self.follow(&node).await;
            }
        }
        if let Some(work) = self.work.take() {
            work.stop.store(true, Ordering::Relaxed);
            drop(work.task.await);
        }
    }

    /// Takes up what the machine was writing when it was switched off.
    fn go_on(&mut self) {
        if self.work.is_some() || !self.facts.confirmed {
            return;
        }
        if let Ok(Journal { state: State::Writing(update), .. }) =
            Journal::read(&self.places.upgrade())
            && !self.resume.waits(&update.source, Instant::now())
        {
            info!(source = update.source, "going on with an update");
            let allow_downgrade = update.allow_downgrade;
            self.begin(Request { source: update.source, allow_downgrade });
        }
    }

    /// Takes the requests of the node's annotations. An update that was asked for before the start waits until the slot is confirmed.
    async fn follow(&mut self, node: &Node) {
        if client::revision_of(node) < self.taken_away {
            return;
        }
        let empty = BTreeMap::new();
        let annotations = node.metadata.annotations.as_ref().unwrap_or(&empty);
        if let Some(value) = annotations.get(factory_reset::REQUEST) {
            self.reset(node, value).await;
        }
        self.wanted = annotations.get(REQUEST).cloned();
        let Some(source) = annotations.get(REQUEST) else {
            self.finished = None;
            return;
        };
        if self.finished.as_ref() == Some(source) {
            self.take_annotation_away().await;
        } else if self.work.is_none()
            && (self.facts.confirmed || self.facts.trial)
            && !self.resume.waits(source, Instant::now())
        {
            let allow_downgrade = annotations.get(DOWNGRADE).is_some_and(|text| text == "true");
            self.begin(Request { source: source.clone(), allow_downgrade });
        }
    }

    /// Takes the request of the local socket.
    fn asked(&mut self, asked: Asked) {
        match &self.work {
            // Whoever asked may be gone.
            Some(work) => {
                let text = format!("the update from {} is being worked on", work.request.source);
                drop(asked.refuse.send(text));
            }
            None => self.begin(asked.request),
        }
    }

    async fn reset(&mut self, node: &Node, value: &str) {
        let journal = Journal::read(&self.places.upgrade()).unwrap_or_default();
        // One that waits for its source would keep the board from it for ever.
        let is_undecided = !matches!(journal.state, State::Idle | State::Writing(_));
        let is_updating = self.work.is_some() || is_undecided;
        let answer = factory_reset::answer(&self.settings.node_name, value, is_updating);
        let (kind, reason, text) = answer.event();
        info!(reason, "{text}");
        self.recorder.event(&client::reference(node), kind, reason, text);
        // A board that comes back under its name must not find the request again.
        match annotate(&self.settings, json!({ factory_reset::REQUEST: null })).await {
            Ok(node) => self.taken_away = client::revision_of(&node),
            Err(error) => {
                let name = factory_reset::REQUEST;
                warn!(%error, "annotation {name} not removed, so nothing is done");
                return;
            }
        }
        if answer == factory_reset::Answer::Reset
            && let Err(error) = factory_reset::begin()
        {
            warn!(%error, "PID 1 does not take the factory reset");
        }
    }

    fn begin(&mut self, request: Request) {
        if self.work.is_some() {
            return;
        }
        info!(source = request.source, "update asked for");
        self.say(&request, Phase::Checking, "", "reading the bundle's manifest".to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let job = Job {
            settings: self.settings.clone(),
            places: self.places.clone(),
            facts: self.facts.clone(),
            request: request.clone(),
            told: self.told.clone(),
            stop: stop.clone(),
        };
        self.work = Some(Work { task: tokio::spawn(job.run()), request, stop });
    }

    async fn ended(&mut self, result: Result<Update, ota::Error>) {
        let Some(work) = self.work.take() else { return };
        let request = work.request;
        match result {
            Ok(update) => {
                let text = format!(
                    "{} is written to slot {}; restarting into it",
                    update.version, update.to
                );
                self.say(&request, Phase::Restarting, &update.version.to_string(), text);
                self.finished = Some(request.source);
                drop(tokio::time::timeout(TELL_MAX, self.take_annotation_away()).await);
                if let Err(error) = kill(Pid::from_raw(1), Signal::SIGINT) {
                    warn!(%error, "PID 1 does not take the restart");
                }
            }
            Err(ota::Error::Stopped) => {}
            Err(error) => {
                warn!(source = request.source, "no update: {error}");
                let is_refused = matches!(error, ota::Error::Refused(_));
                if self.is_to_be_tried_again(&request, &error, is_refused) {
                    return;
                }
                let phase = if is_refused { Phase::Refused } else { Phase::Failed };
                self.say(&request, phase, "", error.to_string());
                // One of the local socket leaves what the annotation asks for alone.
                if self.wanted.as_ref() == Some(&request.source) {
                    self.finished = Some(request.source);
                    self.take_annotation_away().await;
                }
            }
        }
    }

    /// What was being written when the machine was switched off is tried again, unless that has no use.
    fn is_to_be_tried_again(
        &mut self,
        request: &Request,
        error: &ota::Error,
        is_refused: bool,
    ) -> bool {
        let folder = self.places.upgrade();
        let journal = Journal::read(&folder).unwrap_or_default();
        if !matches!(&journal.state, State::Writing(update) if update.source == request.source) {
            return false;
        }
        match self.resume.failed(&request.source, is_refused, Instant::now()) {
            Next::Again(pause) => {
                let text = format!("{error}; tried again in {} s", pause.as_secs());
                self.say(request, Phase::Writing, "", text);
                true
            }
            Next::GiveUp => {
                let verdict = if is_refused { Verdict::Refused } else { Verdict::Failed };
                if let Err(error) = journal.give_up(&folder, verdict, error.to_string()) {
                    warn!(%error, "the end of the update is not noted");
                }
                false
            }
        }
    }

    /// PID 1 may have confirmed the slot.
    fn look_at_facts(&mut self) {
        let Ok(facts) = BootFacts::read(Path::new(Places::FACTS)) else { return };
        let was_settled = std::mem::replace(&mut self.facts, facts).settled;
        if self.facts.settled && !was_settled {
            let journal = Journal::read(&self.places.upgrade()).unwrap_or_default();
            if let Some(outcome) = journal.last {
                self.told.send_replace(Some((Status::of_outcome(&outcome), true)));
            }
        }
    }

    fn say(&self, request: &Request, phase: Phase, version: &str, message: String) {
        let (source, version) = (request.source.clone(), version.to_owned());
        let status = Status { phase, source, version, percent: None, message };
        self.told.send_replace(Some((status, true)));
    }

    /// A request that was worked on is not there any more, so that the same one can be made again.
    async fn take_annotation_away(&mut self) {
        let mut annotations = json!({ REQUEST: null, DOWNGRADE: null });
        let told = self.told.borrow().clone();
        if let Some((status, _)) = told {
            annotations[STATUS] = json!(serde_json::to_string(&status).unwrap_or_default());
        }
        match annotate(&self.settings, annotations).await {
            Ok(node) => {
                self.finished = None;
                self.taken_away = client::revision_of(&node);
            }
            Err(error) => warn!(%error, "annotation {REQUEST} not removed"),
        }
    }
}

async fn stop(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// The result of the work under way; never, if there is none.
async fn ended(work: &mut Option<Work>) -> Result<Update, ota::Error> {
    match work {
        None => std::future::pending().await,
        Some(work) => match (&mut work.task).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(ota::Error::Source(std::io::Error::other(error))),
        },
    }
}

/// Waits for a change in the folder PID 1 writes to.
async fn changed(folder: &mut Option<FdStream>) {
    if let Some(folder) = folder
        && folder.read(&mut [0; sys::notify::MESSAGE_LEN]).await.is_ok_and(|read| read > 0)
    {
        return;
    }
    std::future::pending().await
}
