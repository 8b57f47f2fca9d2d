//! A pod's volumes over its life: made once, then brought up to date when what they show changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::sync::watch;

use crate::context::Context;
use crate::env::{self, Objects, References};
use crate::objects::Held;
use crate::resources;
use crate::tokens::{self, Token};
use crate::volumes::payload::{Sources, Tokens};
use crate::volumes::place;
use crate::volumes::plan::{self, TokenWish};
use crate::worker::Failure;

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
}

impl Volumes {
    pub(crate) fn new(ctx: Arc<Context>, pod: watch::Receiver<Arc<Pod>>) -> Volumes {
        let held = {
            let pod = pod.borrow();
            ctx.objects
                .hold(pod.metadata.namespace.as_deref().unwrap_or_default(), &references(&pod))
        };
        Volumes { ctx, pod, held, tokens: Mutex::default(), made: tokio::sync::Mutex::default() }
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

    /// The tokens, or why there is none; the volume that wants it reports that.
    async fn tokens(&self, pod: &Pod) -> Tokens {
        let mut values = BTreeMap::new();
        for wish in pod.spec.iter().flat_map(plan::tokens) {
            let now = Timestamp::now();
            let known = self.lock().get(&wish).filter(|t| t.renew_at > now).cloned();
            let token = match known {
                Some(token) => Ok(token),
                None => tokens::request(&self.ctx.config.client, pod, &wish, now).await,
            };
            match token {
                Ok(token) => {
                    values.insert(wish.clone(), Ok(token.value.clone()));
                    self.lock().insert(wish, token);
                }
                Err(error) => {
                    tracing::debug!(pod = pod.metadata.name, error, "no service account token");
                    // An old token is better than none: it may still be valid.
                    let old = self.lock().get(&wish).map(|t| t.value.clone());
                    values.insert(wish, old.ok_or(error));
                }
            }
        }
        values
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
        let mut retry = None;
        loop {
            let wait = retry.take().unwrap_or_else(|| self.until_renewal());
            tokio::select! {
                Some(()) = changes.next() => changed(),
                Ok(()) = pod.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            let made = self.made.lock().await;
            if !*made {
                continue; // the worker asks for it, and reports why it fails
            }
            if let Err(failure) = self.write().await {
                tracing::warn!(reason = failure.message, "volumes are not up to date");
                retry = Some(RETRY);
            }
        }
    }

    fn until_renewal(&self) -> Duration {
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
