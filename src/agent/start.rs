//! Starting one container: everything is resolved first, then it is created, then started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as PodContainer, Pod, PodSpec};
use runtime::client::Runtime;
use runtime::image::{Image, lookup_user};
use runtime::protocol::{Container, ContainerSpec, FailureKind, Mount, State};
use tokio::sync::mpsc;

use crate::clock::from_nanos;
use crate::container_spec::{self, Resolved, bind, label};
use crate::context::Context;
use crate::env;
use crate::netfiles;
use crate::objects::Held;
use crate::security::{self, ImageUser};
use crate::volumes::{mounts, place};
use crate::worker::{Failure, ImageRef, Input};

const CONFIG: &str = "CreateContainerConfigError";
const CREATE: &str = "CreateContainerError";
const MESSAGE_PATH: &str = "/dev/termination-log";

/// The container to start, and where its worker is told which one it became.
pub(crate) struct Attempt {
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) image: ImageRef,
    pub(crate) pod_ips: Vec<String>,
    pub(crate) inbox: mpsc::Sender<Input>,
}

pub(crate) async fn start(
    ctx: &Context,
    pod: &Pod,
    held: &Held,
    attempt: Attempt,
) -> Result<Timestamp, Failure> {
    let (name, number, inbox) = (attempt.name.clone(), attempt.number, attempt.inbox.clone());
    let spec = prepare(ctx, pod, held, attempt).await?;
    let runtime = &ctx.config.runtime;
    tracing::debug!(container = spec.id, "prepared");
    remove_others(runtime, &spec).await?;
    let created = match runtime.create_container(&spec).await {
        Err(error) if error.is_already_exists() => {
            // Left by an agent that ended between creating and starting it.
            runtime
                .remove_container(&spec.id)
                .await
                .map_err(|e| Failure::new(CREATE, e.to_string()))?;
            runtime.create_container(&spec).await
        }
        other => other,
    };
    let created = created.map_err(create_failure)?;
    // Told before it can end, so that no exit but its own is taken for its own.
    drop(inbox.send(Input::Created { name, attempt: number, made: created.created_at }).await);
    tracing::debug!(container = spec.id, "created");
    match runtime.start_container(&spec.id).await {
        Ok(container) => {
            tracing::info!(container = spec.id, "container started");
            Ok(container.started_at.map_or_else(Timestamp::now, from_nanos))
        }
        // The runtime keeps it as an ended container, which a restarted agent will find.
        Err(error) => {
            Err(Failure { fatal: true, ..Failure::new("RunContainerError", error.to_string()) })
        }
    }
}

/// An agent that was killed may have left another attempt of the container; only one may ever run. Removing kills.
async fn remove_others(runtime: &Runtime, spec: &ContainerSpec) -> Result<(), Failure> {
    let failed = |error: runtime::client::Error| Failure::new(CREATE, error.to_string());
    let snapshot = runtime.list().await.map_err(failed)?;
    for other in snapshot.containers.iter().filter(|other| rivals(spec, other)) {
        tracing::info!(container = other.id, "removing another attempt before a start");
        runtime.remove_container(&other.id).await.map_err(failed)?;
    }
    Ok(())
}

/// Whether `other` is a different attempt of the same container that has not ended.
fn rivals(spec: &ContainerSpec, other: &Container) -> bool {
    other.sandbox == spec.sandbox
        && other.name == spec.name
        && other.id != spec.id
        && other.state != State::Exited
}

/// What the runtime refuses is a mistake in the request; everything else happened while the process was being made,
/// which upstream counts as a failed start.
fn create_failure(error: runtime::client::Error) -> Failure {
    let refused =
        matches!(&error, runtime::client::Error::Refused(f) if f.kind == FailureKind::Internal);
    let reason = if refused { "RunContainerError" } else { CREATE };
    Failure { fatal: refused, ..Failure::new(reason, error.to_string()) }
}

