//! What only a store with a file does: durability, restart, damage, lack of space.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{by_prefix, text, value};
use crate::{Error, Expect, ListOptions, Options, Revision, Store};

fn options(path: &Path) -> Options {
    Options { path: Some(path.to_owned()), durability: by_prefix, ..Options::default() }
}

fn refusal(path: &Path) -> String {
    match Store::open(options(path)) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Everything about the files that a write would change.
fn traces(path: &Path) -> Vec<(u64, std::time::SystemTime, Vec<u8>)> {
    let trace = |path: PathBuf| {
        let data = path.metadata().unwrap();
        (data.len(), data.modified().unwrap(), fs::read(path).unwrap())
    };
    [path.to_owned(), with_suffix(path, "-wal")].map(trace).to_vec()
}

async fn put(store: &Store, key: &str, content: &str) -> Revision {
    store.put(key, Expect::Any, value(content)).await.unwrap().modified
}

async fn keys(store: &Store) -> Vec<String> {
    let page = store.list("/disk/", ListOptions::default()).await.unwrap();
    page.entries.iter().map(|entry| entry.key.to_string()).collect()
}

#[tokio::test]
async fn durable_keys_outlive_the_process_and_memory_keys_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/state.db");
    let store = Store::open(options(&path)).unwrap();
    let first = store.put("/disk/a", Expect::Any, value("1")).await.unwrap();
    let second = store.put("/disk/a", Expect::Any, value("2")).await.unwrap();
    put(&store, "/disk/b", "gone").await;
    store.delete("/disk/b", Expect::Any).await.unwrap();
    let last = put(&store, "/memory/a", "1").await;
    store.close().await;

    let store = Store::open(options(&path)).unwrap();
    let page = store.list("/", ListOptions::default()).await.unwrap();
    assert_eq!(page.entries, [second]);
    assert_eq!(page.entries[0].created, first.created);
    assert_eq!(store.revision(), last + 1, "a clean close gives the reserved revisions back");
    assert!(put(&store, "/memory/a", "1").await > last + 1);
    for after in [first.modified, last] {
        let error = store.watch("/", after).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Compacted { oldest } if oldest == last + 1), "{error}");
    }
    store.watch("/", last + 1).unwrap();
    store.close().await;
}

#[tokio::test]
async fn memory_writes_and_reads_leave_the_disk_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(options(&path)).unwrap();
    put(&store, "/disk/a", "1").await;
    let before = traces(&path);
    for number in 0..500 {
        put(&store, &format!("/memory/{}", number % 7), "beat").await;
        store.get("/disk/a").await.unwrap();
    }
    store.delete("/memory/1", Expect::Any).await.unwrap();
    assert!(traces(&path) == before, "something was written");
    store.close().await;
}

#[tokio::test]
async fn an_open_and_a_close_without_writes_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(options(&path)).unwrap();
    put(&store, "/disk/a", "1").await;
    store.close().await;
    let before = fs::read(&path).unwrap();
    for _ in 0..2 {
        let store = Store::open(options(&path)).unwrap();
        assert_eq!(text(&store.get("/disk/a").await.unwrap().unwrap()), "1");
        store.close().await;
    }
    let after = fs::read(&path).unwrap();
    let changed: Vec<_> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
    assert!(changed.is_empty() && after.len() == before.len(), "changed at {changed:?}");
}

#[tokio::test]
async fn a_clean_close_leaves_one_private_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(options(&path)).unwrap();
    put(&store, "/disk/a", "1").await;
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let mode = with_suffix(&path, suffix).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
    store.close().await;
    assert!(!with_suffix(&path, "-wal").exists());
}

#[tokio::test]
async fn one_file_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(options(&path)).unwrap();
    assert_eq!(refusal(&path), format!("database {} is in use by another process", path.display()));
    store.close().await;
    Store::open(options(&path)).unwrap().close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    fs::write(&path, "this is a note of somebody, long enough to be looked at".repeat(200))
        .unwrap();
    let said = refusal(&path);
    assert!(said.starts_with(&format!("database {} is corrupt: ", path.display())), "{said}");

    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let said = refusal(&foreign);
    assert!(said.contains("foreign.db: it is a database of another program"), "{said}");

    let below = path.join("state.db");
    let said = refusal(&below);
    assert!(said.starts_with(&format!("cannot open database {}", below.display())), "{said}");
    let said = refusal(folder.path());
    assert!(
        said.starts_with(&format!("cannot open database {}", folder.path().display())),
        "{said}"
    );
}

#[tokio::test]
async fn damage_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(options(&path)).unwrap();
    for number in 0..200 {
        put(&store, &format!("/disk/{number}"), &"v".repeat(500)).await;
    }
    store.close().await;
    let whole = fs::read(&path).unwrap();
    let named = format!("database {} is corrupt: ", path.display());

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let said = refusal(&path);
    assert!(said.starts_with(&named), "{said}");

    let mut scratched = whole.clone();
    for page in scratched.chunks_mut(4096).skip(3) {
        page[..64].fill(0xaa);
    }
    fs::write(&path, &scratched).unwrap();
    let said = refusal(&path);
    assert!(said.starts_with(&named), "{said}");

    fs::write(&path, &whole).unwrap();
    let store = Store::open(options(&path)).unwrap();
    assert_eq!(store.list("/disk/", ListOptions::default()).await.unwrap().entries.len(), 200);
    store.close().await;
}

