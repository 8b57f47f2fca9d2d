//! From requests and limits to QoS class, cgroup settings and the out-of-memory score.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
const PERIOD_US: u64 = 100_000;
const QUOTA_MIN_US: i64 = 1_000;
const OOM_GUARANTEED: i32 = -997;
const OOM_BEST_EFFORT: i32 = 1_000;
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The quality-of-service class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }

    /// The pod's cgroup, relative to the runtime's root.
    pub(crate) fn cgroup(self, uid: &str) -> String {
        match self {
            Qos::Guaranteed => format!("kubepods/pod{uid}"),
            Qos::Burstable => format!("kubepods/burstable/pod{uid}"),
            Qos::BestEffort => format!("kubepods/besteffort/pod{uid}"),
        }
    }
}

/// All containers of a pod that count for its resources: init containers first.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(spec.containers.iter())
}

pub(crate) fn qos(spec: &PodSpec) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    for container in containers(spec) {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let request = request(resources, name);
            let limit = limit(resources, name);
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// A parsed amount: millicores for `cpu`, whole units for everything else; 0 where absent or unreadable.
pub(crate) fn amount(map: Option<&BTreeMap<String, Quantity>>, name: &str) -> i64 {
    let Some(quantity) = map.and_then(|m| m.get(name)) else { return 0 };
    match Amount::parse(&quantity.0) {
        Ok(amount) if name == "cpu" => amount.milli_value(),
        Ok(amount) => amount.value(),
        Err(_) => 0,
    }
}

pub(crate) fn limit(resources: Option<&ResourceRequirements>, name: &str) -> i64 {
    amount(resources.and_then(|r| r.limits.as_ref()), name)
}

/// The request; a limit alone counts as its own request, as the API server defaults it.
pub(crate) fn request(resources: Option<&ResourceRequirements>, name: &str) -> i64 {
    let requests = resources.and_then(|r| r.requests.as_ref());
    match requests.and_then(|m| m.get(name)) {
        Some(_) => amount(requests, name),
        None => limit(resources, name),
    }
}

/// cgroup settings of a container or a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CgroupSettings {
    pub(crate) cpu_shares: u64,
    pub(crate) cpu_quota_us: Option<i64>,
    pub(crate) cpu_period_us: Option<u64>,
    pub(crate) memory_limit: Option<i64>,
}

pub(crate) fn container_settings(container: &Container) -> CgroupSettings {
    let resources = container.resources.as_ref();
    settings(request(resources, "cpu"), limit(resources, "cpu"), limit(resources, "memory"))
}

/// The pod's own settings: sums over its containers; a limit only where every container has one.
pub(crate) fn pod_settings(spec: &PodSpec) -> CgroupSettings {
    let sum =
        |of: fn(Option<&ResourceRequirements>, &str) -> i64, name: &str| pod_amount(spec, name, of);
    let limited = |name: &str| containers(spec).all(|c| limit(c.resources.as_ref(), name) > 0);
    let cpu_limit = if limited("cpu") { sum(limit, "cpu") } else { 0 };
    let memory_limit = if limited("memory") { sum(limit, "memory") } else { 0 };
    settings(sum(request, "cpu"), cpu_limit, memory_limit)
}

/// max(sum of the containers and sidecars, the largest init container), as the scheduler counts.
fn pod_amount(
    spec: &PodSpec,
    name: &str,
    of: fn(Option<&ResourceRequirements>, &str) -> i64,
) -> i64 {
    let main: i64 = spec.containers.iter().map(|c| of(c.resources.as_ref(), name)).sum();
    let mut sidecars = 0;
    let mut init_peak = 0;
    for container in spec.init_containers.iter().flatten() {
        let value = of(container.resources.as_ref(), name);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += value;
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + value);
        }
    }
    (main + sidecars).max(init_peak)
}

fn settings(cpu_request: i64, cpu_limit: i64, memory_limit: i64) -> CgroupSettings {
    CgroupSettings {
        cpu_shares: shares(cpu_request),
        cpu_quota_us: (cpu_limit > 0).then(|| quota_us(cpu_limit)),
        cpu_period_us: (cpu_limit > 0).then_some(PERIOD_US),
        memory_limit: (memory_limit > 0).then_some(memory_limit),
    }
}

pub(crate) fn shares(milli_cpu: i64) -> u64 {
    let milli = u64::try_from(milli_cpu).unwrap_or(0);
    (milli.saturating_mul(1024) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

pub(crate) fn quota_us(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(100_000) / 1000).max(QUOTA_MIN_US)
}

/// Whether the cluster cannot do without the pod: it is killed and stopped last.
pub(crate) fn is_critical(spec: &PodSpec) -> bool {
    spec.priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

/// How eagerly the kernel should kill the container when memory runs out.
pub(crate) fn oom_score_adj(spec: &PodSpec, container: &Container, memory_capacity: i64) -> i32 {
    if is_critical(spec) {
        return OOM_GUARANTEED;
    }
    match qos(spec) {
        Qos::Guaranteed => OOM_GUARANTEED,
        Qos::BestEffort => OOM_BEST_EFFORT,
        Qos::Burstable => {
            let requested = i128::from(request(container.resources.as_ref(), "memory"));
            let share = 1000 * requested / i128::from(memory_capacity.max(1));
            let score = i32::try_from(1000 - share).unwrap_or(0);
            score.clamp(1000 + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
        }
    }
}
