//! Golden cases of placement: `cases/<name>.yaml` holds pod, nodes and pods, then `---`, then the answer.
//! `UPDATE=1` rewrites the second half. The queue is tested beside them.

mod queue;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::key_of;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use serde::Deserialize;

use crate::interpod;
use crate::place::{Unschedulable, place};
use crate::snapshot::{PodFacts, Snapshot};

const DIVIDER: &str = "\n---\n";

#[derive(Deserialize)]
struct Case {
    pod: Pod,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    pods: Vec<Pod>,
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

fn answer(case: Case) -> String {
    let mut snapshot = Snapshot::default();
    for node in case.nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        snapshot.set_node(&name, Some(Arc::new(node)));
    }
    for pod in case.pods {
        snapshot.set_pod(&key_of(&pod), Some(Arc::new(pod)));
    }
    let namespaces = interpod::namespaces(case.namespaces.iter());
    match place(&PodFacts::new(Arc::new(case.pod)), &snapshot, &namespaces) {
        Ok(node) => format!("bind {node}\n"),
        Err(Unschedulable { message }) => format!("{message}\n"),
    }
}

#[test]
fn placement() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("case folder")
        .map(|entry| entry.expect("case file").path())
        .collect();
    files.sort();
    let mut failures = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("case file");
        let (input, expected) = text.split_once(DIVIDER).unwrap_or((text.trim_end(), ""));
        let case: Case =
            serde_saphyr::from_str(input).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let actual = answer(case);
        if actual == expected {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, format!("{input}{DIVIDER}{actual}")).expect("write case");
        } else {
            failures
                .push(format!("{}\n--- expected\n{expected}--- actual\n{actual}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Whatever comes in whatever order, what is counted on nodes is the sum of the pods there.
#[test]
fn a_snapshot_counts_every_pod_once() {
    let pod = |name: &str, node: &str, cpu: &str| -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            }))
            .expect("pod"),
        )
    };
    let mut snapshot = Snapshot::default();
    let key = |name: &str| ("default".to_owned(), name.to_owned());
    snapshot.set_node("n", Some(Arc::new(Node::default())));
    snapshot.set_pod(&key("a"), Some(pod("a", "n", "100m")));
    snapshot.assume(PodFacts::new(pod("b", "", "200m")), "n");
    snapshot.set_pod(&key("b"), Some(pod("b", "", "200m")));
    assert_eq!(
        cpu(&snapshot),
        300,
        "an assumed pod stays although it is still seen without a node"
    );
    snapshot.set_pod(&key("b"), Some(pod("b", "n", "200m")));
    snapshot.set_pod(&key("b"), Some(pod("b", "n", "250m")));
    assert_eq!(cpu(&snapshot), 350);
    snapshot.forget(&key("b"));
    assert_eq!(cpu(&snapshot), 350, "a confirmed pod is not forgotten");
    snapshot.assume(PodFacts::new(pod("c", "", "50m")), "n");
    snapshot.forget(&key("c"));
    snapshot.drop_pod(&key("a"));
    snapshot.drop_pod(&key("a"));
    assert_eq!(cpu(&snapshot), 250);
    snapshot.set_node("n", None);
    snapshot.drop_pod(&key("b"));
    assert!(snapshot.node_names().is_empty());
}

fn cpu(snapshot: &Snapshot) -> i64 {
    snapshot.nodes().map(|(_, _, state)| state.requested.get("cpu").copied().unwrap_or(0)).sum()
}
