//! Volumes on real files in a temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, Secret, Volume};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::payload::{File, Payload, Sources, payload};
use super::plan::{Kind, TokenWish, kind};
use super::{atomic, mounts, place};
use crate::env::Objects;
use crate::fieldref::NodeFields;
use crate::paths::Paths;

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the test's object")
}

fn file(text: &str, mode: u32) -> File {
    File { bytes: text.as_bytes().to_vec(), mode, owner: None }
}

fn objects() -> Objects {
    let map: ConfigMap = typed(json!({"metadata": {"name": "cm"}, "data": {"a": "1", "b": "2"},
        "binaryData": {"bin": "/w=="}}));
    let secret: Secret = typed(json!({"metadata": {"name": "s"}, "data": {"key": "c2VjcmV0"}}));
    let mut objects = Objects::default();
    objects.config_maps.insert("cm".into(), Some(Arc::new(map)));
    objects.secrets.insert("s".into(), Some(Arc::new(secret)));
    objects
}

fn files_of(volume: Value, pod: &Pod) -> Result<Payload, String> {
    let tokens =
        BTreeMap::from([(TokenWish { audience: "x".into(), seconds: 600 }, Ok("tok".to_owned()))]);
    let node = NodeFields::default();
    let objects = objects();
    let Kind::Files { sources, mode, .. } = kind(&typed::<Volume>(volume)) else {
        panic!("not a volume of files")
    };
    payload(&Sources { pod, objects: &objects, node: &node, tokens: &tokens }, &sources, mode)
}

#[test]
fn payloads_hold_what_the_sources_say() {
    let pod: Pod = typed(json!({"metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"securityContext": {"runAsUser": 1000}, "containers": [{"name": "a"}]}}));
    let all = files_of(json!({"name": "v", "configMap": {"name": "cm"}}), &pod).expect("files");
    assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b", "bin"]);
    assert_eq!((all["bin"].bytes.as_slice(), all["a"].mode), (&[0xff][..], 0o644));
    let some = files_of(
        json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 256,
            "items": [{"key": "key", "path": "sub/k", "mode": 384}]}}),
        &pod,
    );
    assert_eq!(some.expect("files")["sub/k"], file("secret", 0o600));
    let projected = files_of(
        json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "audience": "x", "expirationSeconds": 600}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"secret": {"name": "none", "optional": true}}]}}),
        &pod,
    )
    .expect("files");
    assert_eq!(projected["token"], File { owner: Some(1000), ..file("tok", 0o600) });
    assert_eq!(projected["labels"].bytes, b"app=\"web\"");
    assert_eq!(projected.len(), 3);
}

#[test]
fn payload_errors_are_upstreams() {
    let pod = Pod::default();
    let cases = [
        (json!({"name": "v", "configMap": {"name": "no"}}), "configmap \"no\" not found"),
        (json!({"name": "v", "secret": {"secretName": "no"}}), "secret \"no\" not found"),
        (
            json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "zz", "path": "zz"}]}}),
            "references non-existent config key: zz",
        ),
        (
            json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
            "service account token was not asked for",
        ),
        (
            json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "../x"}]}}),
            "invalid path: \"../x\" must stay inside the volume",
        ),
    ];
    for (volume, wanted) in cases {
        assert_eq!(files_of(volume, &pod).expect_err("a refusal"), wanted);
    }
}

#[test]
fn files_change_in_one_instant() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).expect("a time");
    let first = Payload::from([("a".into(), file("1", 0o644)), ("sub/b".into(), file("2", 0o600))]);
    assert!(atomic::write(root, &first, None, at(0)).expect("written"));
    assert!(!atomic::write(root, &first, None, at(1)).expect("unchanged"));
    assert_eq!(fs::read_to_string(root.join("sub/b")).expect("readable"), "2");
    assert_eq!(fs::read_link(root.join("a")).expect("a link"), Path::new("..data/a"));
    assert_eq!(fs::metadata(root.join("sub/b")).expect("there").mode() & 0o777, 0o600);
    let old = fs::read_link(root.join("..data")).expect("a link");
    let second = Payload::from([("a".into(), file("3", 0o644)), ("c".into(), file("", 0o644))]);
    assert!(atomic::write(root, &second, None, at(2)).expect("written"));
    assert_eq!(fs::read_to_string(root.join("a")).expect("readable"), "3");
    assert!(fs::symlink_metadata(root.join("sub")).is_err(), "the old name is gone");
    assert!(!root.join(old).exists(), "the old directory is gone");
    let names = fs::read_dir(root).expect("readable").count();
    assert_eq!(names, 4, "..data, its directory, a, c");
}

#[test]
fn a_changed_mode_is_written_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |second: i64| Timestamp::from_second(second).expect("a time");
    let files = |mode| Payload::from([("a".into(), file("1", mode))]);
    assert!(atomic::write(directory.path(), &files(0o644), None, at(0)).expect("written"));
    assert!(atomic::write(directory.path(), &files(0o400), None, at(1)).expect("written"));
    assert_eq!(fs::metadata(directory.path().join("a")).expect("there").mode() & 0o777, 0o400);
}

fn spec_with(volume: Value) -> PodSpec {
    typed(json!({"containers": [], "volumes": [volume]}))
}

