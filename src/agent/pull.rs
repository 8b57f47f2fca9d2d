//! Getting a container's image: pull policy, credentials, and the events that tell of it.

use std::time::Instant;

use base64::Engine;
use k8s_openapi::api::core::v1::{Container, Pod, Secret, ServiceAccount};
use runtime::image::{Auth, Image, PullOptions, Reference};
use serde_json::Value;

use crate::context::Context;
use crate::go_duration;
use crate::worker::{EventNote, ImageFailure, ImageRef, Input};

/// Pull secrets looked at for one pod.
const SECRETS_MAX: usize = 16;

/// Makes sure that the container's image is on the node.
pub(crate) async fn ensure(ctx: &Context, pod: &Pod, name: String) -> Input {
    let container = pod.spec.iter().flat_map(crate::resources::containers).find(|c| c.name == name);
    let result = match container {
        Some(container) => find_or_pull(ctx, pod, container).await,
        None => Err(failure("ErrImagePull", format!("container {name:?} is not in the pod"))),
    };
    Input::Image { name, result }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

fn policy(container: &Container, image: &str) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some(_) => Policy::IfNotPresent,
        None if image.contains('@') => Policy::IfNotPresent,
        None => {
            let tag = image.rsplit('/').next().and_then(|n| n.split_once(':')).map(|(_, t)| t);
            if tag.is_none_or(|t| t == "latest") { Policy::Always } else { Policy::IfNotPresent }
        }
    }
}

async fn find_or_pull(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
) -> Result<ImageRef, ImageFailure> {
    let written = container.image.as_deref().unwrap_or_default();
    let reference = Reference::parse(written).map_err(|e| {
        failure("InvalidImageName", format!("Failed to apply default image tag {written:?}: {e}"))
    })?;
    let policy = policy(container, written);
    // Without the API server the node is most likely cut off from the registry too, and its pods must run.
    if (policy != Policy::Always || ctx.server_away())
        && let Some(image) = ctx.config.images.resolve(written)
    {
        let text = format!(
            "Container image {written:?} already present on machine and can be accessed by the pod"
        );
        ctx.event(pod, EventNote::normal("Pulled", text).on(&container.name));
        return Ok(image_ref(&image, &reference));
    }
    if policy == Policy::Never {
        let text = format!("Container image {written:?} is not present with pull policy of Never");
        return Err(failure("ErrImageNeverPull", text));
    }
    pull(ctx, pod, container, written, &reference).await
}

async fn pull(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    written: &str,
    reference: &Reference,
) -> Result<ImageRef, ImageFailure> {
    let event =
        |text: String, reason| ctx.event(pod, EventNote::normal(reason, text).on(&container.name));
    event(format!("Pulling image {written:?}"), "Pulling");
    let asked = Instant::now();
    let options =
        PullOptions { auth: credentials(ctx, pod, reference).await, ..ctx.config.pull.clone() };
    let error = |e: String| failure("ErrImagePull", e);
    let _permit = ctx.pulls.acquire().await.map_err(|e| error(e.to_string()))?;
    let begun = Instant::now();
    let image = ctx.config.images.pull(written, options).await.map_err(|e| error(e.to_string()))?;
    let (took, waited) = (go_duration::text(millis(begun)), go_duration::text(millis(asked)));
    let size = image.size;
    event(
        format!(
            "Successfully pulled image {written:?} in {took} ({waited} including waiting). Image size: {size} bytes."
        ),
        "Pulled",
    );
    Ok(image_ref(&image, reference))
}

fn millis(since: Instant) -> std::time::Duration {
    std::time::Duration::from_millis(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn failure(reason: &'static str, message: String) -> ImageFailure {
    ImageFailure { reason, message }
}

/// How a pod's status names the image: the tag it was asked for, and the digest in its repository.
fn image_ref(image: &Image, reference: &Reference) -> ImageRef {
    let repository = reference.name();
    let digest = image.digests.iter().find(|d| d.split('@').next() == Some(repository.as_str()));
    ImageRef {
        id: image.id.clone(),
        name: reference
            .tagged()
            .or_else(|| image.references.first().cloned())
            .unwrap_or_else(|| image.id.clone()),
        status_id: digest.or(image.digests.first()).unwrap_or(&image.id).clone(),
    }
}

/// The credentials for the image's registry: from the pod's pull secrets, else from its service account's.
async fn credentials(ctx: &Context, pod: &Pod, reference: &Reference) -> Option<Auth> {
    let spec = pod.spec.as_ref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let client = &ctx.config.client;
    let mut names: Vec<String> =
        spec.image_pull_secrets.iter().flatten().map(|r| r.name.clone()).collect();
    if names.is_empty() {
        let account =
            spec.service_account_name.as_deref().filter(|a| !a.is_empty()).unwrap_or("default");
        let account = client.get_opt::<ServiceAccount>(namespace, account).await.ok().flatten();
        names.extend(
            account.and_then(|a| a.image_pull_secrets).into_iter().flatten().map(|r| r.name),
        );
    }
    for name in names.iter().take(SECRETS_MAX) {
        match client.get_opt::<Secret>(namespace, name).await {
            Ok(Some(secret)) => {
                if let Some(auth) = from_secret(&secret, reference) {
                    return Some(auth);
                }
            }
            Ok(None) => {
                let text = format!(
                    "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
                );
                ctx.event(pod, EventNote::warning("FailedToRetrieveImagePullSecret", text));
            }
            Err(error) => tracing::warn!(secret = name, %error, "image pull secret not read"),
        }
    }
    None
}

fn from_secret(secret: &Secret, reference: &Reference) -> Option<Auth> {
    let data = secret.data.as_ref()?;
    let parse = |key: &str| serde_json::from_slice::<Value>(&data.get(key)?.0).ok();
    let auths = match parse(".dockerconfigjson") {
        Some(config) => config.get("auths")?.clone(),
        None => parse(".dockercfg")?,
    };
    from_auths(&auths, reference.registry(), &reference.name())
}

/// The entry that fits the image best: the longest one that its registry and path begin with.
pub(crate) fn from_auths(auths: &Value, registry: &str, image: &str) -> Option<Auth> {
    let fits = |key: &str| -> Option<usize> {
        let bare =
            key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
        let hub = ["index.docker.io", "docker.io", "registry-1.docker.io"];
        if bare == registry || (hub.contains(&bare) && hub.contains(&registry)) {
            return Some(bare.len());
        }
        let below = image.strip_prefix(bare)?;
        below.starts_with('/').then_some(bare.len())
    };
    let entries = auths.as_object()?;
    let (_, entry) = entries
        .iter()
        .filter_map(|(k, v)| Some((fits(k)?, v)))
        .max_by_key(|(length, _)| *length)?;
    let text = |key: &str| {
        entry.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned)
    };
    if let Some(token) = text("identitytoken") {
        return Some(Auth::IdentityToken(token));
    }
    if let Some(token) = text("registrytoken") {
        return Some(Auth::RegistryToken(token));
    }
    if let Some(encoded) = text("auth") {
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        let plain = String::from_utf8(bytes).ok()?;
        let (username, password) = plain.split_once(':')?;
        return Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() });
    }
    Some(Auth::Basic { username: text("username")?, password: text("password")? })
}
