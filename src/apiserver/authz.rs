//! Who may do what: one static table. A request passes if one rule of the user or of one of its groups covers it.

use crate::User;
use crate::request::Target;
use crate::strategies::node_of;
use api::Status;
use serde_json::{Value, json};

/// Whom a rule is for.
enum Subject {
    User(&'static str),
    Group(&'static str),
}

/// Verbs on resources; `*` covers all. A resource is `plural` or `plural/subresource`; `*` covers subresources too.
struct Rule {
    subject: Subject,
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
}

const ALL: &[&str] = &["*"];
const READ: &[&str] = &["get", "list", "watch"];
const CREATE: &[&str] = &["create"];
const WRITE: &[&str] = &["create", "update", "patch"];
const CHANGE: &[&str] = &["update", "patch"];
const EVENTS: &[&str] = &["", "events.k8s.io"];

const fn user(
    name: &'static str,
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { subject: Subject::User(name), verbs, groups, resources }
}

const fn group(
    name: &'static str,
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { subject: Subject::Group(name), verbs, groups, resources }
}

const SCHEDULER: &str = "system:kube-scheduler";
const NODES: &str = "system:nodes";

static RULES: &[Rule] = &[
    group("system:masters", ALL, ALL, ALL),
    // Namespace deletion and garbage collection reach every kind; what runs in pods they do not need (see STREAMS).
    user("system:kube-controller-manager", ALL, ALL, ALL),
    user(
        SCHEDULER,
        READ,
        &["", "apps"],
        &["pods", "nodes", "namespaces", "services", "replicasets"],
    ),
    user(SCHEDULER, CREATE, &[""], &["pods/binding", "bindings"]),
    user(SCHEDULER, CHANGE, &[""], &["pods/status"]),
    user(SCHEDULER, &["delete"], &[""], &["pods"]),
    user(SCHEDULER, WRITE, EVENTS, &["events"]),
    user(
        SCHEDULER,
        &["get", "list", "watch", "create", "update", "patch"],
        &["coordination.k8s.io"],
        &["leases"],
    ),
    group(
        NODES,
        READ,
        &["", "discovery.k8s.io"],
        &[
            "nodes",
            "pods",
            "services",
            "endpoints",
            "endpointslices",
            "configmaps",
            "secrets",
            "serviceaccounts",
            "namespaces",
        ],
    ),
    group(NODES, &["create", "delete", "update", "patch"], &[""], &["nodes", "pods"]),
    group(NODES, CHANGE, &[""], &["nodes/status", "pods/status"]),
    group(NODES, CREATE, &[""], &["serviceaccounts/token", "pods/eviction"]),
    group(NODES, WRITE, EVENTS, &["events"]),
    group(
        NODES,
        &["get", "create", "update", "patch", "delete"],
        &["coordination.k8s.io"],
        &["leases"],
    ),
    group(NODES, CREATE, &["authentication.k8s.io"], &["tokenreviews"]),
    group(NODES, CREATE, &["authorization.k8s.io"], &["subjectaccessreviews"]),
    group("system:authenticated", CREATE, &["authentication.k8s.io"], &["selfsubjectreviews"]),
    group(
        "system:authenticated",
        CREATE,
        &["authorization.k8s.io"],
        &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    ),
];

/// Paths without a resource: the group they are open to. A trailing `*` covers everything below.
static PATHS: &[(&str, &[&str])] = &[
    ("system:masters", &["*"]),
    (
        "system:authenticated",
        &["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/"],
    ),
    ("system:authenticated", PUBLIC),
    ("system:unauthenticated", PUBLIC),
];

/// What even a client without credentials may ask.
pub(crate) const PUBLIC: &[&str] =
    &["/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*", "/version"];

/// Ways into running containers: only for `system:masters`.
const STREAMS: &[&str] = &["exec", "attach", "portforward", "log"];

/// What a decision is about; also built from access reviews.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub plural: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> From<&'a Target> for Attributes<'a> {
    fn from(target: &'a Target) -> Self {
        Self {
            verb: target.verb,
            group: &target.group,
            plural: &target.plural,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: &target.name,
        }
    }
}

/// Whether the table lets the user do it. A node is further held to its own Node and Lease by name.
pub(crate) fn allows(user: &User, asked: Attributes<'_>) -> bool {
    if STREAMS.contains(&asked.subresource) && !user.groups.iter().any(|g| g == "system:masters") {
        return false;
    }
    let covered = RULES.iter().any(|rule| rule.is_for(user) && rule.covers(asked));
    covered && node_of(user).is_none_or(|node| own_or_shared(user, node, asked))
}

/// Whether the user may see what there is, and so be told that something is not.
pub(crate) fn may_look_around(user: &User) -> bool {
    user.groups.iter().any(|g| g == "system:masters")
}

pub(crate) fn allows_path(user: &User, path: &str) -> bool {
    PATHS.iter().any(|(group, patterns)| {
        user.groups.iter().any(|g| g == group) && patterns.iter().any(|p| matches(p, path))
    })
}

/// The rules for a user, as a rules review tells them.
pub(crate) fn rules_of(user: &User) -> Value {
    let mine: Vec<&Rule> = RULES.iter().filter(|rule| rule.is_for(user)).collect();
    let resources: Vec<Value> = mine
        .iter()
        .map(|r| json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources}))
        .collect();
    let paths: Vec<Value> = PATHS
        .iter()
        .filter(|(group, _)| user.groups.iter().any(|g| g == group))
        .map(|(_, patterns)| json!({"verbs": ALL, "nonResourceURLs": patterns}))
        .collect();
    // Nodes are held to what is theirs, and no rule but that of administrators reaches into containers.
    let limited = !may_look_around(user)
        && (node_of(user).is_some() || mine.iter().any(|rule| rule.resources == ALL));
    let mut status =
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": limited});
    if limited {
        status["evaluationError"] = "some rules are narrowed by the object they are about".into();
    }
    status
}

