//! What a pod may not ask of this node: found out before anything of it is made, and final.

use k8s_openapi::api::core::v1::PodSpec;

use super::state::{Phase, PodState, Stage, Step};
use super::types::{Effect, EventNote};

/// Upstream's safe sysctls: they belong to a namespace of the pod's own and cannot harm others on the node.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

impl PodState {
    /// Fails a pod that nothing was done for yet and that may not run here.
    pub(super) fn admit(&mut self, out: &mut Vec<Effect>) {
        let fresh = self.stage == Stage::Active
            && self.settled.is_none()
            && self.volumes == Step::Absent
            && self.sandbox == Step::Absent
            && self.untouched();
        let refusal = self.pod.spec.as_ref().filter(|_| fresh).and_then(refusal);
        if let Some((reason, message)) = refusal {
            out.push(Effect::Event(EventNote::warning(reason, message.clone())));
            self.killed = Some((reason, format!("Pod was rejected: {message}")));
            self.stage = Stage::Ending;
        }
    }

    /// No container was begun.
    pub(crate) fn untouched(&self) -> bool {
        self.containers.iter().all(|c| c.phase == Phase::Idle && c.previous.is_none())
    }
}

fn refusal(spec: &PodSpec) -> Option<(&'static str, String)> {
    let sysctls = spec.security_context.as_ref()?.sysctls.as_ref()?;
    let why = sysctls.iter().find_map(|sysctl| {
        // Both spellings are known, with dots and with slashes.
        let name = sysctl.name.replace('/', ".");
        let host = match name.split('.').next() {
            Some("net") if spec.host_network == Some(true) => Some("net"),
            Some("kernel") if spec.host_ipc == Some(true) => Some("ipc"),
            _ => None,
        };
        match (SAFE_SYSCTLS.contains(&name.as_str()), host) {
            (true, Some(host)) => Some(format!("{name:?} not allowed with host {host} enabled")),
            (true, None) => None,
            (false, _) => Some(format!("{name:?} not allowlisted")),
        }
    })?;
    Some(("SysctlForbidden", format!("forbidden sysctl: {why}")))
}
