//! What is recorded of a pod and of the node, and which changes of it are worth a write.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Pod, PodStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use crate::env::Objects;
use crate::restart;

/// The node as the API server had it last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// `spec.podCIDR`.
    #[serde(default)]
    pub(crate) pod_cidr: String,
}

/// A pod and all it was started from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) pod: Arc<Pod>,
    pub(crate) recorded: Recorded,
}

/// What a pod shows of other objects. `None` is an object that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    #[serde(default)]
    pub(crate) config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// Variables of the Services of its namespace.
    #[serde(default)]
    pub(crate) services: Vec<(String, String)>,
}

impl Recorded {
    /// Only names and data of the objects: nothing else of them is shown.
    pub(crate) fn new(objects: Objects, services: Vec<(String, String)>) -> Recorded {
        let config_map = |map: &Arc<ConfigMap>| {
            Arc::new(ConfigMap { metadata: bare(&map.metadata), ..ConfigMap::clone(map) })
        };
        let secret = |secret: &Arc<Secret>| {
            Arc::new(Secret { metadata: bare(&secret.metadata), ..Secret::clone(secret) })
        };
        let config_maps = objects.config_maps.iter();
        let secrets = objects.secrets.iter();
        Recorded {
            config_maps: config_maps
                .map(|(k, v)| (k.clone(), v.as_ref().map(config_map)))
                .collect(),
            secrets: secrets.map(|(k, v)| (k.clone(), v.as_ref().map(secret))).collect(),
            services,
        }
    }
}

impl PodRecord {
    /// The pod with the status the agent shows.
    pub(crate) fn new(pod: &Pod, status: &PodStatus, recorded: Recorded) -> PodRecord {
        let mut pod = pod.clone();
        pod.metadata.managed_fields = None;
        // Whatever the server says later is newer.
        pod.metadata.resource_version = None;
        pod.status = Some(status.clone());
        PodRecord { pod: Arc::new(pod), recorded }
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The record without what changes all the time and decides nothing, as bytes to compare.
    pub(super) fn essence(&self) -> serde_json::Result<Vec<u8>> {
        let mut pod = Pod::clone(&self.pod);
        let status = pod.status.take().unwrap_or_default();
        serde_json::to_vec(&(pod, Decisive::of(&self.pod, &status), &self.recorded))
    }
}

fn bare(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        ..ObjectMeta::default()
    }
}

/// Why a pod would be recorded anew: equal causes have equal records.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cause {
    pod: Arc<Pod>,
    decisive: Decisive,
    /// How often the objects of the pod have changed.
    objects: u64,
}

impl Cause {
    pub(crate) fn new(pod: &Arc<Pod>, status: &PodStatus, objects: u64) -> Cause {
        Cause { pod: Arc::clone(pod), decisive: Decisive::of(pod, status), objects }
    }

    /// Whether the record that `self` led to still holds.
    pub(crate) fn holds(&self, now: &Cause) -> bool {
        self.objects == now.objects && !self.presses(now) && {
            let (a, b) = (&self.pod, &now.pod);
            Arc::ptr_eq(a, b)
                || (a.spec == b.spec
                    && a.metadata.labels == b.metadata.labels
                    && a.metadata.annotations == b.metadata.annotations)
        }
    }

    /// Whether what has changed decides if the pod may be started at all.
    pub(crate) fn presses(&self, now: &Cause) -> bool {
        self.decisive != now.decisive
            || self.pod.metadata.deletion_timestamp != now.pod.metadata.deletion_timestamp
    }
}

/// The part of a status that decides what is started after a reboot.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Decisive {
    phase: Option<String>,
    start_time: Option<Time>,
    /// Containers that have ended for good, with their exit codes.
    ended: Vec<(String, i32)>,
}

impl Decisive {
    fn of(pod: &Pod, status: &PodStatus) -> Decisive {
        let init = status.init_container_statuses.iter().flatten();
        let all = init.chain(status.container_statuses.iter().flatten());
        Decisive {
            phase: status.phase.clone(),
            start_time: status.start_time.clone(),
            ended: all.filter_map(|s| for_good(pod, s)).collect(),
        }
    }
}

fn for_good(pod: &Pod, status: &ContainerStatus) -> Option<(String, i32)> {
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten().any(|c| c.name == status.name);
    let container = crate::resources::containers(spec).find(|c| c.name == status.name)?;
    let init = init && container.restart_policy.as_deref() != Some("Always");
    let again = restart::again(container, spec.restart_policy.as_deref(), init, code);
    (!again).then(|| (status.name.clone(), code))
}
