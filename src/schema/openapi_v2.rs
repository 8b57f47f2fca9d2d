//! OpenAPI v2: all group versions in one document, for clients that know no v3.

use serde_json::{Map, Value, json};

use crate::openapi::{
    Dialect, Operation, PATCH_TYPES, Schemas, VERSION, kind_value, operations, path_parameters,
    query_parameters,
};

pub fn openapi_v2() -> Value {
    let mut schemas = Schemas::new(Dialect::V2);
    let mut paths: Map<String, Value> = Map::new();
    for (group, version) in api::resource::group_versions() {
        for operation in operations(group, version) {
            let path =
                paths.entry(operation.path.clone()).or_insert_with(|| path_item(&operation.path));
            path[operation.method] = render(&operation, version, &mut schemas);
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": VERSION },
        "paths": paths,
        "definitions": schemas.into_value(),
    })
}

fn path_item(path: &str) -> Value {
    let parameter = |name: &str| json!({ "name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true });
    let parameters: Vec<Value> = path_parameters(path).map(parameter).collect();
    json!({ "parameters": parameters })
}

fn render(operation: &Operation, version: &str, schemas: &mut Schemas) -> Value {
    let parameter = |(name, kind): &(&str, &str)| json!({ "name": name, "in": "query", "type": kind, "uniqueItems": true });
    let mut parameters: Vec<Value> =
        query_parameters(operation.action).iter().map(parameter).collect();
    if let Some(definition) = &operation.body {
        let required = operation.action != "delete";
        let schema = schemas.reference(definition);
        parameters
            .push(json!({ "name": "body", "in": "body", "required": required, "schema": schema }));
    }
    let mut answer = json!({ "description": "OK" });
    answer["schema"] = match &operation.answer {
        Some(definition) => schemas.reference(definition),
        None => json!({ "type": "string" }),
    };
    let consumes: &[&str] = if operation.action == "patch" { PATCH_TYPES } else { &["*/*"] };
    let (group, _, _) = operation.kind;
    let tag = if group.is_empty() {
        format!("core_{version}")
    } else {
        format!("{}_{version}", group.replace(".k8s.io", ""))
    };
    json!({
        "operationId": operation.id,
        "tags": [tag],
        "consumes": consumes,
        "produces": ["application/json"],
        "parameters": parameters,
        "responses": { "200": answer, "401": { "description": "Unauthorized" } },
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": kind_value(operation.kind),
    })
}
