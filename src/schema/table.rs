//! Objects as the rows of a `meta.k8s.io/v1` Table, with upstream's columns and texts: what `kubectl get` prints.

mod age;
mod cluster;
mod network;
mod pod;
mod rbac;
mod workload;

use api::Resource;
use jiff::Timestamp;
use serde_json::{Value, json};

/// What each row carries of its object beside the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// The list's own metadata (revision, continue token) is the caller's to set.
pub fn table(res: &Resource, objects: &[&Value], include: IncludeObject, now: Timestamp) -> Value {
    let printer = PRINTERS.iter().find(|p| p.kind == res.kind).unwrap_or(&PLAIN);
    let columns: Vec<Value> = printer.columns.iter().map(definition).collect();
    let rows: Vec<Value> =
        objects.iter().map(|object| row(res, printer, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn row(
    res: &Resource,
    printer: &Printer,
    object: &Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let cells = match res.group {
        "events.k8s.io" => {
            let mut core = object.clone();
            crate::event_to_core(&mut core);
            (printer.cells)(&core, now)
        }
        _ => (printer.cells)(object, now),
    };
    let mut row = json!({ "cells": cells });
    if res.kind == "Pod"
        && let Some(conditions) = pod::row_conditions(object)
    {
        row["conditions"] = conditions;
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            });
        }
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
}

/// Name, type and priority; columns of priority 1 are shown with `-o wide`.
type Column = (&'static str, &'static str, u8);

struct Printer {
    kind: &'static str,
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

fn definition((name, kind, priority): &Column) -> Value {
    let format = if *name == "Name" { "name" } else { "" };
    json!({ "name": name, "type": kind, "format": format, "description": "", "priority": priority })
}

const NAME: Column = ("Name", "string", 0);
const AGE: Column = ("Age", "string", 0);

const PLAIN: Printer = Printer {
    kind: "",
    columns: &[NAME, ("Created At", "date", 0)],
    cells: |object, _| vec![cell(name(object)), object["metadata"]["creationTimestamp"].clone()],
};

const PRINTERS: &[Printer] = &[
    Printer {
        kind: "Pod",
        columns: &[
            NAME,
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            AGE,
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        cells: pod::pod,
    },
    Printer {
        kind: "Deployment",
        columns: &[
            NAME,
            ("Ready", "string", 0),
            ("Up-to-date", "string", 0),
            ("Available", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: workload::deployment,
    },
    Printer {
        kind: "ReplicaSet",
        columns: &[
            NAME,
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: workload::replica_set,
    },
    Printer {
        kind: "Node",
        columns: &[
            NAME,
            ("Status", "string", 0),
            ("Roles", "string", 0),
            AGE,
            ("Version", "string", 0),
            ("Internal-IP", "string", 1),
            ("External-IP", "string", 1),
            ("OS-Image", "string", 1),
            ("Kernel-Version", "string", 1),
            ("Container-Runtime", "string", 1),
        ],
        cells: cluster::node,
    },
    Printer {
        kind: "Service",
        columns: &[
            NAME,
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            AGE,
            ("Selector", "string", 1),
        ],
        cells: network::service,
    },
    Printer {
        kind: "Event",
        columns: &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Subobject", "string", 1),
            ("Source", "string", 1),
            ("Message", "string", 0),
            ("First Seen", "string", 1),
            ("Count", "string", 1),
            ("Name", "string", 1),
        ],
        cells: cluster::event,
    },
    Printer {
        kind: "Endpoints",
        columns: &[NAME, ("Endpoints", "string", 0), AGE],
        cells: network::endpoints,
    },
    Printer {
        kind: "EndpointSlice",
        columns: &[
            NAME,
            ("AddressType", "string", 0),
            ("Ports", "string", 0),
            ("Endpoints", "string", 0),
            AGE,
        ],
        cells: network::endpoint_slice,
    },
    Printer {
        kind: "Namespace",
        columns: &[NAME, ("Status", "string", 0), AGE],
        cells: cluster::namespace,
    },
    Printer {
        kind: "Secret",
        columns: &[NAME, ("Type", "string", 0), ("Data", "string", 0), AGE],
        cells: cluster::secret,
    },
    Printer {
        kind: "ConfigMap",
        columns: &[NAME, ("Data", "string", 0), AGE],
        cells: cluster::config_map,
    },
    Printer {
        kind: "ServiceAccount",
        columns: &[NAME, ("Secrets", "string", 0), AGE],
        cells: cluster::service_account,
    },
    Printer {
        kind: "DaemonSet",
        columns: &[
            NAME,
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            ("Up-to-date", "integer", 0),
            ("Available", "integer", 0),
            ("Node Selector", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: workload::daemon_set,
    },
    Printer {
        kind: "ControllerRevision",
        columns: &[NAME, ("Controller", "string", 0), ("Revision", "string", 0), AGE],
        cells: workload::controller_revision,
    },
    Printer { kind: "Role", columns: rbac::ROLE, cells: rbac::role },
    Printer { kind: "ClusterRole", columns: rbac::ROLE, cells: rbac::role },
    Printer { kind: "RoleBinding", columns: rbac::BINDING, cells: rbac::binding },
    Printer { kind: "ClusterRoleBinding", columns: rbac::BINDING, cells: rbac::binding },
    Printer {
        kind: "Lease",
        columns: &[NAME, ("Holder", "string", 0), AGE],
        cells: cluster::lease,
    },
];

fn cell(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

fn name(object: &Value) -> &str {
    text(&object["metadata"], "name")
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn integer(value: &Value, field: &str) -> i64 {
    value.get(field).and_then(Value::as_i64).unwrap_or_default()
}

fn size(value: &Value, field: &str) -> usize {
    value.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

/// The text, or what stands for an empty one.
fn or<'a>(text: &'a str, empty: &'a str) -> &'a str {
    if text.is_empty() { empty } else { text }
}

/// `a=b,c=d`
fn pairs(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or(&pairs.join(","), "<none>").to_owned()
}
