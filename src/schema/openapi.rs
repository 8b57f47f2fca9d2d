//! What both OpenAPI versions share: the schemas of types and the list of operations.

use std::collections::BTreeMap;

use api::{RESOURCES, Resource};
use serde_json::{Map, Value, json};

use crate::facts::{Field, ListKind, Shape, Type, named, type_at};

/// Where the dialects differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, definition: &str) -> Value {
        let place = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({ "$ref": format!("{place}{definition}") })
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

pub(crate) const VERSION: &str = "v1.36.0";

/// One method of one path.
pub(crate) struct Operation {
    pub(crate) path: String,
    pub(crate) method: &'static str,
    pub(crate) action: &'static str,
    pub(crate) kind: (&'static str, &'static str, &'static str),
    pub(crate) id: String,
    /// Definition of the request's body.
    pub(crate) body: Option<String>,
    /// Definition of the answer; none is plain text.
    pub(crate) answer: Option<String>,
}

/// The schemas gathered while operations refer to them.
pub(crate) struct Schemas {
    dialect: Dialect,
    found: BTreeMap<String, Value>,
}

impl Schemas {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, found: BTreeMap::new() }
    }

    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.found.into_iter().collect())
    }

    /// Adds a type and all it refers to.
    fn add(&mut self, ty: &'static Type) {
        let definition = ty.definition();
        if self.found.contains_key(&definition) {
            return;
        }
        self.found.insert(definition.clone(), Value::Null);
        let properties: Map<String, Value> =
            ty.fields.iter().map(|field| (field.name.to_owned(), self.property(field))).collect();
        let mut schema = json!({ "type": "object", "description": "" });
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        let required: Vec<&str> = ty.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if let Some(kind) = ty.kind {
            schema["x-kubernetes-group-version-kind"] = json!([kind_value(kind)]);
        }
        if ty.atomic {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
        self.found.insert(definition, schema);
    }

    fn property(&mut self, field: &Field) -> Value {
        let mut schema = self.shape(&field.shape);
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
            schema = json!({ "allOf": [schema] });
        }
        match &field.list {
            Some(ListKind::Atomic) => schema["x-kubernetes-list-type"] = json!("atomic"),
            Some(ListKind::Set) => schema["x-kubernetes-list-type"] = json!("set"),
            Some(ListKind::Map(keys)) => {
                schema["x-kubernetes-list-type"] = json!("map");
                schema["x-kubernetes-list-map-keys"] = json!(keys);
            }
            None => {}
        }
        if let Some(key) = field.merge_key {
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
        if let Some(strategy) = field.patch_strategy {
            schema["x-kubernetes-patch-strategy"] = json!(strategy);
        }
        if field.atomic_map {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
        schema
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String => json!({ "type": "string" }),
            Shape::Bytes => json!({ "type": "string", "format": "byte" }),
            Shape::Int32 => json!({ "type": "integer", "format": "int32" }),
            Shape::Int64 => json!({ "type": "integer", "format": "int64" }),
            Shape::Number => json!({ "type": "number", "format": "double" }),
            Shape::Bool => json!({ "type": "boolean" }),
            Shape::Any => json!({ "type": "object" }),
            Shape::Time => self.leaf(format!("{META}.Time")),
            Shape::MicroTime => self.leaf(format!("{META}.MicroTime")),
            Shape::Quantity => self.leaf(QUANTITY.to_owned()),
            Shape::IntOrString => self.leaf(INT_OR_STRING.to_owned()),
            Shape::Object(index) => {
                let ty = type_at(*index);
                self.add(ty);
                self.dialect.reference(&ty.definition())
            }
            Shape::List(item) => json!({ "type": "array", "items": self.shape(item) }),
            Shape::Map(item) => {
                json!({ "type": "object", "additionalProperties": self.shape(item) })
            }
        }
    }

    fn leaf(&mut self, definition: String) -> Value {
        let schema = match (definition.as_str(), self.dialect) {
            (QUANTITY, Dialect::V2) => json!({ "type": "string" }),
            (QUANTITY, Dialect::V3) => {
                json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] })
            }
            (INT_OR_STRING, Dialect::V2) => json!({ "type": "string", "format": "int-or-string" }),
            (INT_OR_STRING, Dialect::V3) => {
                json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] })
            }
            _ => json!({ "type": "string", "format": "date-time" }),
        };
        let reference = self.dialect.reference(&definition);
        self.found.entry(definition).or_insert(schema);
        reference
    }

    /// A reference to a definition by its full name, which is added if it is a known type, a list or a patch.
    pub(crate) fn reference(&mut self, definition: &str) -> Value {
        let short = definition
            .trim_start_matches("io.k8s.api.")
            .trim_start_matches("io.k8s.apimachinery.pkg.apis.");
        if let Some(ty) = named(short) {
            self.add(ty);
        } else if let Some(item) = short.strip_suffix("List").and_then(named) {
            self.add_list(definition, item);
        } else {
            self.found
                .entry(definition.to_owned())
                .or_insert_with(|| json!({ "type": "object", "description": "" }));
        }
        self.dialect.reference(definition)
    }

    fn add_list(&mut self, definition: &str, item: &'static Type) {
        self.add(item);
        let list_meta = self.reference(&format!("{META}.ListMeta"));
        let metadata =
            if self.dialect == Dialect::V3 { json!({ "allOf": [list_meta] }) } else { list_meta };
        let (group, version, kind) = item.kind.unwrap_or_default();
        let list_kind =
            json!([{ "group": group, "version": version, "kind": format!("{kind}List") }]);
        let schema = json!({
            "type": "object",
            "description": "",
            "required": ["items"],
            "properties": {
                "apiVersion": { "type": "string" },
                "kind": { "type": "string" },
                "metadata": metadata,
                "items": { "type": "array", "items": self.dialect.reference(&item.definition()) },
            },
            "x-kubernetes-group-version-kind": list_kind,
        });
        self.found.insert(definition.to_owned(), schema);
    }
}

