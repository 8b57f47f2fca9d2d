//! Events on pods and on their containers.

use client::{EventType, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::worker::EventNote;

pub(crate) fn record(recorder: &Recorder, pod: &Pod, note: EventNote) {
    let kind = if note.warning { EventType::Warning } else { EventType::Normal };
    let object = reference(pod, note.container.as_deref());
    recorder.event(&object, kind, note.reason, note.message);
}

fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let init = |name: &str| {
        pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == name)
    };
    let field = container.map(|name| {
        let list = if init(name) { "initContainers" } else { "containers" };
        format!("spec.{list}{{{name}}}")
    });
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: field,
    }
}
