//! Pods and what pod templates share with them.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::Value;

use super::path::Path;
use super::{
    Errors, container, flag, integer, invalid, list, meta, not_negative, one_of, required_one_of,
    scheduling, text, volume,
};

pub(super) fn pod(pod: &Value, errors: &mut Errors) {
    spec(&Path::new("spec"), &pod["spec"], Home::Pod, errors);
}

/// Where a pod spec stands: templates may leave to their pods what pods must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Pod,
    Template,
}

pub(super) fn spec(path: &Path, spec: &Value, home: Home, errors: &mut Errors) {
    let volumes = volume::volumes(&path.child("volumes"), list(spec, "volumes"), errors);
    container::containers(path, spec, &volumes, home, errors);
    let policies = ["Always", "OnFailure", "Never"];
    required_one_of(&path.child("restartPolicy"), text(spec, "restartPolicy"), &policies, errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(&path.child("dnsPolicy"), text(spec, "dnsPolicy"), &policies, errors);
    dns(path, spec, errors);
    meta::labels(&path.child("nodeSelector"), spec.get("nodeSelector"), errors);
    security_context(&path.child("securityContext"), &spec["securityContext"], errors);
    scheduling::affinity(&path.child("affinity"), &spec["affinity"], errors);
    scheduling::tolerations(&path.child("tolerations"), list(spec, "tolerations"), errors);
    scheduling::gates(path, spec, errors);
    scheduling::spread(
        &path.child("topologySpreadConstraints"),
        list(spec, "topologySpreadConstraints"),
        errors,
    );
    scalar_fields(path, spec, errors);
    host_fields(path, spec, errors);
}

fn scalar_fields(path: &Path, spec: &Value, errors: &mut Errors) {
    type Check = fn(&str) -> Vec<String>;
    let checks: [(&str, Check); 6] = [
        ("serviceAccountName", names::dns1123_subdomain),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ];
    for (field, check) in checks {
        match text(spec, field) {
            "" => {}
            value => invalid(&path.child(field), value, check(value), errors),
        }
    }
    if let Some(seconds) = integer(spec, "activeDeadlineSeconds") {
        for problem in names::in_range(seconds, 1, i64::from(i32::MAX)) {
            errors.push(FieldError::invalid(
                path.child("activeDeadlineSeconds").to_string(),
                seconds,
                problem,
            ));
        }
    }
    not_negative(path, spec, "terminationGracePeriodSeconds", errors);
    if let Some(policy) = spec.get("preemptionPolicy").and_then(Value::as_str) {
        one_of(&path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"], errors);
    }
}

fn host_fields(path: &Path, spec: &Value, errors: &mut Errors) {
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let at = path.child("shareProcessNamespace").to_string();
        errors.push(FieldError::invalid(
            at,
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        ip(&path.child("ip"), text(alias, "ip"), errors);
        for (i, name) in list(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            invalid(
                &path.child("hostnames").index(i),
                name,
                names::dns1123_subdomain(name),
                errors,
            );
        }
    }
}

pub(super) fn ip(path: &Path, address: &str, errors: &mut Errors) {
    if address.parse::<std::net::IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path.to_string(), address, detail));
    }
}

/// Most servers and search domains of a pod's resolver.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

fn dns(path: &Path, spec: &Value, errors: &mut Errors) {
    let config = &spec["dnsConfig"];
    let servers = list(config, "nameservers");
    let path = path.child("dnsConfig");
    let own = text(spec, "dnsPolicy") == "None";
    if own && config.is_null() {
        errors.push(FieldError::required(
            path.to_string(),
            "must provide `dnsConfig` when `dnsPolicy` is None",
        ));
    } else if own && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(path.child("nameservers").to_string(), detail));
    }
    for (field, max, what) in [
        ("nameservers", NAMESERVERS_MAX, "nameservers"),
        ("searches", SEARCHES_MAX, "search paths"),
    ] {
        if list(config, field).len() > max {
            let detail = format!("must not have more than {max} {what}");
            errors.push(FieldError::invalid(
                path.child(field).to_string(),
                config[field].clone(),
                detail,
            ));
        }
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        ip(&path.child("nameservers").index(i), server, errors);
    }
    for (i, domain) in list(config, "searches").iter().filter_map(Value::as_str).enumerate() {
        let bare = domain.strip_suffix('.').unwrap_or(domain).replace('_', "x");
        if !bare.is_empty() {
            invalid(
                &path.child("searches").index(i),
                domain,
                names::dns1123_subdomain(&bare),
                errors,
            );
        }
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            let at = path.child("options").index(i);
            errors.push(FieldError::required(at.to_string(), "must not be empty"));
        }
    }
}

fn security_context(path: &Path, context: &Value, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        container::id_range(path, context, field, errors);
    }
    for (i, group) in
        list(context, "supplementalGroups").iter().filter_map(Value::as_i64).enumerate()
    {
        for problem in names::in_range(group, 0, i64::from(i32::MAX)) {
            let at = path.child("supplementalGroups").index(i).to_string();
            errors.push(FieldError::invalid(at, group, problem));
        }
    }
    container::seccomp(&path.child("seccompProfile"), &context["seccompProfile"], errors);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, sysctl) in list(context, "sysctls").iter().enumerate() {
        let (at, name) = (path.child("sysctls").index(i).child("name"), text(sysctl, "name"));
        if name.is_empty() {
            super::required(&at, errors);
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(at.to_string(), name));
        }
    }
    if let Some(policy) = context.get("fsGroupChangePolicy").and_then(Value::as_str) {
        one_of(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"], errors);
    }
}

/// Containers that have ended for good must stay ended.
pub(super) fn status_update(new: &Value, old: &Value, errors: &mut Errors) {
    let policy = text(&old["spec"], "restartPolicy");
    for (field, policy) in [("containerStatuses", policy), ("ephemeralContainerStatuses", "Never")]
    {
        for (i, before) in list(&old["status"], field).iter().enumerate() {
            let Some(code) = integer(&before["state"]["terminated"], "exitCode") else { continue };
            if !matches!((policy, code), ("Never", _) | ("OnFailure", 0)) {
                continue;
            }
            let mut after = list(&new["status"], field)
                .iter()
                .filter(|s| text(s, "name") == text(before, "name"));
            if after.any(|status| status["state"]["terminated"].is_null()) {
                let at = Path::new("status").child(field).index(i).child("state").to_string();
                errors.push(FieldError::forbidden(
                    at,
                    "may not be transitioned to non-terminated state",
                ));
            }
        }
    }
}
