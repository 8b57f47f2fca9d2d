//! What is known of a file between two applications, kept in the cluster: ConfigMap `addon.NAME` in `kube-system`.

use serde_json::{Value, json};

use crate::plan::Id;

pub(crate) const NAMESPACE: &str = "kube-system";
const LABEL: &str = "copepod.io/addon";

/// A file as it was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Path of the file.
    pub(crate) source: String,
    /// SHA-256 of the file when all of it was applied; empty before.
    pub(crate) checksum: String,
    pub(crate) objects: Vec<Id>,
}

/// Name of the ConfigMap.
pub(crate) fn name(addon: &str) -> String {
    format!("addon.{addon}")
}

impl Record {
    pub(crate) fn of_config_map(map: &Value) -> Record {
        let text = |key: &str| map["data"][key].as_str().unwrap_or_default();
        Record {
            source: text("source").to_owned(),
            checksum: text("checksum").to_owned(),
            objects: text("objects").lines().filter_map(|line| line.parse().ok()).collect(),
        }
    }

    pub(crate) fn config_map(&self, addon: &str) -> Value {
        let objects: String = self.objects.iter().map(|id| format!("{id}\n")).collect();
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name(addon), "namespace": NAMESPACE, "labels": { LABEL: addon },
            },
            "data": { "source": self.source, "checksum": self.checksum, "objects": objects },
        })
    }

    /// Objects that were applied and are not in the file any more.
    pub(crate) fn dropped(&self, given: &[Id]) -> Vec<Id> {
        self.objects.iter().filter(|id| !given.contains(id)).cloned().collect()
    }

    /// With objects added; none is forgotten.
    pub(crate) fn with(mut self, given: &[Id]) -> Record {
        self.objects.extend_from_slice(given);
        self.objects.sort();
        self.objects.dedup();
        self
    }
}
