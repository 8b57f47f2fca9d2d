//! The record survives what disks do to it, and is written no more often than it must be.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus, Secret};
use serde_json::{Value, json};

use super::content::{Cause, NodeRecord, PodRecord, Recorded};
use super::seal::{Damage, Key};
use super::store::Store;
use crate::env::Objects;

fn pod(uid: &str, policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": uid, "resourceVersion": "7"},
        "spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "app:1"}]},
    }))
    .expect("a pod")
}

fn status(value: Value) -> PodStatus {
    serde_json::from_value(value).expect("a status")
}

fn record(uid: &str) -> PodRecord {
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "s", "namespace": "shop", "resourceVersion": "3", "labels": {"a": "b"}},
        "data": {"password": "aHVudGVyMg=="},
    }))
    .expect("a secret");
    let mut objects = Objects::default();
    objects.secrets.insert("s".into(), Some(Arc::new(secret)));
    objects.config_maps.insert("absent".into(), None);
    let recorded = Recorded::new(objects, vec![("DB_SERVICE_HOST".into(), "10.43.0.9".into())]);
    PodRecord::new(&pod(uid, "Always"), &status(json!({"phase": "Running"})), recorded)
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder.join("pods")).expect("pods").flatten();
    let mut all: Vec<_> = entries
        .map(|e| {
            (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).expect("a file"))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn what_was_written_is_read_by_the_next_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    assert!(store.save(&record("u1")).expect("saved"));
    assert!(store.save(&record("u2")).expect("saved"));
    store.save_node(&NodeRecord { pod_cidr: "10.42.3.0/24".into() }).expect("saved");
    for (name, bytes) in files(folder.path()) {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("aHVudGVyMg") && !text.contains("shop"), "{name} is readable");
        let mode =
            fs::metadata(folder.path().join("pods").join(&name)).expect("meta").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
    let key = fs::metadata(folder.path().join("key")).expect("a key").permissions().mode();
    assert_eq!(key & 0o777, 0o600);
    assert_eq!(fs::metadata(folder.path()).expect("meta").permissions().mode() & 0o777, 0o700);
    let loaded = Store::open(folder.path()).expect("a store").load();
    assert_eq!(loaded.node.pod_cidr, "10.42.3.0/24");
    assert_eq!(loaded.pods.keys().collect::<Vec<_>>(), ["u1", "u2"]);
    assert_eq!(loaded.pods["u1"], record("u1"));
    let secret = loaded.pods["u1"].recorded.secrets["s"].clone().expect("a secret");
    assert_eq!(secret.data.as_ref().expect("data")["password"].0, b"hunter2");
    assert!(secret.metadata.labels.is_none(), "nothing but names and data is kept");
}

#[test]
fn damaged_files_are_left_out_and_the_others_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    for uid in ["flipped", "short", "empty", "foreign", "swapped", "good"] {
        store.save(&record(uid)).expect("saved");
    }
    let path = |uid: &str| folder.path().join("pods").join(uid);
    let good = fs::read(path("good")).expect("a file");
    let mut flipped = fs::read(path("flipped")).expect("a file");
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(path("flipped"), flipped).expect("written");
    fs::write(path("short"), &good[..good.len() - 1]).expect("written");
    fs::write(path("empty"), b"").expect("written");
    fs::write(path("foreign"), b"not ours at all").expect("written");
    fs::write(path("swapped"), &good).expect("written");
    fs::write(path(".good.1.2"), b"half").expect("written");
    let store = Store::open(folder.path()).expect("a store");
    assert_eq!(store.load().pods.keys().collect::<Vec<_>>(), ["good"]);
    assert!(!path(".good.1.2").exists(), "what a power cut left is removed");
    assert!(store.save(&record("flipped")).expect("saved"), "a damaged file is written anew");
    store.retain(&BTreeSet::from(["flipped".to_owned()]));
    let left: Vec<String> = files(folder.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["flipped"]);
}

#[test]
fn a_lost_key_loses_the_record_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    Store::open(folder.path()).expect("a store").save(&record("u1")).expect("saved");
    fs::write(folder.path().join("key"), b"short").expect("written");
    let store = Store::open(folder.path()).expect("a store");
    assert!(store.load().pods.is_empty());
    assert!(store.save(&record("u1")).expect("saved"));
    assert_eq!(Store::open(folder.path()).expect("a store").load().pods.len(), 1);
}

#[test]
fn only_what_decides_something_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    let base = record("u1");
    assert!(store.save(&base).expect("saved"));
    let with = |change: &dyn Fn(&mut Pod)| {
        let mut record = base.clone();
        change(Arc::make_mut(&mut record.pod));
        store.save(&record).expect("saved")
    };
    assert!(!with(&|_| {}), "nothing has changed");

    let counted = json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "app:1",
        "imageID": "", "ready": false, "restartCount": 9,
        "state": {"terminated": {"exitCode": 1}}}]});
    assert!(!with(&|p| p.status = Some(status(counted.clone()))), "restarts are not written");
    let files = files(folder.path());
    assert!(with(&|p| p.status = Some(status(json!({"phase": "Failed"})))));
    assert_ne!(files, self::files(folder.path()));
    drop(store);
    let store = Store::open(folder.path()).expect("a store");
    let failed = store.load().pods.remove("u1").expect("a record");
    assert!(!store.save(&failed).expect("saved"), "a new agent knows what is written");
}

#[test]
fn causes() {
    let always = Arc::new(pod("u1", "Always"));
    let never = Arc::new(pod("u1", "Never"));
    let ended = status(json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "",
        "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]}));
    let running = status(json!({"phase": "Running"}));
    let cause = |pod: &Arc<Pod>, status: &PodStatus, n| Cause::new(pod, status, n);
    assert!(cause(&always, &running, 0).holds(&cause(&always, &ended, 0)), "it will be restarted");
    assert!(cause(&never, &running, 0).presses(&cause(&never, &ended, 0)), "it has ended for good");
    assert!(!cause(&always, &running, 0).holds(&cause(&always, &running, 1)));
    assert!(!cause(&always, &running, 0).presses(&cause(&always, &running, 1)));
    let mut deleted = Pod::clone(&always);
    deleted.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-11-22T10:00:00Z")).ok();
    assert!(cause(&always, &running, 0).presses(&cause(&Arc::new(deleted), &running, 0)));
}

#[test]
fn uids_that_are_no_names_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    for uid in ["", "../key", "a/b", ".hidden", &"x".repeat(200)] {
        assert!(store.save(&record(uid)).is_err(), "{uid:?}");
    }
}

#[test]
fn a_sealed_file_is_bound_to_its_name_and_key() {
    let (one, two) = (Key::new(&[1; 32]).expect("a key"), Key::new(&[2; 32]).expect("a key"));
    let sealed = one.seal("a", b"content").expect("sealed");
    assert_eq!(one.open("a", &sealed).expect("opened"), b"content");
    assert_eq!(one.open("b", &sealed), Err(Damage::Broken));
    assert_eq!(two.open("a", &sealed), Err(Damage::Broken));
    assert_eq!(one.open("a", &sealed[1..]), Err(Damage::Foreign));
    assert_eq!(one.open("a", &sealed[..10]), Err(Damage::Broken));
    assert_ne!(sealed, one.seal("a", b"content").expect("sealed"), "nonces differ");
}