/// Whether `path` is what `pattern` says, or below it if it ends with `*`.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// The refusal, worded as upstream does.
pub(crate) fn forbidden(user: &User, asked: Attributes<'_>) -> Status {
    let resource = match asked.subresource {
        "" => asked.plural.to_owned(),
        sub => format!("{}/{sub}", asked.plural),
    };
    let scope = match asked.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let Attributes { verb, group, name, .. } = asked;
    let qualified = api::status::qualified(group, asked.plural);
    let object = if name.is_empty() { String::new() } else { format!(" {name:?}") };
    let message = format!(
        "{qualified}{object} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}",
        user.name
    );
    let mut status = Status::failure(403, "Forbidden", message);
    status.details = Some(api::StatusDetails {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: asked.plural.to_owned(),
        ..Default::default()
    });
    status
}

pub(crate) fn forbidden_path(user: &User, verb: &str, path: &str) -> Status {
    Status::forbidden_path(&format!("User {:?} cannot {verb} path {path:?}", user.name))
}

impl Rule {
    fn is_for(&self, user: &User) -> bool {
        match self.subject {
            Subject::User(name) => user.name == name,
            Subject::Group(name) => user.groups.iter().any(|g| g == name),
        }
    }

    fn covers(&self, asked: Attributes<'_>) -> bool {
        let any =
            |list: &[&str], wanted: &str| list.iter().any(|item| *item == "*" || *item == wanted);
        let resource = |item: &&str| match item.split_once('/') {
            _ if **item == *"*" => true,
            Some((plural, sub)) => plural == asked.plural && sub == asked.subresource,
            None => *item == asked.plural && asked.subresource.is_empty(),
        };
        any(self.verbs, asked.verb)
            && any(self.groups, asked.group)
            && self.resources.iter().any(resource)
    }
}

/// A node's writes by name go to its own Node and its own Lease; the rest is held to its pods in the strategies.
fn own_or_shared(user: &User, node: &str, asked: Attributes<'_>) -> bool {
    let named_other = !asked.name.is_empty() && asked.name != node;
    let reads = READ.contains(&asked.verb);
    let masters = user.groups.iter().any(|g| g == "system:masters");
    match asked.plural {
        _ if masters => true,
        "nodes" => reads || !named_other,
        "leases" => asked.namespace == "kube-node-lease" && !named_other,
        _ => true,
    }
}
