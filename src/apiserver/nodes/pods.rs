//! Which pods are on which node, and which objects they name.

use crate::follow::View;
use crate::object;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use store::{Entry, Revision};

/// All keys of pods begin with it.
pub(crate) const RANGE: &str = "/registry/core/pods/";
/// Objects of one pod that are kept; a pod that names more does not get the others on its node.
const NAMES_MAX: usize = 1000;

const MIRROR: &[&str] = &["metadata", "annotations", "kubernetes.io/config.mirror"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Account,
}

/// The view of [`RANGE`].
#[derive(Default)]
pub(crate) struct Pods {
    /// By key: the node, "" for pods that have none yet.
    homes: HashMap<Arc<str>, Home>,
    /// By node and key.
    nodes: HashMap<Arc<str>, HashMap<Arc<str>, Named>>,
}

struct Home {
    node: Arc<str>,
    created: Revision,
}

type Named = Box<[(Kind, Box<str>)]>;

impl Pods {
    /// The node of a pod that exists; "" if it has none yet.
    pub(crate) fn node(&self, namespace: &str, name: &str) -> Option<&str> {
        let key = format!("{RANGE}{namespace}/{name}");
        self.homes.get(key.as_str()).map(|home| &*home.node)
    }

    /// Whether a pod on the node names the object.
    pub(crate) fn related(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let in_namespace = |key: &str| {
            key.strip_prefix(RANGE).and_then(|rest| rest.split_once('/')).map(|(ns, _)| ns)
                == Some(namespace)
        };
        let pods = self.nodes.get(node).into_iter().flatten();
        pods.filter(|(key, _)| in_namespace(key))
            .any(|(_, named)| named.iter().any(|(k, n)| *k == kind && **n == *name))
    }
}

impl View for Pods {
    fn put(&mut self, entry: &Entry) {
        // What a bound pod names does not change any more.
        let known = self.homes.get(&entry.key);
        if known.is_some_and(|home| home.created == entry.created && !home.node.is_empty()) {
            return;
        }
        self.delete(&entry.key);
        let pod = object::decode(&entry.value).unwrap_or_default();
        let node: Arc<str> = object::text(&pod, &["spec", "nodeName"]).into();
        if !node.is_empty() {
            self.nodes.entry(node.clone()).or_default().insert(entry.key.clone(), named(&pod));
        }
        self.homes.insert(entry.key.clone(), Home { node, created: entry.created });
    }

    fn delete(&mut self, key: &str) {
        let Some(home) = self.homes.remove(key) else { return };
        if let Some(pods) = self.nodes.get_mut(&home.node) {
            pods.remove(key);
            if pods.is_empty() {
                self.nodes.remove(&home.node);
            }
        }
    }
}

/// The objects that a pod names. Mirror pods name none: their node writes them itself.
pub(super) fn named(pod: &Value) -> Named {
    let mut out = Vec::new();
    if !object::text(pod, MIRROR).is_empty() {
        return out.into();
    }
    all_named(pod, &mut out);
    out.into()
}

/// The objects that any pod names, once each.
pub(super) fn all_named(pod: &Value, out: &mut Vec<(Kind, Box<str>)>) {
    let spec = &pod["spec"];
    let account = object::text(spec, &["serviceAccountName"]);
    if !account.is_empty() {
        out.push((Kind::Account, account.into()));
    }
    for secret in spec["imagePullSecrets"].as_array().into_iter().flatten() {
        push(Kind::Secret, object::text(secret, &["name"]), out);
    }
    for part in ["volumes", "initContainers", "containers", "ephemeralContainers"] {
        walk(&spec[part], out);
    }
}

/// References are objects under names of their own, wherever they stand.
fn walk(value: &Value, out: &mut Vec<(Kind, Box<str>)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let (kind, field) = match key.as_str() {
                    "secretKeyRef" | "secretRef" | "nodePublishSecretRef" => (Kind::Secret, "name"),
                    "secret" if inner.get("secretName").is_some() => (Kind::Secret, "secretName"),
                    "secret" => (Kind::Secret, "name"),
                    "configMapKeyRef" | "configMapRef" | "configMap" => (Kind::ConfigMap, "name"),
                    "persistentVolumeClaim" => (Kind::Claim, "claimName"),
                    "azureFile" => (Kind::Secret, "secretName"),
                    _ => {
                        walk(inner, out);
                        continue;
                    }
                };
                push(kind, object::text(inner, &[field]), out);
            }
        }
        Value::Array(items) => items.iter().for_each(|inner| walk(inner, out)),
        _ => {}
    }
}

fn push(kind: Kind, name: &str, out: &mut Vec<(Kind, Box<str>)>) {
    if !name.is_empty()
        && out.len() < NAMES_MAX
        && !out.iter().any(|(k, n)| *k == kind && **n == *name)
    {
        out.push((kind, name.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(name: &str, created: Revision, modified: Revision, pod: &Value) -> Entry {
        let key = format!("{RANGE}default/{name}");
        Entry { key: key.into(), value: pod.to_string().into(), created, modified }
    }

    fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {
            "nodeName": node, "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "unrelated", "secret": {"secretName": "volume"}},
                {"projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "ca"}}]}},
                {"persistentVolumeClaim": {"claimName": "disk"}},
            ],
            "containers": [{
                "name": "unrelated", "envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "map"}}],
                "env": [{"valueFrom": {"secretKeyRef": {"name": "key", "key": "x"}}}],
            }],
        }})
    }

    #[test]
    fn objects_of_bound_pods_are_related() {
        let mut pods = Pods::default();
        pods.put(&entry("p", 1, 1, &pod("")));
        assert!(!pods.related("n", Kind::Secret, "default", "volume"));
        assert_eq!(pods.node("default", "p"), Some(""));
        pods.put(&entry("p", 1, 2, &pod("n")));
        for name in ["pull", "volume", "projected", "from", "key"] {
            assert!(pods.related("n", Kind::Secret, "default", name), "{name}");
            assert!(!pods.related("n", Kind::ConfigMap, "default", name), "{name}");
            assert!(!pods.related("n", Kind::Secret, "other", name), "{name}");
            assert!(!pods.related("m", Kind::Secret, "default", name), "{name}");
        }
        assert!(pods.related("n", Kind::ConfigMap, "default", "ca"));
        assert!(pods.related("n", Kind::ConfigMap, "default", "map"));
        assert!(pods.related("n", Kind::Account, "default", "robot"));
        assert!(pods.related("n", Kind::Claim, "default", "disk"));
        assert!(!pods.related("n", Kind::Secret, "default", "unrelated"));
        pods.put(&entry("p", 3, 3, &pod("m")));
        assert!(!pods.related("n", Kind::Secret, "default", "pull"));
        assert!(pods.related("m", Kind::Secret, "default", "pull"));
        pods.delete("/registry/core/pods/default/p");
        assert!(pods.homes.is_empty() && pods.nodes.is_empty());
    }

    #[test]
    fn mirror_pods_name_nothing() {
        let mut mirror = pod("n");
        object::set(&mut mirror, MIRROR, "x");
        let mut pods = Pods::default();
        pods.put(&entry("p", 1, 1, &mirror));
        assert!(!pods.related("n", Kind::Secret, "default", "pull"));
        assert_eq!(pods.node("default", "p"), Some("n"));
    }
}
