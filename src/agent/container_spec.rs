//! Everything about one container in the runtime's terms, from the pod, its image and what was resolved for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use runtime::image::ImageConfig;
use runtime::protocol::{
    ContainerSpec, Device, Mount, MountKind, Propagation, Resources, SandboxSpec, User,
};

use crate::env;
use crate::expand::expand;
use crate::resources::{self, CgroupSettings};
use crate::security::Security;
use crate::status::container_id;
use crate::worker::Failure;

/// Labels by which a restarted agent recognises what is its own.
pub(crate) mod label {
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const CONTAINER: &str = "io.kubernetes.container.name";
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub(crate) const STOP_SIGNAL: &str = "io.copepod.container.stopSignal";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const IMAGE_ID: &str = "io.copepod.image.id";
    pub(crate) const IMAGE_NAME: &str = "io.copepod.image.name";
    pub(crate) const IMAGE_STATUS: &str = "io.copepod.image.status";
}

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LOG_BYTES_MAX: u64 = 10 << 20;
const LOG_FILES_MAX: u32 = 5;

/// What was found out for this start; all of it outside of the pod's own text.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) user: User,
    /// What the image's passwd file says.
    pub(crate) home: Option<String>,
    pub(crate) security: Security,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) hostname: String,
    pub(crate) log_path: PathBuf,
    pub(crate) memory_capacity: i64,
}

pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &ImageConfig,
    resolved: Resolved,
) -> Result<ContainerSpec, Failure> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let args = command(container, image, &resolved.env)?;
    let security = resolved.security;
    let tty = container.tty == Some(true);
    let unmask = security.unmasked.then(Vec::new);
    Ok(ContainerSpec {
        id: container_id(uid, &container.name, attempt),
        sandbox: uid.to_owned(),
        name: container.name.clone(),
        attempt,
        labels: resolved.labels,
        lower: resolved.layers,
        args,
        env: environment(image, &resolved.env, resolved.home, &resolved.hostname, tty),
        cwd: working_dir(container, image),
        user: resolved.user,
        mounts: resolved.mounts,
        devices: Vec::<Device>::new(),
        rlimits: Vec::new(),
        resources: limits(&resources::container_settings(container), container),
        oom_score_adj: resources::oom_score_adj(spec, container, resolved.memory_capacity),
        capabilities: security.capabilities,
        privileged: security.privileged,
        readonly_rootfs: security.readonly_rootfs,
        no_new_privileges: security.no_new_privileges,
        seccomp: security.seccomp,
        masked_paths: unmask.clone(),
        readonly_paths: unmask,
        tty,
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log_path: resolved.log_path,
        log_max_bytes: LOG_BYTES_MAX,
        log_max_files: LOG_FILES_MAX,
    })
}

fn limits(settings: &CgroupSettings, container: &Container) -> Resources {
    let request = resources::request(container.resources.as_ref(), "memory");
    Resources {
        cpu_shares: Some(settings.cpu_shares),
        cpu_quota_us: settings.cpu_quota_us,
        cpu_period_us: settings.cpu_period_us,
        memory_limit: settings.memory_limit,
        memory_request: (request > 0).then_some(request),
        pids_limit: None,
    }
}

/// The command line: the pod's command replaces the image's entrypoint and its arguments with it.
pub(crate) fn command(
    container: &Container,
    image: &ImageConfig,
    env: &[(String, String)],
) -> Result<Vec<String>, Failure> {
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let own = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let (command, args) = (own(&container.command), own(&container.args));
    let mut line = if command.is_empty() { image.entrypoint.clone() } else { command.clone() };
    if !args.is_empty() {
        line.extend(args);
    } else if command.is_empty() {
        line.extend(image.cmd.iter().cloned());
    }
    if line.is_empty() {
        return Err(Failure::new(
            "CreateContainerError",
            "failed to generate spec: no command specified",
        ));
    }
    Ok(line)
}

fn working_dir(container: &Container, image: &ImageConfig) -> String {
    let own = container.working_dir.as_deref().filter(|w| !w.is_empty());
    let chosen = own.unwrap_or(image.working_dir.as_str());
    if chosen.is_empty() { "/".to_owned() } else { chosen.to_owned() }
}

/// What every container has, over it the image's variables, then those of the pod.
pub(crate) fn environment(
    image: &ImageConfig,
    pods: &[(String, String)],
    home: Option<String>,
    hostname: &str,
    tty: bool,
) -> Vec<(String, String)> {
    let mut out = vec![
        ("PATH".to_owned(), PATH_DEFAULT.to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
        ("HOME".to_owned(), home.unwrap_or_else(|| "/".to_owned())),
    ];
    if tty {
        env::set(&mut out, "TERM".to_owned(), "xterm".to_owned());
    }
    for line in &image.env {
        if let Some((name, value)) = line.split_once('=') {
            env::set(&mut out, name.to_owned(), value.to_owned());
        }
    }
    for (name, value) in pods {
        env::set(&mut out, name.clone(), value.clone());
    }
    out
}

/// A plain bind mount of a file the agent made.
pub(crate) fn bind(source: PathBuf, destination: &str, readonly: bool) -> Mount {
    Mount {
        source,
        destination: PathBuf::from(destination),
        readonly,
        kind: MountKind::Bind,
        recursive: false,
        propagation: Propagation::Private,
    }
}

/// The pod's sandbox.
pub(crate) fn sandbox(pod: &Pod, hostname: String) -> SandboxSpec {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let settings = resources::pod_settings(spec);
    let sysctls = spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    SandboxSpec {
        hostname,
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
        cgroup: resources::qos(spec).cgroup(&uid),
        sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
        resources: Some(Resources {
            cpu_shares: Some(settings.cpu_shares),
            cpu_quota_us: settings.cpu_quota_us,
            cpu_period_us: settings.cpu_period_us,
            memory_limit: settings.memory_limit,
            ..Resources::default()
        }),
        labels: BTreeMap::from([
            (label::POD_UID.to_owned(), uid.clone()),
            (label::POD_NAME.to_owned(), text(&pod.metadata.name)),
            (label::POD_NAMESPACE.to_owned(), text(&pod.metadata.namespace)),
        ]),
        id: uid,
    }
}
