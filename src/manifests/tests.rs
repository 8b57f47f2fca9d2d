//! Reading files, choosing them, deciding: tables.

use std::fs;

use serde_json::{Value, json};

use crate::documents::{self, Document};
use crate::folder;
use crate::plan::{self, ADDON, APPLIED, Id, Step};
use crate::record::Record;

fn read(text: &str) -> Result<Vec<(usize, Value)>, String> {
    let documents = documents::read(text).map_err(|error| error.to_string())?;
    Ok(documents.into_iter().map(|document| (document.line, document.object)).collect())
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

#[test]
fn documents_know_their_lines() {
    let one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, creationTimestamp: null}\n";
    let two = one.replace("name: a", "name: b");
    let list = "kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n\
                - {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n";
    let json = config_map("a").to_string();
    let (a, b) = (config_map("a"), config_map("b"));
    for (text, expected) in [
        (String::new(), vec![]),
        ("# nothing\n---\n\n--- \n".to_owned(), vec![]),
        (one.to_owned(), vec![(1, a.clone())]),
        (format!("# head\n---\n{one}---\n{two}"), vec![(3, a.clone()), (7, b.clone())]),
        (format!("{one}--- # more\n# none\n---\n{two}"), vec![(1, a.clone()), (7, b.clone())]),
        (format!("---\n{list}"), vec![(2, a.clone()), (2, b)]),
        (json, vec![(1, a)]),
    ] {
        assert_eq!(read(&text), Ok(expected), "{text}");
    }
}

#[test]
fn values_are_read_as_kubectl_reads_them() {
    let text = "apiVersion: v1\nkind: X\nmetadata: {name: a}\nmode: 0644\nyes: yes\ntext: \"0644\"\nquantity: 1_0m\n";
    let objects = read(text).unwrap();
    let object = &objects[0].1;
    assert_eq!(object["mode"], json!(420));
    assert_eq!(object["yes"], json!(true));
    assert_eq!(object["text"], json!("0644"));
}

#[test]
fn mistakes_are_told_with_their_line() {
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    for (text, expected) in [
        ("apiVersion: v1\nkind: [\n".to_owned(), "line "),
        (
            format!("{good}---\nkind: ConfigMap\nmetadata: {{name: b}}\n"),
            "line 5: apiVersion: expected a text, found nothing",
        ),
        (
            format!("{good}---\njust words\n"),
            "line 5: expected an object with apiVersion and kind, found \"just words\"",
        ),
        (
            good.replace("name: a", "generateName: a"),
            "line 1: metadata.name: expected a text, found nothing",
        ),
        (good.replace("name: a", "name: 7"), "line 1: metadata.name: expected a text, found 7"),
        (
            good.replace("name: a", "name: a, namespace: 1"),
            "line 1: metadata.namespace: expected a text, found 1",
        ),
        (format!("{good}{good}"), "line 4: not YAML"),
        (format!("{good}---\na: 1\nb: \"\n"), "line 7: not YAML"),
        (format!("a: {}", "[".repeat(4000)), "line 1: not YAML"),
        (format!("{good}---\n").repeat(1025), "line 4097: more than 1024 objects"),
    ] {
        let error = read(&text).unwrap_err();
        assert!(error.starts_with(expected), "{error}, expected {expected}");
    }
}

#[test]
fn files_are_chosen_by_name_ending_and_skip() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    fs::create_dir_all(base.join("more/deep")).unwrap();
    for name in [
        "b.yaml",
        "a.yml",
        "My_App.JSON",
        "note.txt",
        "c.yaml",
        "c.yaml.skip",
        ".hidden.yaml",
        "b.json",
        "ü.yaml",
        "more/z.yaml",
        "more/deep/y.yaml",
        "off.yaml",
    ] {
        fs::write(base.join(name), "").unwrap();
    }
    let found =
        folder::scan(base, &["off".to_owned(), "deep".to_owned(), "traefik".to_owned()]).unwrap();
    let files: Vec<(String, bool)> =
        found.files.iter().map(|file| (file.addon.clone(), file.is_disabled)).collect();
    let expected =
        [("my-app", false), ("a", false), ("b", false), ("y", true), ("z", false), ("off", true)];
    let mut expected = expected.map(|(name, off)| (name.to_owned(), off)).to_vec();
    let mut sorted = files.clone();
    expected.sort();
    sorted.sort();
    assert_eq!(sorted, expected);
    assert_eq!(found.folders.len(), 3);
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    let large = base.join("large.yaml");
    fs::File::create(&large).unwrap().set_len((4 << 20) + 1).unwrap();
    assert!(folder::read(&large).unwrap_err().to_string().contains("4 MiB"));
}

