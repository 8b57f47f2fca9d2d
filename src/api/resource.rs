//! The resource table: one row per served kind. Routes, discovery, OpenAPI, printing and storage read it;
//! a kind without behaviour of its own is added by adding a row.

use crate::status::qualified;

/// Where the objects of a kind are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk before the write is acknowledged.
    Durable,
    /// Lost with the process: heartbeats and events.
    Memory,
}

/// Which behaviour a kind adds to the generic path of every verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing beyond the generic path.
    Plain,
    Namespace,
    Node,
    Pod,
    Service,
    /// `metadata.generation` follows `spec`; `status` is a subresource.
    Workload,
    /// Expires by itself.
    Event,
    ServiceAccount,
    /// Nobody grants what he does not hold.
    Rbac,
    /// Answered, never stored (reviews).
    Virtual,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// "" for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub subresources: &'static [Subresource],
    pub verbs: &'static [&'static str],
    pub strategy: Strategy,
    pub durability: Durability,
    /// Selectable fields beyond `metadata.name` and `metadata.namespace`.
    pub fields: &'static [&'static str],
    /// The group whose key range holds the objects: the two Event kinds share one.
    pub storage_group: &'static str,
}

/// A path below an object: its name, what it speaks and which verbs it knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of its body.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pods`, or `deployments.apps`.
    pub fn qualified(&self) -> String {
        qualified(self.group, self.plural)
    }

    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// `/registry/core/pods/`: all keys of the kind begin with it.
    pub fn key_prefix(&self) -> String {
        let group = if self.storage_group.is_empty() { "core" } else { self.storage_group };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// The key of one object; `namespace` is ignored for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("{}{namespace}/{name}", self.key_prefix()),
            false => format!("{}{name}", self.key_prefix()),
        }
    }
}

/// By the plural of the path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// The group and version of an `apiVersion`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The served (group, version) pairs, each once, the core group first.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for resource in RESOURCES {
        let pair = (resource.group, resource.version);
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs
}

const ALL: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces know no deletion of collections.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", group, version, kind, verbs: STATUS_VERBS }
}

const fn sub(
    name: &'static str,
    of: (&'static str, &'static str, &'static str),
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, group: of.0, version: of.1, kind: of.2, verbs }
}

const SCALE: Subresource = sub("scale", ("autoscaling", "v1", "Scale"), STATUS_VERBS);

/// What most rows have in common.
const BASE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    verbs: ALL,
    strategy: Strategy::Plain,
    durability: Durability::Durable,
    fields: &[],
    storage_group: "",
};

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const EVENTS_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

const APPS_FIELDS: &[&str] = &["status.replicas"];

const fn virtual_review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Resource {
    Resource {
        group,
        kind,
        plural,
        singular,
        namespaced: false,
        verbs: CREATE,
        strategy: Strategy::Virtual,
        durability: Durability::Memory,
        storage_group: group,
        ..BASE
    }
}

const fn rbac(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> Resource {
    Resource {
        group: RBAC_GROUP,
        kind,
        plural,
        singular,
        namespaced,
        strategy: Strategy::Rbac,
        storage_group: RBAC_GROUP,
        ..BASE
    }
}

pub static RESOURCES: &[Resource] = &[
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        subresources: &[
            status("", "v1", "Namespace"),
            sub("finalize", ("", "v1", "Namespace"), &["update"]),
        ],
        verbs: NO_COLLECTION,
        strategy: Strategy::Namespace,
        fields: &["status.phase"],
        ..BASE
    },
    Resource {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        subresources: &[
            status("", "v1", "Node"),
            sub("proxy", ("", "v1", "NodeProxyOptions"), PROXY_VERBS),
        ],
        strategy: Strategy::Node,
        fields: &["spec.unschedulable"],
        ..BASE
    },
    Resource {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            status("", "v1", "Pod"),
            sub("log", ("", "v1", "Pod"), &["get"]),
            sub("exec", ("", "v1", "PodExecOptions"), &["create", "get"]),
            sub("attach", ("", "v1", "PodAttachOptions"), &["create", "get"]),
            sub("portforward", ("", "v1", "PodPortForwardOptions"), &["create", "get"]),
            sub("proxy", ("", "v1", "PodProxyOptions"), PROXY_VERBS),
            sub("binding", ("", "v1", "Binding"), CREATE),
            sub("eviction", ("policy", "v1", "Eviction"), CREATE),
        ],
        strategy: Strategy::Pod,
        fields: POD_FIELDS,
        ..BASE
    },
    Resource {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        ..BASE
    },
    Resource { kind: "Secret", plural: "secrets", singular: "secret", fields: &["type"], ..BASE },
    Resource {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[sub("token", ("authentication.k8s.io", "v1", "TokenRequest"), CREATE)],
        strategy: Strategy::ServiceAccount,
        ..BASE
    },
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[
            status("", "v1", "Service"),
            sub("proxy", ("", "v1", "ServiceProxyOptions"), PROXY_VERBS),
        ],
        strategy: Strategy::Service,
        fields: &["spec.clusterIP", "spec.type"],
        ..BASE
    },
    Resource {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        ..BASE
    },
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        strategy: Strategy::Event,
        durability: Durability::Memory,
        fields: EVENT_FIELDS,
        ..BASE
    },
    Resource {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[status("apps", "v1", "Deployment"), SCALE],
        strategy: Strategy::Workload,
        storage_group: "apps",
        ..BASE
    },
    Resource {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[status("apps", "v1", "ReplicaSet"), SCALE],
        strategy: Strategy::Workload,
        fields: APPS_FIELDS,
        storage_group: "apps",
        ..BASE
    },
    Resource {
        group: "apps",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[status("apps", "v1", "DaemonSet")],
        strategy: Strategy::Workload,
        storage_group: "apps",
        ..BASE
    },
    Resource {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        storage_group: "apps",
        ..BASE
    },
    Resource {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        durability: Durability::Memory,
        storage_group: "coordination.k8s.io",
        ..BASE
    },
    Resource {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        storage_group: "discovery.k8s.io",
        ..BASE
    },
    Resource {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        strategy: Strategy::Event,
        durability: Durability::Memory,
        fields: EVENTS_FIELDS,
        storage_group: "",
        ..BASE
    },
    virtual_review("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview"),
    virtual_review(
        "authentication.k8s.io",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
    ),
    virtual_review(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
    ),
    Resource {
        namespaced: true,
        ..virtual_review(
            "authorization.k8s.io",
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
        )
    },
    virtual_review(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
    ),
    virtual_review(
        "authorization.k8s.io",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
    ),
    rbac("Role", "roles", "role", true),
    rbac("RoleBinding", "rolebindings", "rolebinding", true),
    rbac("ClusterRole", "clusterroles", "clusterrole", false),
    rbac("ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", false),
];
