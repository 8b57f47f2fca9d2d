//! `/configz`: the settings of this kubelet under the names upstream gives them, as far as they mean something here.

use http::StatusCode;
use serde_json::json;

use super::{Answer, respond};
use crate::context::Context;

pub(super) fn answer(ctx: &Context) -> Answer {
    let config = &ctx.config;
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let body = json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "port": config.kubelet_port,
        "registerNode": true,
        "clusterDNS": dns,
        "clusterDomain": config.cluster_domain,
        "resolvConf": config.host_resolv_conf,
        "maxPods": config.max_pods,
        "nodeLeaseDurationSeconds": crate::node::LEASE_SECONDS,
        "serializeImagePulls": false,
        "maxParallelImagePulls": crate::context::PULLS_MAX,
        "cgroupDriver": "cgroupfs",
    }});
    Ok(respond(StatusCode::OK, "application/json", body.to_string()))
}
