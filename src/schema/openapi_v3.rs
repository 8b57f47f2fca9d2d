//! OpenAPI v3: an index and one document per group version. `kubectl explain`, `apply` and field validation read it.

use serde_json::{Map, Value, json};

use crate::openapi::{
    Dialect, Operation, PATCH_TYPES, Schemas, VERSION, kind_value, operations, path_parameters,
    query_parameters, root,
};

/// Where the documents lie, with a mark that changes with their content.
pub fn openapi_v3_index() -> Value {
    let hash = fingerprint();
    let mut paths = Map::new();
    for (group, version) in api::resource::group_versions() {
        let place = root(group, version);
        let url = format!("/openapi/v3{place}?hash={hash:016X}");
        paths.insert(place.trim_start_matches('/').to_owned(), json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// The document of `v1` or `apps/v1`.
pub fn openapi_v3(group_version: &str) -> Option<Value> {
    let (group, version) = api::resource::split_api_version(group_version);
    let operations = operations(group, version);
    if operations.is_empty() {
        return None;
    }
    let mut schemas = Schemas::new(Dialect::V3);
    let mut paths: Map<String, Value> = Map::new();
    for operation in &operations {
        let path =
            paths.entry(operation.path.clone()).or_insert_with(|| path_item(&operation.path));
        path[operation.method] = render(operation, &mut schemas);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": VERSION },
        "paths": paths,
        "components": { "schemas": schemas.into_value() },
    }))
}

fn path_item(path: &str) -> Value {
    let parameter = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let parameters: Vec<Value> = path_parameters(path).map(parameter).collect();
    json!({ "parameters": parameters })
}

fn render(operation: &Operation, schemas: &mut Schemas) -> Value {
    let parameter = |(name, kind): &(&str, &str)| json!({ "name": name, "in": "query", "schema": { "type": kind } });
    let parameters: Vec<Value> = query_parameters(operation.action).iter().map(parameter).collect();
    let content = match &operation.answer {
        Some(definition) => {
            json!({ "application/json": { "schema": schemas.reference(definition) } })
        }
        None => json!({ "*/*": { "schema": { "type": "string" } } }),
    };
    let mut value = json!({
        "operationId": operation.id,
        "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": content } },
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": kind_value(operation.kind),
    });
    if let Some(definition) = &operation.body {
        let schema = json!({ "schema": schemas.reference(definition) });
        let types = if operation.action == "patch" { PATCH_TYPES } else { &["application/json"] };
        let content: Map<String, Value> =
            types.iter().map(|t| ((*t).to_owned(), schema.clone())).collect();
        value["requestBody"] =
            json!({ "content": content, "required": operation.action != "delete" });
    }
    value
}

/// FNV-1a over what the documents are made of.
fn fingerprint() -> u64 {
    let bytes = include_bytes!("facts.txt").iter().chain(VERSION.as_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
