//! A process that works on a store, killed with SIGKILL again and again.
//!
//! The test starts itself as a child. The child works on the store with several tasks at once and writes down on its
//! standard output what it tries, what it was answered, and what its watches and lists show. The parent kills it at a
//! random moment (sometimes it lets it close cleanly), reads what it wrote, and judges it (`verdict.rs`) against a model
//! that knows nothing of how the store works.
//!
//! `COPEPOD_STORE_SECONDS` makes it a soak, `COPEPOD_STORE_SEED` repeats a choice of operations.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;

use super::verdict::Judge;
use super::{by_prefix, text};
use crate::{
    Entry, Error, EventKind, Expect, ListOptions, NewValue, Options, Revision, Store, Watch,
};

const SECONDS_DEFAULT: u64 = 4;
/// The child works until it has seen so many runs at least, even if the time is over.
const RUNS_MIN: u64 = 4;
const WRITERS: u64 = 6;
const WATCHERS: u64 = 3;
const RANGES: [&str; 5] = ["/", "/disk/", "/memory/", "/disk/t1/", "/disk/shared"];
/// What marks the lines of the child among those of the test runner.
const MARK: &str = "@ ";

const FOLDER_VARIABLE: &str = "COPEPOD_STORE_CHILD_FOLDER";
const RUN_VARIABLE: &str = "COPEPOD_STORE_CHILD_RUN";
const SEED_VARIABLE: &str = "COPEPOD_STORE_SEED";
const WRITES_VARIABLE: &str = "COPEPOD_STORE_CHILD_WRITES";
const SECONDS_VARIABLE: &str = "COPEPOD_STORE_SECONDS";

#[test]
fn nothing_acknowledged_is_lost_when_killed() {
    let seed = number(SEED_VARIABLE)
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let time = Duration::from_secs(number(SECONDS_VARIABLE).unwrap_or(SECONDS_DEFAULT));
    println!("{SEED_VARIABLE}={seed} {SECONDS_VARIABLE}={}", time.as_secs());
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let mut judge = Judge::default();
    let start = Instant::now();
    let mut run = 0;
    let mut before = Vec::new();
    while start.elapsed() < time || run < RUNS_MIN {
        run += 1;
        let clean = random.below(4) == 0;
        let scale = 6 + random.below(8);
        let lines = 50 + random.below(1 << scale);
        let journal = work(folder.path(), run, random.next(), (!clean).then_some(lines));
        judge.hear(&journal, clean).unwrap_or_else(|wrong| {
            let kept = std::env::temp_dir().join(format!("copepod-store-journal-{seed}"));
            std::fs::write(&kept, [before.join("\n"), journal.join("\n")].join("\n")).unwrap();
            panic!("run {run}: {wrong} (seed {seed}, last journals in {})", kept.display())
        });
        before = journal;
    }
    println!("{run} runs, {}", judge.summary());
}

/// Runs a child, kills it after so many lines, and returns all it wrote.
fn work(folder: &Path, run: u64, seed: u64, kill_after: Option<u64>) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["tests::model::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER_VARIABLE, folder)
        .env(RUN_VARIABLE, run.to_string())
        .env(SEED_VARIABLE, seed.to_string())
        .env_remove(WRITES_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if kill_after.is_none() {
        command.env(WRITES_VARIABLE, (seed % 200).to_string());
    }
    let mut child = Ended(command.spawn().unwrap());
    let mut output = BufReader::new(child.0.stdout.take().unwrap());
    let mut journal = Vec::new();
    let mut line = String::new();
    // A last line without an end was cut off in the middle: what it announced did not begin.
    while output.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        if let Some((_, said)) = line.trim_end().split_once(MARK) {
            journal.push(said.to_owned());
        }
        line.clear();
        if kill_after == Some(journal.len() as u64) {
            child.0.kill().unwrap();
        }
    }
    let status = child.0.wait().unwrap();
    if kill_after.is_none() {
        assert!(status.success(), "run {run} with seed {seed} ended with {status}");
    } else {
        assert_eq!(status.code(), None, "run {run} with seed {seed} ended by itself");
    }
    journal
}

/// Kills the child if the test fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It is dead already if all went well.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(live(PathBuf::from(folder)));
}