#[tokio::test]
async fn a_key_that_is_there_twice_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Store::open(options(&path)).unwrap().close().await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "INSERT INTO entries VALUES (5, '/disk/a', 5, x'31'), (6, '/disk/a', 6, x'32')",
        )
        .unwrap();
    connection.close().unwrap();
    assert_eq!(
        refusal(&path),
        format!("database {} is corrupt: /disk/a is there twice", path.display())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let capped = Options { disk_bytes_max: 256 << 10, ..options(&path) };
    let store = Store::open(capped.clone()).unwrap();
    let big: Arc<str> = "x".repeat(5000).into();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (store, big) = (store.clone(), big.clone());
        writers.spawn(async move {
            let key = format!("/disk/{number}");
            store.put(&key, Expect::Absent, value(&big)).await.map(|entry| entry.key.to_string())
        });
    }
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    while let Some(answer) = writers.join_next().await {
        match answer.unwrap() {
            Ok(key) => acknowledged.push(key),
            Err(error @ Error::Full { .. }) => {
                assert!(error.to_string().contains("state.db"), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(acknowledged.len() > 20 && refused > 20, "{} and {refused}", acknowledged.len());
    put(&store, "/memory/a", "still works").await;
    for key in acknowledged.drain(..10) {
        store.delete(&key, Expect::Any).await.unwrap();
    }
    put(&store, "/disk/small", "fits again").await;
    acknowledged.push("/disk/small".to_owned());
    acknowledged.sort();
    assert_eq!(keys(&store).await, acknowledged);
    store.close().await;
    let store = Store::open(capped).unwrap();
    assert_eq!(keys(&store).await, acknowledged);
    store.close().await;
}

#[tokio::test]
async fn deleted_space_goes_back_to_the_file_system_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(options(&path)).unwrap();
    let big = "x".repeat(50_000);
    for number in 0..100 {
        put(&store, &format!("/disk/{number}"), &big).await;
    }
    for number in 0..100 {
        store.delete(&format!("/disk/{number}"), Expect::Any).await.unwrap();
    }
    for number in 0..40 {
        put(&store, "/disk/last", &number.to_string()).await;
    }
    store.close().await;
    let size = path.metadata().unwrap().len();
    assert!(size < 2 << 20, "{size} bytes are left of 5 MB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_come_back_from_the_file_while_they_change() {
    const KEYS: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let small = Options { cache_bytes_max: 500, ..options(&folder.path().join("state.db")) };
    let store = Store::open(small).unwrap();
    for key in 0..KEYS {
        put(&store, &format!("/disk/{key}"), "0").await;
    }
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 1..30 {
                for key in 0..KEYS {
                    put(&store, &format!("/disk/{key}"), &format!("{round:0100}")).await;
                }
            }
        }
    });
    let mut newest = vec![0; KEYS];
    let mut rounds = 0;
    while !writer.is_finished() || rounds < 3 {
        rounds += 1;
        let page = store.list("/disk/", ListOptions::default()).await.unwrap();
        assert_eq!(page.entries.len(), KEYS);
        assert!(page.entries.iter().all(|entry| entry.modified <= page.revision));
        for (key, newest) in newest.iter_mut().enumerate() {
            let entry = store.get(&format!("/disk/{key}")).await.unwrap().unwrap();
            let round: u64 = text(&entry).parse().unwrap();
            assert!(round >= *newest, "a read went back in time");
            *newest = round;
        }
    }
    writer.await.unwrap();
    assert!(newest.iter().all(|round| *round == 29) || rounds > 1);
    store.close().await;
}

#[tokio::test]
async fn a_key_that_became_memory_only_leaves_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store =
        Store::open(Options { durability: |_| crate::Durability::Durable, ..options(&path) })
            .unwrap();
    put(&store, "/memory/a", "1").await;
    put(&store, "/disk/a", "1").await;
    store.close().await;
    for _ in 0..2 {
        let store = Store::open(options(&path)).unwrap();
        assert_eq!(store.list("/", ListOptions::default()).await.unwrap().entries.len(), 1);
        store.close().await;
    }
    let rows: i64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM entries", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn revisions_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(options(&path)).unwrap();
    let last = put(&store, "/disk/a", "1").await;
    store.close().await;
    let store = Store::open(Options { skip_revisions: 1000, ..options(&path) }).unwrap();
    assert_eq!(store.revision(), last + 1001);
    assert_eq!(keys(&store).await, ["/disk/a"]);
    store.close().await;
    let store = Store::open(options(&path)).unwrap();
    assert_eq!(store.revision(), last + 1001, "once");
    store.close().await;
}
