//! securityContext: the container's settings over the pod's, as the runtime takes them.

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};
use runtime::protocol::{Capabilities, Seccomp, User};

use crate::worker::Failure;

/// The effective settings of one container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Security {
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_group: Option<i64>,
    pub(crate) non_root: bool,
    pub(crate) groups: Vec<i64>,
    pub(crate) strict_groups: bool,
    pub(crate) privileged: bool,
    pub(crate) readonly_rootfs: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) seccomp: Seccomp,
    /// `procMount: Unmasked`.
    pub(crate) unmasked: bool,
}

/// The user the container will have, the image's or the pod's, looked up inside the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageUser {
    /// The user as written in the image; empty is root.
    pub(crate) text: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The groups of the image that list the user.
    pub(crate) groups: Vec<u32>,
    /// The home directory, if the image knows the user.
    pub(crate) home: Option<String>,
}

pub(crate) fn effective(pod: &Pod, container: &Container) -> Result<Security, Failure> {
    let pods = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let mut groups = pods.supplemental_groups.clone().unwrap_or_default();
    groups.extend(pods.fs_group);
    Ok(Security {
        run_as_user: own.run_as_user.or(pods.run_as_user),
        run_as_group: own.run_as_group.or(pods.run_as_group),
        non_root: own.run_as_non_root.or(pods.run_as_non_root) == Some(true),
        groups,
        strict_groups: pods.supplemental_groups_policy.as_deref() == Some("Strict"),
        privileged,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privileges: no_new_privileges(&own, privileged),
        capabilities: capabilities(&own),
        seccomp: seccomp(&pods, &own, privileged)?,
        unmasked: privileged || own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

/// A privileged container, or one that may have SYS_ADMIN, always keeps the right to gain privileges.
fn no_new_privileges(own: &SecurityContext, privileged: bool) -> bool {
    let admin = own
        .capabilities
        .iter()
        .flat_map(|c| c.add.iter().flatten())
        .any(|c| c.contains("SYS_ADMIN"));
    own.allow_privilege_escalation == Some(false) && !privileged && !admin
}

fn capabilities(own: &SecurityContext) -> Capabilities {
    let lists = own.capabilities.clone().unwrap_or_default();
    Capabilities { add: lists.add.unwrap_or_default(), drop: lists.drop.unwrap_or_default() }
}

/// Kubernetes leaves containers unconfined unless a profile is asked for.
fn seccomp(
    pods: &PodSecurityContext,
    own: &SecurityContext,
    privileged: bool,
) -> Result<Seccomp, Failure> {
    let profile: Option<&SeccompProfile> =
        own.seccomp_profile.as_ref().or(pods.seccomp_profile.as_ref());
    match profile.map(|p| p.type_.as_str()) {
        _ if privileged => Ok(Seccomp::Unconfined),
        None | Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("RuntimeDefault") => Ok(Seccomp::Default),
        Some(other) => Err(Failure::new(
            "CreateContainerConfigError",
            format!("seccomp profile type {other:?} is not supported on this node"),
        )),
    }
}

/// The user a container runs as, after the check of `runAsNonRoot`. `display` is the pod as messages name it.
pub(crate) fn user(
    security: &Security,
    image: &ImageUser,
    container: &str,
    display: &str,
) -> Result<User, Failure> {
    if security.non_root {
        non_root(security, image, container, display)?;
    }
    let id = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let uid = security.run_as_user.map_or(image.uid, id);
    let gid = security.run_as_group.map_or(image.gid, id);
    // The image's primary group counts only where it is the effective one.
    let mut groups: Vec<u32> = security.groups.iter().copied().map(id).chain([gid]).collect();
    if !security.strict_groups {
        groups.extend(image.groups.iter().copied());
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, additional_gids: groups })
}

fn non_root(
    security: &Security,
    image: &ImageUser,
    container: &str,
    display: &str,
) -> Result<(), Failure> {
    let name = image.text.split(':').next().unwrap_or_default();
    let numeric = name.is_empty() || name.bytes().all(|b| b.is_ascii_digit());
    let problem = match security.run_as_user {
        Some(0) => "container's runAsUser breaks non-root policy".to_owned(),
        Some(_) => return Ok(()),
        None if !numeric => format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        ),
        None if image.uid == 0 => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        None => return Ok(()),
    };
    let message = format!("{problem} (pod: {display:?}, container: {container})");
    Err(Failure::new("CreateContainerConfigError", message))
}