async fn live(folder: PathBuf) {
    let run = number(RUN_VARIABLE).unwrap();
    let mut random = Random(number(SEED_VARIABLE).unwrap());
    println!();
    let store = Store::open(Options {
        path: Some(folder.join("state.db")),
        durability: by_prefix,
        history_events_max: 1000,
        cache_bytes_max: 5000,
        ..Options::default()
    });
    let store = store.unwrap();
    say(format!("open {}", store.revision()));
    for entry in store.list("/", ListOptions::default()).await.unwrap().entries {
        say(format!("found {} {} {}", entry.key, entry.modified, id_of(&entry)));
    }
    say("ready".to_owned());
    let sessions = Arc::new(AtomicU64::new(1));
    let mut readers = JoinSet::new();
    // Number 0 watches everything from the first write on.
    let all = session(&store, 0, "/", store.revision()).unwrap().unwrap();
    readers.spawn(async move { drop(follow(all, 0, u64::MAX).await) });
    for _ in 0..WATCHERS {
        readers.spawn(watch_parts(store.clone(), Random(random.next()), sessions.clone()));
    }
    readers.spawn(list_parts(store.clone(), Random(random.next())));
    let mut writers = JoinSet::new();
    let writes = number(WRITES_VARIABLE).unwrap_or(u64::MAX);
    for task in 0..WRITERS {
        writers.spawn(write(store.clone(), Random(random.next()), run, task, writes));
    }
    writers.join_all().await;
    store.close().await;
    readers.join_all().await;
    say("closed".to_owned());
}

/// Writes and deletes keys of its own, and a few that all share.
async fn write(store: Store, mut random: Random, run: u64, task: u64, writes: u64) {
    let mut own: BTreeMap<String, Option<Revision>> = BTreeMap::new();
    for key in 0..8 {
        let class = if key < 5 { "disk" } else { "memory" };
        let key = format!("/{class}/t{task}/k{key}");
        let found = store.get(&key).await.unwrap();
        own.insert(key, found.map(|entry| entry.modified));
    }
    for count in 0..writes {
        let shared = random.below(8) == 0;
        let key = match random.below(10) {
            key if shared => format!("/disk/shared{}", if key < 8 { "" } else { "/other" }),
            key => own.keys().nth(key as usize % own.len()).unwrap().clone(),
        };
        let current = if shared { modified(&store, &key).await } else { own[&key] };
        let right = current.map_or(Expect::Absent, Expect::Modified);
        let expect = match random.below(10) {
            // Never right: a key only goes up.
            0 => Expect::Modified(current.map_or(0, |revision| revision - 1)),
            1..4 if !shared => Expect::Any,
            _ => right,
        };
        let value =
            (random.below(10) > 2).then(|| content(&format!("{run}.{task}.{count}"), &mut random));
        say(format!("try {task} {key} {}", value.as_ref().map_or("-", |(id, _)| id)));
        let answer = match value {
            Some((_, value)) => {
                store.put(&key, expect, value).await.map(|entry| (entry.modified, Some(entry)))
            }
            None => store.delete(&key, expect).await.map(|(_, revision)| (revision, None)),
        };
        match answer {
            Ok((revision, entry)) => {
                if expect != Expect::Any && expect != right {
                    say(format!(
                        "wrong success on {key}, expected was {expect:?}, known is {current:?}"
                    ));
                }
                entry.iter().for_each(|entry| drop(id_of(entry)));
                say(format!("done {task} {revision}"));
                own.entry(key).and_modify(|known| *known = entry.map(|entry| entry.modified));
            }
            Err(Error::Conflict { current: found }) => {
                let found = found.map(|entry| entry.modified);
                if !shared && (expect == Expect::Any && current.is_some() || found != current) {
                    say(format!("wrong conflict on {key} at {found:?}, known is {current:?}"));
                }
                say(format!("no {task}"));
            }
            Err(error) => say(format!("wrong {error}")),
        }
    }
}

async fn modified(store: &Store, key: &str) -> Option<Revision> {
    store.get(key).await.unwrap().map(|entry| entry.modified)
}

