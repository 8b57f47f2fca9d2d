//! Discovery documents, read off the resource table.

use api::resource::{Subresource, group_versions};
use api::{RESOURCES, Resource};
use http::HeaderValue;
use serde_json::{Value, json};

/// The media type by which clients ask for, and recognise, aggregated discovery.
pub(crate) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether aggregated discovery comes before plain JSON in the Accept header.
pub(crate) fn wants_aggregated(accept: Option<&HeaderValue>) -> bool {
    let accept = accept.and_then(|v| v.to_str().ok()).unwrap_or_default();
    for media in accept.split(',') {
        let parts: Vec<&str> = media.split(';').map(str::trim).collect();
        match parts.as_slice() {
            ["application/json" | "*/*"] => return false,
            ["application/json", parameters @ ..] => {
                let has = |wanted: &str| parameters.contains(&wanted);
                if has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList") {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

pub(crate) fn root_paths() -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, version) in named_groups() {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{version}"));
    }
    paths.extend(
        [
            "/.well-known/openid-configuration",
            "/healthz",
            "/livez",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    paths
}

pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

pub(crate) fn groups() -> Value {
    let groups: Vec<Value> =
        named_groups().map(|(group, version)| api_group(group, version)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub(crate) fn group(name: &str) -> Option<Value> {
    let (group, version) = named_groups().find(|(group, _)| *group == name)?;
    let mut value = api_group(group, version);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// The APIResourceList of a group version.
pub(crate) fn resources(group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for res in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        let mut row = json!({
            "name": res.plural, "singularName": res.singular, "namespaced": res.namespaced, "kind": res.kind, "verbs": res.verbs,
        });
        for (field, names) in [("shortNames", res.short_names), ("categories", res.categories)] {
            if !names.is_empty() {
                row[field] = names.into();
            }
        }
        list.push(row);
        list.extend(res.subresources.iter().map(|sub| subresource_row(res, sub)));
    }
    if list.is_empty() {
        return None;
    }
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

fn subresource_row(res: &Resource, sub: &Subresource) -> Value {
    let mut row = json!({
        "name": format!("{}/{}", res.plural, sub.name), "singularName": "", "namespaced": res.namespaced,
        "kind": sub.kind, "verbs": sub.verbs,
    });
    if (sub.group, sub.version) != (res.group, res.version) {
        row["group"] = sub.group.into();
        row["version"] = sub.version.into();
    }
    row
}

/// APIGroupDiscoveryList of the core group or of all others.
pub(crate) fn aggregated(core: bool) -> Value {
    let pairs = group_versions();
    let items: Vec<Value> = pairs
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, version)| {
            let resources: Vec<Value> = RESOURCES
                .iter()
                .filter(|r| r.group == *group && r.version == *version)
                .map(aggregated_resource)
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = (*group).into();
            }
            json!({"metadata": metadata, "versions": [{"version": version, "freshness": "Current", "resources": resources}]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(res: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut row = json!({
        "resource": res.plural,
        "responseKind": kind(res.group, res.version, res.kind),
        "scope": if res.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": res.singular,
        "verbs": res.verbs,
    });
    for (field, names) in [("shortNames", res.short_names), ("categories", res.categories)] {
        if !names.is_empty() {
            row[field] = names.into();
        }
    }
    if !res.subresources.is_empty() {
        let subs: Vec<Value> = res
            .subresources
            .iter()
            .map(|sub| json!({
                "subresource": sub.name, "responseKind": kind(sub.group, sub.version, sub.kind), "verbs": sub.verbs,
            }))
            .collect();
        row["subresources"] = subs.into();
    }
    row
}

fn named_groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    group_versions().into_iter().filter(|(group, _)| !group.is_empty())
}

fn api_group(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}
