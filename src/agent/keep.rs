//! A pod's volumes over its life: made once, then brought up to date when what they show changes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::Context;
use crate::env::{self, Objects, References};
use crate::link::{self, Link};
use crate::objects::Held;
use crate::record::Recorded;
use crate::resources;
use crate::tokens::{self, Token};
use crate::volumes::payload::{Sources, Tokens};
use crate::volumes::place;
use crate::volumes::plan::{self, TokenWish};
use crate::worker::{EventNote, Failure};

/// After a failed update, and at most this long without a look at the tokens.
const RETRY: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(3600);

/// The volumes of one pod and what they are made from.
pub(crate) struct Volumes {
    ctx: Arc<Context>,
    pod: watch::Receiver<Arc<Pod>>,
    pub(crate) held: Held,
    tokens: Mutex<BTreeMap<TokenWish, Token>>,
    /// Held while the files are written; true once all of them have been.
    made: tokio::sync::Mutex<bool>,
    /// Some token is old or missing because the API server is away.
    awaited: AtomicBool,
}

impl Volumes {
    pub(crate) fn new(
        ctx: Arc<Context>,
        pod: watch::Receiver<Arc<Pod>>,
        recorded: Recorded,
    ) -> Volumes {
        let held = {
            let pod = pod.borrow();
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            ctx.objects.hold(namespace, &references(&pod), recorded)
        };
        Volumes {
            ctx,
            pod,
            held,
            tokens: Mutex::default(),
            made: tokio::sync::Mutex::default(),
            awaited: AtomicBool::new(false),
        }
    }

    /// Makes or refreshes every volume.
    pub(crate) async fn set_up(&self) -> Result<(), Failure> {
        let mut made = self.made.lock().await;
        self.write().await?;
        *made = true;
        Ok(())
    }

    async fn write(&self) -> Result<(), Failure> {
        let pod = Arc::clone(&self.pod.borrow());
        let failed = |message: String| Failure::new("FailedMount", message);
        let objects = self
            .held
            .objects()
            .await
            .map_err(|e| failed(format!("MountVolume.SetUp failed : {e}")))?;
        let tokens = self.tokens(&pod).await;
        let ctx = Arc::clone(&self.ctx);
        let done = tokio::task::spawn_blocking(move || set_up_all(&ctx, &pod, &objects, &tokens));
        done.await.unwrap_or_else(|e| Err(e.to_string())).map_err(failed)
    }

    /// The tokens, or why there is none; the volume that wants it reports that. Without the API server a pod goes on
    /// with the token it has, or starts with an empty one.
    async fn tokens(&self, pod: &Pod) -> Tokens {
        let mut values = BTreeMap::new();
        let mut awaited = false;
        for wish in pod.spec.iter().flat_map(plan::tokens) {
            let now = Timestamp::now();
            let known = self.lock().get(&wish).filter(|t| t.renew_at > now).cloned();
            let asked = match known {
                Some(token) => Some(Ok(token)),
                None => self.ask(pod, &wish, now).await,
            };
            let old = || self.lock().get(&wish).map(|t| t.value.clone());
            let value = match asked {
                Some(Ok(token)) => {
                    let value = token.value.clone();
                    self.lock().insert(wish.clone(), token);
                    Ok(value)
                }
                Some(Err(error)) => {
                    tracing::debug!(pod = pod.metadata.name, error, "no service account token");
                    // An old token is better than none: it may still be valid.
                    old().ok_or(error)
                }
                None => {
                    awaited = true;
                    Ok(old().or_else(|| self.on_disk(pod, &wish)).unwrap_or_default())
                }
            };
            values.insert(wish, value);
        }
        if awaited && !self.awaited.swap(awaited, Ordering::Relaxed) {
            let text = "service account token not renewed: the API server is away";
            self.ctx.event(pod, EventNote::warning("TokenNotRenewed", text.to_owned()));
        }
        self.awaited.store(awaited, Ordering::Relaxed);
        values
    }

    /// `None` if the API server is away.
    async fn ask(
        &self,
        pod: &Pod,
        wish: &TokenWish,
        now: Timestamp,
    ) -> Option<Result<Token, String>> {
        let result = tokio::select! {
            biased;
            () = link::away(self.ctx.link.clone()) => return None,
            result = tokens::request(&self.ctx.config.client, pod, wish, now) => result,
        };
        (result.is_ok() || !self.ctx.server_away()).then_some(result)
    }

    /// The token an earlier agent has written into the volume.
    fn on_disk(&self, pod: &Pod, wish: &TokenWish) -> Option<String> {
        let uid = pod.metadata.uid.as_deref()?;
        let volumes = pod.spec.as_ref()?.volumes.iter().flatten();
        let mut files = volumes.flat_map(|v| plan::token_paths(v, wish).map(move |p| (v, p)));
        files.find_map(|(volume, path)| {
            let folder = place::source(&self.ctx.paths, uid, volume)?;
            std::fs::read_to_string(folder.join(path)).ok()
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TokenWish, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps files from being replaced while a container is made that mounts some of them by their path (subPath).
    pub(crate) async fn hold_still(&self) -> tokio::sync::MutexGuard<'_, bool> {
        self.made.lock().await
    }

    /// Follows changes of objects, of the pod's metadata and of tokens for as long as it is polled.
    /// `changed` is told whenever an object has changed.
    pub(crate) async fn keep(&self, changed: impl Fn()) {
        let mut changes = self.held.changes();
        let mut pod = self.pod.clone();
        let mut server = self.ctx.link.clone();
        let mut due = None;
        loop {
            let at = *due.get_or_insert_with(|| Instant::now() + self.until_renewal());
            tokio::select! {
                Some(()) = changes.next() => changed(),
                Ok(()) = pod.changed() => {}
                Ok(()) = server.changed() => {
                    let heard = *server.borrow_and_update() == Link::Heard;
                    if !(heard && self.awaited.load(Ordering::Relaxed)) {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(at) => {}
            }
            due = None;
            let made = self.made.lock().await;
            if !*made {
                continue; // the worker asks for it, and reports why it fails
            }
            if let Err(failure) = self.write().await {
                tracing::warn!(reason = failure.message, "volumes are not up to date");
                due = Some(Instant::now() + RETRY);
            }
        }
    }

    fn until_renewal(&self) -> Duration {
        if self.awaited.load(Ordering::Relaxed) {
            return LOOK; // the server's return ends the wait
        }
        let next = self.lock().values().map(|t| t.renew_at).min();
        let wait = next.map_or(LOOK, |at| {
            Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(RETRY)
        });
        wait.clamp(RETRY, LOOK)
    }
}

/// Everything of the API server that the pod's volumes and variables show.
fn references(pod: &Pod) -> References {
    let mut all = References::default();
    let Some(spec) = &pod.spec else { return all };
    let containers = resources::containers(spec).map(env::references);
    for found in containers.chain([plan::references(spec)]) {
        all.config_maps.extend(found.config_maps);
        all.secrets.extend(found.secrets);
    }
    all
}

fn set_up_all(ctx: &Context, pod: &Pod, objects: &Objects, tokens: &Tokens) -> Result<(), String> {
    let node = ctx.node_fields(Vec::new());
    let sources = Sources { pod, objects, node: &node, tokens };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes: &[Volume] =
        pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    volumes.iter().try_for_each(|volume| {
        place::set_up(&ctx.paths, uid, volume, &sources)
            .map_err(|e| format!("MountVolume.SetUp failed for volume {:?} : {e}", volume.name))
    })
}