#[test]
fn sub_paths_stay_inside() {
    let directory = tempfile::tempdir().expect("a directory");
    let paths = Paths::new(directory.path());
    let volume = paths.volume("u1", "kubernetes.io~empty-dir", "v");
    place::make_directory(&volume, 0o777).expect("made");
    symlink("/etc", volume.join("out")).expect("linked");
    fs::create_dir(volume.join("real")).expect("made");
    symlink("real", volume.join("alias")).expect("linked");
    let spec = spec_with(json!({"name": "v", "emptyDir": {}}));
    let mount = |fields: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/data"});
        mount
            .as_object_mut()
            .expect("an object")
            .extend(fields.as_object().cloned().expect("an object"));
        let container: Container = typed(json!({"name": "a", "volumeMounts": [mount]}));
        let env = [("POD".to_owned(), "web-0".to_owned())];
        mounts::mounts(&paths, "u1", &spec, &container, &env).map(|m| m[0].clone())
    };
    let root = volume.canonicalize().expect("there");
    assert_eq!(mount(json!({"readOnly": true})).expect("a mount").source, volume);
    assert_eq!(
        mount(json!({"subPath": "new/deep"})).expect("a mount").source,
        root.join("new/deep")
    );
    assert_eq!(mount(json!({"subPath": "alias"})).expect("a mount").source, root.join("real"));
    assert_eq!(
        mount(json!({"subPathExpr": "$(POD)/x"})).expect("a mount").source,
        root.join("web-0/x")
    );
    for bad in
        [json!({"subPath": "../x"}), json!({"subPath": "out"}), json!({"subPathExpr": "$(NOPE)"})]
    {
        assert!(mount(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn host_paths_are_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let paths = Paths::new(&directory.path().join("agent"));
    let root = directory.path().display();
    fs::write(directory.path().join("file"), "x").expect("written");
    let pod = Pod::default();
    let objects = Objects::default();
    let (node, tokens) = (NodeFields::default(), BTreeMap::new());
    let sources = Sources { pod: &pod, objects: &objects, node: &node, tokens: &tokens };
    let set_up = |path: &str, kind: &str| {
        let volume: Volume = typed(
            json!({"name": "v", "hostPath": {"path": format!("{root}/{path}"), "type": kind}}),
        );
        place::set_up(&paths, "u1", &volume, &sources)
    };
    assert_eq!(set_up("none", ""), Ok(()));
    assert_eq!(set_up("file", "File"), Ok(()));
    assert_eq!(set_up("made", "DirectoryOrCreate"), Ok(()));
    assert_eq!(set_up("made", "Directory"), Ok(()));
    assert_eq!(
        set_up("file", "Directory"),
        Err(format!("hostPath type check failed: {root}/file is not a directory"))
    );
    assert_eq!(
        set_up("file", "Socket"),
        Err(format!("hostPath type check failed: {root}/file is not a socket file"))
    );
    let volume: Volume = typed(json!({"name": "v", "nfs": {"server": "s", "path": "/"}}));
    let refused = place::set_up(&paths, "u1", &volume, &sources);
    assert_eq!(refused, Err("volume kind nfs is not supported by this node".to_owned()));
}

#[test]
fn a_pod_is_removed_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let paths = Paths::new(directory.path());
    let volume = paths.volume("u1", "kubernetes.io~empty-dir", "v");
    place::make_directory(&volume.join("x"), 0o777).expect("made");
    fs::write(paths.hosts("u1"), "x").expect("written");
    place::tear_down(&paths, "u1").expect("torn down");
    assert!(!volume.exists() && paths.hosts("u1").exists());
    place::remove_pod(&paths, "u1").expect("removed");
    assert!(!paths.pod("u1").exists());
    place::remove_pod(&paths, "u1").expect("removed again");
}

/// Runs a test that mounts in a mount namespace of its own, which ends with it: also when it fails.
fn mounting(test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().expect("a directory");
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may make mount namespaces");
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).expect("mounts of its own");
        test(directory.path());
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    let table = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    assert!(!table.contains(&*directory.path().to_string_lossy()), "a mount is left");
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn roots_of_volumes_belong_to_the_group_of_the_pod() {
    mounting(|directory| {
        let paths = Paths::new(directory);
        let group = fs::metadata(directory).expect("there").gid();
        let pod: Pod = typed(json!({"spec": {"securityContext": {"fsGroup": group},
            "containers": [{"name": "a"}]}}));
        let objects = objects();
        let (node, tokens) = (NodeFields::default(), BTreeMap::new());
        let sources = Sources { pod: &pod, objects: &objects, node: &node, tokens: &tokens };
        for volume in [
            json!({"name": "v", "configMap": {"name": "cm"}}),
            json!({"name": "w", "projected": {"sources": [{"configMap": {"name": "cm"}}]}}),
            json!({"name": "x", "emptyDir": {}}),
        ] {
            let volume: Volume = typed(volume);
            place::set_up(&paths, "u1", &volume, &sources).expect("set up");
            place::set_up(&paths, "u1", &volume, &sources).expect("set up again");
            let root = place::source(&paths, "u1", &volume).expect("a directory");
            let meta = fs::metadata(root).expect("there");
            assert_eq!((meta.gid(), meta.mode() & 0o7777), (group, 0o2777), "{}", volume.name);
        }
    });
}

#[test]
fn a_pod_with_files_in_memory_is_removed_whole() {
    mounting(|directory| {
        let paths = Paths::new(directory);
        let volume = typed(json!({"name": "m", "emptyDir": {"medium": "Memory"}}));
        let (pod, objects) = (Pod::default(), Objects::default());
        let (node, tokens) = (NodeFields::default(), BTreeMap::new());
        let sources = Sources { pod: &pod, objects: &objects, node: &node, tokens: &tokens };
        place::set_up(&paths, "u1", &volume, &sources).expect("set up");
        let root = place::source(&paths, "u1", &volume).expect("a directory");
        fs::write(root.join("x"), "x").expect("written");
        assert_ne!(device(&root), device(directory), "in memory");
        place::remove_pod(&paths, "u1").expect("removed");
        assert!(!paths.pod("u1").exists());
    });
}

fn device(path: &Path) -> u64 {
    fs::metadata(path).expect("there").dev()
}
