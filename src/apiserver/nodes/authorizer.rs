//! The node authorizer: rules for all nodes, and relations for what belongs to single pods.

use super::pods::{Kind, Pods};
use crate::ApiServer;
use crate::answer::Result;
use crate::authz::{Asked, Attributes};
use crate::rbac::{Rule, rules_of_role};
use std::sync::LazyLock;

/// Nodes are proxies of Services too.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let mut rules = rules_of_role("system:node");
    rules.extend(rules_of_role("system:node-proxier"));
    rules
});

const LEASES: &str = "kube-node-lease";

pub(crate) enum Opinion {
    Allowed,
    /// Others decide; why this one does not allow it.
    None(String),
}

fn none(reason: &str) -> Result<Opinion> {
    Ok(Opinion::None(reason.to_owned()))
}

pub(crate) async fn authorize(
    server: &ApiServer,
    node: &str,
    asked: &Asked<'_>,
) -> Result<Opinion> {
    let Asked::Resource(attributes) = asked else { return none("") };
    match (attributes.group, attributes.plural) {
        ("", "secrets") => read_object(server, node, Kind::Secret, attributes).await,
        ("", "configmaps") => read_object(server, node, Kind::ConfigMap, attributes).await,
        ("", "persistentvolumeclaims") => get(server, node, Kind::Claim, attributes).await,
        ("", "serviceaccounts") => match attributes.verb {
            "create" => create_token(server, node, attributes).await,
            _ => read_object(server, node, Kind::Account, attributes).await,
        },
        ("", "pods") => pods(server, node, attributes).await,
        ("coordination.k8s.io", "leases") => lease(node, attributes),
        // Volumes and attachments relate to nodes through claims, which are not served.
        ("", "persistentvolumes") | ("storage.k8s.io", "volumeattachments") => {
            none(&unrelated(node))
        }
        ("storage.k8s.io", "csinodes") if !["", node].contains(&attributes.name) => {
            none("can only access CSINode with the same name as the requesting node")
        }
        _ => match RULES.iter().any(|rule| rule.allows(asked)) {
            true => Ok(Opinion::Allowed),
            false => none(""),
        },
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

async fn related(
    server: &ApiServer,
    node: &str,
    kind: Kind,
    asked: &Attributes<'_>,
) -> Result<Opinion> {
    if asked.name.is_empty() {
        return none("No Object name found");
    }
    let names = |pods: &Pods| pods.related(node, kind, asked.namespace, asked.name);
    match server.pods.look(names).await? {
        true => Ok(Opinion::Allowed),
        false => Ok(Opinion::None(unrelated(node))),
    }
}

async fn read_object(
    server: &ApiServer,
    node: &str,
    kind: Kind,
    asked: &Attributes<'_>,
) -> Result<Opinion> {
    if !matches!(asked.verb, "get" | "list" | "watch") {
        return none("can only read resources of this type");
    }
    if !asked.subresource.is_empty() {
        return none("cannot read subresource");
    }
    if asked.namespace.is_empty() {
        return none("can only read namespaced object of this type");
    }
    related(server, node, kind, asked).await
}

async fn get(
    server: &ApiServer,
    node: &str,
    kind: Kind,
    asked: &Attributes<'_>,
) -> Result<Opinion> {
    if asked.verb != "get" {
        return none("can only get individual resources of this type");
    }
    if !asked.subresource.is_empty() {
        return none("cannot get subresource");
    }
    related(server, node, kind, asked).await
}

async fn create_token(server: &ApiServer, node: &str, asked: &Attributes<'_>) -> Result<Opinion> {
    if asked.name.is_empty() {
        return none("can only create tokens for individual service accounts");
    }
    if asked.subresource != "token" {
        return none("can only create token subresource of serviceaccount");
    }
    related(server, node, Kind::Account, asked).await
}

async fn pods(server: &ApiServer, node: &str, asked: &Attributes<'_>) -> Result<Opinion> {
    match (asked.subresource, asked.verb) {
        ("", "get") => own_pod(server, node, asked).await,
        ("", "list" | "watch") if asked.of_node == node => Ok(Opinion::Allowed),
        ("", "list" | "watch") if !asked.name.is_empty() => own_pod(server, node, asked).await,
        ("", "list" | "watch") => {
            none("can only list/watch pods with spec.nodeName field selector")
        }
        // The restriction holds these to the node's own pods.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
            Ok(Opinion::Allowed)
        }
        _ => none(""),
    }
}

/// A pod that does not exist is nobody's secret: the node is told so.
async fn own_pod(server: &ApiServer, node: &str, asked: &Attributes<'_>) -> Result<Opinion> {
    let home = |pods: &Pods| pods.node(asked.namespace, asked.name).map(|home| home == node);
    match server.pods.look(home).await? {
        Some(false) => Ok(Opinion::None(unrelated(node))),
        _ => Ok(Opinion::Allowed),
    }
}

fn lease(node: &str, asked: &Attributes<'_>) -> Result<Opinion> {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return none("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return none(&format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // The name is not known when creating; the restriction looks at it.
    if asked.verb != "create" && asked.name != node {
        return none("can only access node lease with the same name as the requesting node");
    }
    Ok(Opinion::Allowed)
}