fn content(id: &str, random: &mut Random) -> (String, NewValue) {
    let start = format!("{id} ");
    let bytes = format!("{start} {}", "x".repeat(random.below(1000) as usize)).into();
    (id.to_owned(), NewValue { bytes, stamp: Some(start.len()) })
}

/// The identity of a value; complains if it does not carry the revision of its entry.
fn id_of(entry: &Entry) -> String {
    let mut words = text(entry).split(' ');
    let (id, stamp) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if stamp != entry.modified.to_string() {
        say(format!("wrong stamp {stamp} on {} at {}", entry.key, entry.modified));
    }
    id.to_owned()
}

async fn watch_parts(store: Store, mut random: Random, sessions: Arc<AtomicU64>) {
    loop {
        let range = RANGES[random.below(RANGES.len() as u64) as usize];
        let after = store.revision().saturating_sub(random.below(300));
        let number = sessions.fetch_add(1, Ordering::Relaxed);
        let count = 1 + random.below(300);
        let went_on = match session(&store, number, range, after) {
            Ok(Some(watch)) => follow(watch, number, count).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match went_on {
            Ok(()) => {}
            Err(Error::Closed) => return,
            Err(error) => return say(format!("wrong {error}")),
        }
    }
}

/// Starts a watch, unless the change log has gone on.
fn session(
    store: &Store,
    number: u64,
    range: &str,
    after: Revision,
) -> Result<Option<Watch>, Error> {
    let watch = match store.watch(range, after) {
        Ok(watch) => watch,
        Err(Error::Compacted { oldest }) if oldest > after => return Ok(None),
        Err(error) => return Err(error),
    };
    say(format!("watch {number} {range} {after}"));
    Ok(Some(watch))
}

/// Reads a watch until so many events were seen, or it fell behind.
async fn follow(mut watch: Watch, number: u64, count: u64) -> Result<(), Error> {
    let mut seen = 0;
    while seen < count {
        let events = match watch.next().await {
            Ok(events) => events,
            Err(Error::Lagged) => return Ok(()),
            Err(error) => return Err(error),
        };
        for event in &events {
            let previous = event.previous.as_ref().map_or(0, |previous| {
                drop(id_of(previous));
                previous.modified
            });
            let id =
                if event.kind == EventKind::Put { id_of(&event.entry) } else { "-".to_owned() };
            let entry = &event.entry;
            say(format!("saw {number} {} {} {id} {previous}", entry.modified, entry.key));
        }
        seen += events.len() as u64;
        say(format!("at {number} {}", watch.progress()));
    }
    Ok(())
}

/// Lists ranges page by page, all pages at the revision of the first, whenever something has happened.
async fn list_parts(store: Store, mut random: Random) {
    let Ok(mut watch) = store.watch("/", store.revision()) else { return };
    loop {
        match watch.next().await {
            Ok(_) => {}
            Err(Error::Lagged) => match store.watch("/", store.revision()) {
                Ok(again) => watch = again,
                Err(_) => return,
            },
            Err(_) => return,
        }
        let range = RANGES[random.below(RANGES.len() as u64) as usize];
        let mut options =
            ListOptions { limit: 1 + random.below(30) as usize, ..ListOptions::default() };
        let mut listed = String::new();
        let complete = loop {
            let page = match store.list(range, options.clone()).await {
                Ok(page) => page,
                Err(Error::Compacted { .. }) => break false,
                Err(Error::Closed) => return,
                Err(error) => return say(format!("wrong {error}")),
            };
            for entry in &page.entries {
                listed += &format!(" {}={}={}", entry.key, entry.modified, id_of(entry));
            }
            options.at = Some(page.revision);
            options.after = page.entries.last().map(|entry| entry.key.to_string());
            if page.remaining == 0 {
                break true;
            }
            tokio::task::yield_now().await;
        };
        if let Some(revision) = options.at.filter(|_| complete) {
            say(format!("page {revision} {range}{listed}"));
        }
    }
}

/// One line to the parent, in one piece.
fn say(line: String) {
    let mut output = std::io::stdout().lock();
    let written =
        output.write_all(format!("{MARK}{line}\n").as_bytes()).and_then(|()| output.flush());
    if written.is_err() {
        // Nobody listens any more.
        std::process::exit(1);
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