async fn prepare(
    ctx: &Context,
    pod: &Pod,
    held: &Held,
    wanted: Attempt,
) -> Result<ContainerSpec, Failure> {
    let (name, attempt, image_ref) = (wanted.name.as_str(), wanted.number, &wanted.image);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let container = crate::resources::containers(spec)
        .find(|c| c.name == name)
        .ok_or_else(|| Failure::new(CONFIG, format!("container {name:?} is not in the pod")))?;
    let image = find_image(ctx, container, image_ref)?;
    let objects = held.objects().await.map_err(|e| Failure::new(CONFIG, e))?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = spec.enable_service_links != Some(false);
    let service_env = held.service_variables(links).await.map_err(|e| Failure::new(CONFIG, e))?;
    let node = ctx.node_fields(wanted.pod_ips);
    let variables = env::resolve(pod, container, &objects, &node, &service_env)?;
    let security = security::effective(pod, container)?;
    let hostname =
        netfiles::hostname(spec, pod.metadata.name.as_deref().unwrap_or_default(), &node.node_name);
    let labels = labels(pod, container, &image, image_ref);
    let log_path = log_path(ctx, pod, name, attempt);
    let config = image.config.clone();
    let layers = image.layers.clone();
    let files = Files {
        ctx_paths: ctx.paths.clone(),
        pod: pod.clone(),
        container: container.clone(),
        attempt,
        env: variables.clone(),
        image,
        log_path: log_path.clone(),
        run_as_user: security.run_as_user,
    };
    let (mounts, image_user) = tokio::task::spawn_blocking(move || files.make())
        .await
        .map_err(|e| Failure::new(CREATE, e.to_string()))??;
    let display =
        format!("{}_{namespace}({})", pod.metadata.name.as_deref().unwrap_or_default(), uid(pod));
    let user = security::user(&security, &image_user, name, &display)?;
    let memory_capacity = ctx.facts.memory_bytes;
    let resolved = Resolved {
        env: variables,
        user,
        home: image_user.home,
        security,
        mounts,
        layers,
        labels,
        hostname,
        log_path,
        memory_capacity,
    };
    container_spec::container(pod, container, attempt, &config, resolved)
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn find_image(ctx: &Context, container: &PodContainer, image: &ImageRef) -> Result<Image, Failure> {
    let written = container.image.as_deref().unwrap_or_default();
    let by_id = (!image.id.is_empty()).then(|| ctx.config.images.resolve(&image.id)).flatten();
    by_id.or_else(|| ctx.config.images.resolve(written)).ok_or_else(|| {
        Failure::new(CREATE, format!("image {written:?} has been removed from the node"))
    })
}

fn log_path(ctx: &Context, pod: &Pod, name: &str, attempt: u32) -> PathBuf {
    let meta = &pod.metadata;
    let (namespace, pod_name) = (meta.namespace.as_deref(), meta.name.as_deref());
    ctx.paths.log(
        namespace.unwrap_or_default(),
        pod_name.unwrap_or_default(),
        uid(pod),
        name,
        attempt,
    )
}

fn labels(
    pod: &Pod,
    container: &PodContainer,
    image: &Image,
    reference: &ImageRef,
) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    let mut labels = BTreeMap::from([
        (label::POD_UID.to_owned(), uid(pod).to_owned()),
        (label::POD_NAME.to_owned(), meta.name.clone().unwrap_or_default()),
        (label::POD_NAMESPACE.to_owned(), meta.namespace.clone().unwrap_or_default()),
        (label::CONTAINER.to_owned(), container.name.clone()),
        (label::GRACE.to_owned(), grace.to_string()),
        (label::IMAGE_ID.to_owned(), image.id.clone()),
        (label::IMAGE_NAME.to_owned(), reference.name.clone()),
        (label::IMAGE_STATUS.to_owned(), reference.status_id.clone()),
    ]);
    if let Some(signal) = &image.config.stop_signal {
        labels.insert(label::STOP_SIGNAL.to_owned(), signal.clone());
    }
    if let Some(policy) = &container.termination_message_policy {
        labels.insert(label::MESSAGE_POLICY.to_owned(), policy.clone());
    }
    labels
}

/// The part of a start that touches files.
struct Files {
    ctx_paths: crate::paths::Paths,
    pod: Pod,
    container: PodContainer,
    attempt: u32,
    env: Vec<(String, String)>,
    image: Image,
    log_path: PathBuf,
    run_as_user: Option<i64>,
}

impl Files {
    fn make(&self) -> Result<(Vec<Mount>, ImageUser), Failure> {
        let failed = |path: &Path, e: std::io::Error| {
            Failure::new(CREATE, format!("cannot make {}: {e}", path.display()))
        };
        if let Some(directory) = self.log_path.parent() {
            place::make_directory(directory, 0o755).map_err(|e| failed(directory, e))?;
        }
        let message = self.message_file()?;
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        let own =
            mounts::mounts(&self.ctx_paths, uid(&self.pod), spec, &self.container, &self.env)?;
        let taken = |path: &str| own.iter().any(|m| m.destination == Path::new(path));
        let paths = &self.ctx_paths;
        let uid = uid(&self.pod);
        let mut all: Vec<Mount> = [
            (paths.hosts(uid), "/etc/hosts"),
            (paths.hostname(uid), "/etc/hostname"),
            (paths.resolv_conf(uid), "/etc/resolv.conf"),
            (message, self.container.termination_message_path.as_deref().unwrap_or(MESSAGE_PATH)),
        ]
        .into_iter()
        .filter(|(_, target)| !target.is_empty() && !taken(target))
        .map(|(source, target)| bind(source, target, false))
        .collect();
        all.extend(own);
        Ok((all, self.image_user()?))
    }

    /// The file the container may write its last words to; any user may.
    fn message_file(&self) -> Result<PathBuf, Failure> {
        use std::os::unix::fs::PermissionsExt;
        let path =
            self.ctx_paths.termination_message(uid(&self.pod), &self.container.name, self.attempt);
        let make = || -> std::io::Result<()> {
            if let Some(directory) = path.parent() {
                place::make_directory(directory, 0o750)?;
            }
            std::fs::write(&path, b"")?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
        };
        make().map_err(|e| Failure::new(CREATE, format!("cannot make {}: {e}", path.display())))?;
        Ok(path)
    }

    fn image_user(&self) -> Result<ImageUser, Failure> {
        let text = self.image.config.user.clone();
        let wanted = self.run_as_user.map_or_else(|| text.clone(), |user| user.to_string());
        let found = lookup_user(&self.image.layers, &wanted)
            .map_err(|e| Failure::new(CREATE, e.to_string()))?;
        let (uid, gid, groups) = (found.uid, found.gid, found.additional_gids);
        Ok(ImageUser { text, uid, gid, groups, home: found.home })
    }
}