pub(crate) fn kind_value((group, version, kind): (&str, &str, &str)) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

/// The root of the paths of a group version: `/api/v1` or `/apis/apps/v1`.
pub(crate) fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    }
}

pub(crate) fn operations(group: &str, version: &str) -> Vec<Operation> {
    let mut operations = Vec::new();
    for res in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        resource_operations(res, &mut operations);
    }
    operations
}

/// Verb, method, action, whether the path names an object.
const VERBS: &[(&str, &str, &str, bool)] = &[
    ("list", "get", "list", false),
    ("create", "post", "post", false),
    ("deletecollection", "delete", "deletecollection", false),
    ("get", "get", "get", true),
    ("update", "put", "put", true),
    ("patch", "patch", "patch", true),
    ("delete", "delete", "delete", true),
];

fn definition_of(group: &str, version: &str, kind: &str) -> Option<String> {
    crate::facts::builtin(group, version, kind).map(Type::definition)
}

fn resource_operations(res: &'static Resource, out: &mut Vec<Operation>) {
    let root = root(res.group, res.version);
    let scope = if res.namespaced { "/namespaces/{namespace}" } else { "" };
    let scoped = if res.namespaced { "Namespaced" } else { "" };
    let definition = definition_of(res.group, res.version, res.kind);
    let listed = definition.as_ref().map(|d| format!("{d}List"));
    let kind = (res.group, res.version, res.kind);
    for (verb, method, action, by_name) in VERBS.iter().filter(|(verb, ..)| res.has_verb(verb)) {
        let name = if *by_name { "/{name}" } else { "" };
        let answer = match *verb {
            "list" => listed.clone(),
            "delete" | "deletecollection" => Some(format!("{META}.Status")),
            _ => definition.clone(),
        };
        out.push(Operation {
            path: format!("{root}{scope}/{}{name}", res.plural),
            method,
            action,
            kind,
            id: format!("{verb}{scoped}{}", res.kind),
            body: body(verb, definition.as_ref()),
            answer,
        });
    }
    if res.namespaced && res.has_verb("list") {
        out.push(Operation {
            path: format!("{root}/{}", res.plural),
            method: "get",
            action: "list",
            kind,
            id: format!("list{}ForAllNamespaces", res.kind),
            body: None,
            answer: listed,
        });
    }
    for sub in res.subresources {
        for (verb, method, action, _) in VERBS.iter().filter(|(verb, ..)| sub.verbs.contains(verb))
        {
            let definition =
                definition_of(sub.group, sub.version, sub.kind).filter(|_| sub.name != "log");
            out.push(Operation {
                path: format!("{root}{scope}/{}/{{name}}/{}", res.plural, sub.name),
                method,
                action: if definition.is_none() && sub.name != "log" { "connect" } else { action },
                kind: (sub.group, sub.version, sub.kind),
                id: format!("{verb}{scoped}{}{}", res.kind, sub.name),
                body: body(verb, definition.as_ref()),
                answer: definition,
            });
        }
    }
}

fn body(verb: &str, definition: Option<&String>) -> Option<String> {
    match verb {
        "create" | "update" => definition.cloned(),
        "patch" => definition.map(|_| format!("{META}.Patch")),
        "delete" | "deletecollection" => Some(format!("{META}.DeleteOptions")),
        _ => None,
    }
}

pub(crate) const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Query parameters (name and type) by action.
pub(crate) fn query_parameters(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "list" | "deletecollection" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "post" | "put" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => &[],
    }
}

/// Parameters that the path itself holds.
pub(crate) fn path_parameters(path: &str) -> impl Iterator<Item = &'static str> {
    ["name", "namespace"].into_iter().filter(move |name| path.contains(&format!("{{{name}}}")))
}
