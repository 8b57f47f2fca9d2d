//! Cases as data, and properties of what takes foreign input.

#[path = "../api/case_files.rs"]
mod case_files;

use api::{RESOURCES, Resource};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{DecodeError, IncludeObject, PatchError, Type};

/// What the tables of the cases take for the present.
const NOW: &str = "2026-11-22T12:00:00Z";

#[test]
fn cases() {
    case_files::check(env!("CARGO_MANIFEST_DIR"), run);
}

fn run(title: &str, inputs: &[&str]) -> String {
    let (operation, kind) = title.split_once(' ').unwrap_or((title, ""));
    let first = inputs.first().copied().unwrap_or_default();
    let second = inputs.get(1).copied().unwrap_or_default();
    match operation {
        "decode" => match crate::decode(first.as_bytes()) {
            Ok((value, duplicates)) => lines(&value, &duplicates),
            Err(error) => error.to_string(),
        },
        "prune" => match pruned(resource(kind), first) {
            Ok((value, unknown)) => lines(&value, &unknown),
            Err(error) => error.to_string(),
        },
        "default" => {
            defaulted(resource(kind), first).map_or_else(|e| e.to_string(), |v| v.to_string())
        }
        "validate" => errors(resource(kind), first, None),
        "update" => errors(resource(kind), second, Some(first)),
        "status" => {
            let (old, new) = (parse(first), parse(second));
            report(&crate::validate_status(resource(kind), &new, &old))
        }
        "strategic" => patched(first, second, |o, p| crate::strategic_merge(type_of(kind), o, p)),
        "merge" => patched(first, second, crate::json_merge),
        "apply" => {
            let last = serde_json::from_str(second).ok();
            let manifest = inputs.get(2).copied().unwrap_or_default();
            patched(first, manifest, |live, manifest| {
                crate::apply(Some(type_of(kind)), last.as_ref(), manifest, live)
            })
        }
        "jsonpatch" => patched(first, second, crate::json_patch),
        "table" => rows(resource(kind), first),
        "event" => {
            let mut event = parse(first);
            crate::event_from_core(&mut event);
            let shown = event.to_string();
            crate::event_to_core(&mut event);
            format!("{shown}\n{event}")
        }
        "openapi" => pointers(kind, first),
        other => unreachable!("no operation {other}"),
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text}"))
}

/// `Pod`, or `events.k8s.io/Event` where the kind alone is not enough.
fn resource(kind: &str) -> &'static Resource {
    let (group, kind) =
        kind.rsplit_once('/').map_or((None, kind), |(group, kind)| (Some(group), kind));
    let found = RESOURCES.iter().find(|r| r.kind == kind && group.is_none_or(|g| g == r.group));
    found.unwrap_or_else(|| panic!("{kind} is not served"))
}

fn type_of(kind: &str) -> &'static Type {
    let res = resource(kind);
    crate::builtin(res.group, res.version, res.kind).expect("a served kind has a type")
}

fn lines(value: &Value, findings: &[String]) -> String {
    let mut text = format!("{value}\n");
    for finding in findings {
        text.push_str(finding);
        text.push('\n');
    }
    text
}

fn pruned(res: &Resource, text: &str) -> Result<(Value, Vec<String>), DecodeError> {
    let (mut value, _) = crate::decode(text.as_bytes())?;
    let ty = crate::builtin(res.group, res.version, res.kind).expect("a served kind has a type");
    let unknown = crate::prune(ty, &mut value)?;
    Ok((value, unknown))
}

fn defaulted(res: &Resource, text: &str) -> Result<Value, DecodeError> {
    let (mut value, _) = pruned(res, text)?;
    crate::default(res, &mut value);
    let once = value.clone();
    crate::default(res, &mut value);
    assert_eq!(once, value, "defaulting twice changes the object");
    Ok(value)
}

/// Metadata that a case leaves out is filled in.
fn complete(res: &Resource, text: &str) -> Result<Value, DecodeError> {
    let mut value = defaulted(res, text)?;
    let meta =
        value.as_object_mut().expect("an object").entry("metadata").or_insert_with(|| json!({}));
    let meta = meta.as_object_mut().expect("metadata is an object");
    meta.entry("name").or_insert_with(|| json!("x"));
    if res.namespaced {
        meta.entry("namespace").or_insert_with(|| json!("default"));
    }
    Ok(value)
}

fn errors(res: &Resource, new: &str, old: Option<&str>) -> String {
    let old = old.map(|text| complete(res, text).expect("the old object is well-formed"));
    match complete(res, new) {
        Ok(new) => report(&crate::validate(res, &new, old.as_ref())),
        Err(error) => error.to_string(),
    }
}

fn report(errors: &[api::FieldError]) -> String {
    match errors {
        [] => "ok".to_owned(),
        errors => errors.iter().map(|e| format!("{e}\n")).collect(),
    }
}

