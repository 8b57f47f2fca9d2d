//! A disk that is really full: a small file system of its own, mounted in a private mount namespace.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::{text, value};
use crate::{Error, Expect, ListOptions, Options, Store};

const FOLDER_VARIABLE: &str = "COPEPOD_STORE_FULL_FOLDER";

#[test]
fn a_full_file_system_can_be_emptied() {
    let folder = tempfile::tempdir().unwrap();
    // Between these sizes, the log, the file and the spare space meet the end at different moments.
    for size in ["10m", "13m", "17m"] {
        let mount = format!(
            "mount -t tmpfs -o size={size} none \"${FOLDER_VARIABLE}\" && exec \"$0\" \"$@\""
        );
        let output = in_mount_namespace(&folder, &mount);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("Operation not permitted") || said.contains("permission denied") {
            println!("not tested, this process may not mount: {said}");
            return;
        }
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{size}: {told}{said}");
    }
}

fn in_mount_namespace(folder: &tempfile::TempDir, script: &str) -> Output {
    Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["tests::full::child", "--exact", "--nocapture"])
        .env(FOLDER_VARIABLE, folder.path())
        .output()
        .unwrap()
}

#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let path = PathBuf::from(folder).join("state.db");
    let store = Store::open(Options { path: Some(path.clone()), ..Options::default() }).unwrap();
    let big = "x".repeat(5000);
    let mut written = Vec::new();
    let refused = loop {
        let key = format!("/k/{:05}", written.len());
        match store.put(&key, Expect::Absent, value(&big)).await {
            Ok(_) => written.push(key),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(written.len() > 50, "{}", written.len());
    // An object is marked before it is deleted.
    for key in &written[..10] {
        store.put(key, Expect::Any, value(&format!("{big} marked"))).await.unwrap();
        store.delete(key, Expect::Any).await.unwrap();
    }
    written.drain(..10);
    store.put(&written[0], Expect::Any, value("small")).await.unwrap();
    assert_eq!(keys(&store).await, written);
    store.close().await;

    let store = Store::open(Options { path: Some(path), ..Options::default() }).unwrap();
    assert_eq!(keys(&store).await, written);
    assert_eq!(text(&store.get(&written[0]).await.unwrap().unwrap()), "small");
    for key in written {
        store.delete(&key, Expect::Any).await.unwrap();
    }
    store.put("/k/new", Expect::Absent, value(&big)).await.unwrap();
    store.close().await;
}

async fn keys(store: &Store) -> Vec<String> {
    let page = store.list("/k/", ListOptions::default()).await.unwrap();
    page.entries.iter().map(|entry| entry.key.to_string()).collect()
}