#[test]
fn what_others_need_comes_first() {
    let object = |api_version: &str, kind: &str, namespace: Value| Document {
        line: 1,
        object: json!({"apiVersion": api_version, "kind": kind, "status": {"a": 1},
                       "metadata": {"name": "x", "namespace": namespace}}),
    };
    let (wanted, wrong) = plan::order(vec![
        object("apps/v1", "Deployment", json!("shop")),
        object("apps/v1", "Deployment", json!("shop")),
        object("v1", "ConfigMap", Value::Null),
        object("example.org/v1", "Widget", json!("shop")),
        object("v1", "Binding", json!("shop")),
        object("rbac.authorization.k8s.io/v1", "ClusterRole", json!("mistaken")),
        object("v1", "Namespace", Value::Null),
    ]);
    let ids: Vec<String> = wanted.iter().map(|wanted| wanted.id.to_string()).collect();
    assert_eq!(
        ids,
        [
            "v1 Namespace x",
            "rbac.authorization.k8s.io/v1 ClusterRole x",
            "v1 ConfigMap default/x",
            "apps/v1 Deployment shop/x",
        ]
    );
    assert_eq!(
        wrong,
        [
            "line 1: apps/v1 Deployment shop/x: the file has it already",
            "line 1: example.org/v1 Widget shop/x: no such kind is served",
            "line 1: v1 Binding shop/x: no such kind is served",
        ]
    );
    for wanted in &wanted {
        assert_eq!(wanted.id.to_string().parse::<Id>(), Ok(wanted.id.clone()));
        let namespace = wanted.object["metadata"].get("namespace");
        assert_eq!(namespace.is_some(), wanted.resource.namespaced);
        assert_eq!(wanted.object.get("status").is_some(), !wanted.resource.has_status());
    }
}

#[test]
fn an_object_is_created_changed_and_left_alone() {
    let manifest = |data: Value| {
        let mut object = config_map("x");
        object["data"] = data;
        let (mut wanted, _) = plan::order(vec![Document { line: 1, object }]);
        wanted.remove(0)
    };
    let first = manifest(json!({"a": "1", "b": "2"}));
    let Ok(Step::Create(created)) = plan::step("shop", &first, None) else { panic!("no creation") };
    assert_eq!(plan::annotation(&created, ADDON), Some("shop"));
    assert_eq!(plan::step("shop", &first, Some(created.clone())), Ok(Step::Nothing));

    let mut live = created;
    live["data"]["others"] = json!("3");
    live["metadata"]["resourceVersion"] = json!("7");
    assert_eq!(plan::step("shop", &first, Some(live.clone())), Ok(Step::Nothing));
    let second = manifest(json!({"a": "4"}));
    let Ok(Step::Replace(new)) = plan::step("shop", &second, Some(live.clone())) else {
        panic!("no change")
    };
    assert_eq!(new["data"], json!({"a": "4", "others": "3"}));
    assert_eq!(new["metadata"]["resourceVersion"], json!("7"), "a write in between is noticed");

    let large = manifest(json!({"a": "x".repeat(200_000)}));
    let Ok(Step::Replace(new)) = plan::step("shop", &large, Some(live.clone())) else {
        panic!("no change")
    };
    assert_eq!(plan::annotation(&new, APPLIED), None);
    live["metadata"]["deletionTimestamp"] = json!("2026-11-22T12:00:00Z");
    assert!(matches!(plan::step("shop", &first, Some(live)), Ok(Step::NotYet(_))));
}

#[test]
fn a_record_survives_the_cluster() {
    let id = |name: &str| format!("v1 ConfigMap default/{name}").parse::<Id>().unwrap();
    let record = Record {
        source: "/x/shop.yaml".to_owned(),
        checksum: "12".to_owned(),
        objects: vec![id("a"), id("b")],
    };
    assert_eq!(Record::of_config_map(&record.config_map("shop")), record);
    assert_eq!(record.dropped(&[id("b"), id("c")]), [id("a")]);
    assert_eq!(record.with(&[id("c"), id("a")]).objects, [id("a"), id("b"), id("c")]);
    assert_eq!(Record::of_config_map(&json!({"data": {"objects": "nonsense"}})), Record::default());
}