fn patched(
    object: &str,
    patch: &str,
    apply: impl Fn(&mut Value, &Value) -> Result<(), PatchError>,
) -> String {
    let mut object = parse(object);
    match apply(&mut object, &parse(patch)) {
        Ok(()) => object.to_string(),
        Err(PatchError::Malformed(text)) => format!("malformed: {text}"),
        Err(PatchError::Unprocessable(text)) => format!("unprocessable: {text}"),
    }
}

fn rows(res: &Resource, text: &str) -> String {
    let objects: Vec<Value> = text.lines().map(parse).collect();
    let references: Vec<&Value> = objects.iter().collect();
    let now: Timestamp = NOW.parse().expect("a timestamp");
    let table = crate::table(res, &references, IncludeObject::None, now);
    let joined = |cells: Vec<String>| format!("{}\n", cells.join(" | "));
    let shown = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    let columns = table["columnDefinitions"].as_array().expect("columns");
    let mut out = joined(
        columns
            .iter()
            .map(|c| format!("{}{}", shown(&c["name"]), if c["priority"] == 1 { "*" } else { "" }))
            .collect(),
    );
    for row in table["rows"].as_array().expect("rows") {
        let cells = row["cells"].as_array().expect("cells");
        assert_eq!(cells.len(), columns.len(), "a cell for each column");
        out.push_str(&joined(cells.iter().map(shown).collect()));
    }
    out
}

/// Lines of `POINTER`: what the document holds there.
fn pointers(document: &str, text: &str) -> String {
    let document = match document {
        "v2" => crate::openapi_v2(),
        "index" => crate::openapi_v3_index(),
        group_version => crate::openapi_v3(group_version).unwrap_or(Value::Null),
    };
    text.lines()
        .map(|line| format!("{line} => {}\n", document.pointer(line).unwrap_or(&Value::Null)))
        .collect()
}

#[test]
fn every_served_kind_has_a_type() {
    for res in RESOURCES {
        assert!(crate::builtin(res.group, res.version, res.kind).is_some(), "{}", res.kind);
    }
}

#[test]
fn every_default_names_a_field_of_a_type() {
    for line in include_str!("defaults.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let (ty, field, value) = (words.next(), words.next(), words.next());
        let ty = crate::facts::named(ty.expect("a type"))
            .unwrap_or_else(|| panic!("{line}: no such type"));
        assert!(ty.field(field.expect("a field")).is_some(), "{line}: no such field");
        parse(value.expect("a value"));
    }
}

#[test]
fn every_reference_in_openapi_resolves() {
    let mut documents = vec![crate::openapi_v2()];
    for (group, version) in api::resource::group_versions() {
        let group_version =
            if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        documents.push(crate::openapi_v3(&group_version).expect("a served group version"));
    }
    for document in &documents {
        let mut found = Vec::new();
        references(document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(
                document.pointer(pointer).is_some_and(Value::is_object),
                "{reference} is missing"
            );
        }
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                match inner.as_str().filter(|_| key == "$ref") {
                    Some(reference) => found.push(reference),
                    None => references(inner, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

/// JSON whose keys are those of pods, so that it goes deep into the rules.
fn pod_like() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "containers",
        "initContainers",
        "name",
        "image",
        "ports",
        "env",
        "labels",
        "selector",
        "template",
        "containerPort",
        "volumes",
        "resources",
        "limits",
        "cpu",
        "strategy",
        "rollingUpdate",
        "replicas",
        "containerStatuses",
        "state",
        "terminated",
        "type",
        "finalizers",
        "tolerations",
        "data",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![
            "", "a", "x/y", "1Gi", "50%", "delete", "replace", "Always", "../..", "é"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn decoding_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:a-z0-9.e+-]{0,80}") {
        let _ = crate::decode(&bytes);
        let _ = crate::decode(text.as_bytes());
    }

    #[test]
    fn decoding_agrees_with_the_parser(value in pod_like()) {
        let (decoded, duplicates) = crate::decode(value.to_string().as_bytes()).expect("what was printed is JSON");
        prop_assert_eq!(decoded, value);
        prop_assert!(duplicates.is_empty());
    }

    #[test]
    fn no_object_breaks_the_rules(value in pod_like(), patch in pod_like()) {
        for res in RESOURCES {
            let ty = crate::builtin(res.group, res.version, res.kind).expect("a served kind has a type");
            let mut merged = value.clone();
            let _ = crate::strategic_merge(ty, &mut merged, &patch);
            let mut object = value.clone();
            let _ = crate::json_patch(&mut object, &patch);
            let now: Timestamp = NOW.parse().expect("a timestamp");
            let _ = crate::table(res, &[&value], IncludeObject::Object, now);
            if crate::prune(ty, &mut merged).is_ok() {
                crate::default(res, &mut merged);
                let again = merged.clone();
                let _ = crate::validate(res, &merged, Some(&again));
            }
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = "[".repeat(100_000);
    assert!(crate::decode(deep.as_bytes()).is_err());
    let allowed = format!("{}{}", "[".repeat(crate::DEPTH_MAX), "]".repeat(crate::DEPTH_MAX));
    assert!(crate::decode(allowed.as_bytes()).is_ok());
}
