//! Probes and lifecycle handlers.

use api::{FieldError, names};
use serde_json::Value;

use super::path::Path;
use super::{Errors, integer, list, not_negative, required, required_one_of, text};

/// `once`: a single success must do, as liveness and startup ask.
pub(super) fn probe(path: &Path, probe: &Value, once: bool, errors: &mut Errors) {
    handler(path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(path, probe, field, errors);
    }
    if let Some(seconds) = integer(probe, "terminationGracePeriodSeconds").filter(|s| *s <= 0) {
        let at = path.child("terminationGracePeriodSeconds").to_string();
        errors.push(FieldError::invalid(at, seconds, "must be greater than 0"));
    }
    if let Some(threshold) = integer(probe, "successThreshold").filter(|t| once && *t != 1) {
        errors.push(FieldError::invalid(
            path.child("successThreshold").to_string(),
            threshold,
            "must be 1",
        ));
    }
}

pub(super) fn lifecycle(path: &Path, lifecycle: &Value, errors: &mut Errors) {
    for field in ["postStart", "preStop"] {
        if let Some(inner) = lifecycle.get(field) {
            handler(&path.child(field), inner, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
}

fn handler(path: &Path, value: &Value, kinds: &[&str], errors: &mut Errors) {
    let mut found = kinds.iter().filter(|kind| value.get(**kind).is_some());
    let Some(first) = found.next() else {
        errors.push(FieldError::required(path.to_string(), "must specify a handler type"));
        return;
    };
    action(&path.child(first), &value[*first], first, errors);
    for other in found {
        errors.push(FieldError::forbidden(
            path.child(other).to_string(),
            "may not specify more than 1 handler type",
        ));
    }
}

fn action(path: &Path, value: &Value, kind: &str, errors: &mut Errors) {
    match kind {
        "exec" if list(value, "command").is_empty() => required(&path.child("command"), errors),
        "httpGet" => {
            if text(value, "path").is_empty() {
                required(&path.child("path"), errors);
            }
            port(&path.child("port"), value.get("port"), errors);
            required_one_of(
                &path.child("scheme"),
                text(value, "scheme"),
                &["HTTP", "HTTPS"],
                errors,
            );
        }
        "tcpSocket" | "grpc" => port(&path.child("port"), value.get("port"), errors),
        "sleep" => not_negative(path, value, "seconds", errors),
        _ => {}
    }
}

/// A port by number or by name.
pub(super) fn port(path: &Path, port: Option<&Value>, errors: &mut Errors) {
    let problems = match port {
        Some(Value::String(name)) => names::port_name(name),
        port => names::port_number(port.and_then(Value::as_i64).unwrap_or(0)),
    };
    let value = port.cloned().unwrap_or_else(|| Value::from(0));
    errors.extend(
        problems.into_iter().map(|p| FieldError::invalid(path.to_string(), value.clone(), p)),
    );
}
