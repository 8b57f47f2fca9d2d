//! Logs on real files: tails over rotated files, partial lines, following.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::FutureExt;

use super::line::parse;
use super::read::Reader;
use super::*;

fn entry(second: u32, stream: &str, tag: &str, text: &str) -> String {
    format!("2026-11-22T10:00:{second:02}.000000001Z {stream} {tag} {text}\n")
}

/// A log of three files, the newest last.
fn rotated(directory: &Path) -> PathBuf {
    let log = directory.join("0.log");
    let write = |name: &str, text: String| fs::write(directory.join(name), text).expect("written");
    write(
        "0.log.20261122-100000-000000001",
        entry(1, "stdout", "F", "one") + &entry(2, "stderr", "F", "two"),
    );
    write(
        "0.log.20261122-100003-000000001",
        entry(3, "stdout", "P", "thr") + &entry(3, "stdout", "F", "ee"),
    );
    write("0.log", entry(4, "stdout", "F", "four") + &entry(5, "stdout", "F", ""));
    write("1.log", entry(9, "stdout", "F", "another attempt"));
    log
}

async fn read(log: &Path, options: Options) -> String {
    let chunks: Vec<_> = stream(log, options, std::future::pending().boxed()).collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|c| c.expect("readable").to_vec()).collect();
    String::from_utf8(bytes).expect("text")
}

#[test]
fn entries_are_taken_apart() {
    let whole = parse(b"2026-11-22T10:00:00Z stderr F a b  c").expect("an entry");
    assert_eq!((whole.stream, whole.partial, whole.text), ("stderr", false, &b"a b  c"[..]));
    assert!(parse(b"2026-11-22T10:00:00Z stdout P x").expect("an entry").partial);
    assert!(parse(b"2026-11-22T10:00:00Z stdout F").expect("an entry").text.is_empty());
    for damaged in [
        &b""[..],
        b"nonsense",
        b"2026-11-22T10:00:00Z stdin F x",
        b"2026-11-22T10:00:00Z stdout X x",
    ] {
        assert_eq!(parse(damaged), None);
    }
}

#[tokio::test]
async fn all_files_are_read_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = rotated(directory.path());
    assert_eq!(read(&log, Options::default()).await, "one\ntwo\nthree\nfour\n\n");
    let tail = |lines| read(&log, Options { tail: Some(lines), ..Options::default() });
    assert_eq!(tail(0).await, "");
    assert_eq!(tail(2).await, "four\n\n");
    assert_eq!(tail(3).await, "ee\nfour\n\n");
    assert_eq!(tail(5).await, "two\nthree\nfour\n\n");
    assert_eq!(tail(100).await, "one\ntwo\nthree\nfour\n\n");
    let since = "2026-11-22T10:00:03Z".parse().ok();
    assert_eq!(read(&log, Options { since, ..Options::default() }).await, "three\nfour\n\n");
    let limited = Options { limit_bytes: Some(6), ..Options::default() };
    assert_eq!(read(&log, limited).await, "one\ntw");
    let errors = Options { stream: Wanted::Stderr, ..Options::default() };
    assert_eq!(read(&log, errors).await, "two\n");
    let stamped = Options { timestamps: true, tail: Some(4), ..Options::default() };
    assert!(
        read(&log, stamped)
            .await
            .starts_with("2026-11-22T10:00:03.000000001Z three\n2026-11-22T10:00:04")
    );
    assert_eq!(read(&directory.path().join("7.log"), Options::default()).await, "");
}

#[test]
fn the_end_of_a_log_as_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = rotated(directory.path());
    assert_eq!(tail_text(&log, 2, 100), "four\n\n");
    assert_eq!(tail_text(&log, 80, 7), "\nfour\n\n");
    assert_eq!(tail_text(Path::new("/nowhere/0.log"), 80, 7), "");
}

#[test]
fn long_tails_cross_blocks() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("0.log");
    let text: String = (0..5000)
        .map(|n| entry(0, "stdout", "F", &format!("line {n} {}", "x".repeat(60))))
        .collect();
    fs::write(&log, text).expect("written");
    let last = tail_text(&log, 3000, usize::MAX);
    assert_eq!(last.lines().count(), 3000);
    assert!(last.starts_with("line 2000 "));
}

fn append(log: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(log).expect("opened");
    file.write_all(text.as_bytes()).expect("written");
}

#[tokio::test]
async fn following_sees_new_lines_rotation_and_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("0.log");
    append(&log, &entry(1, "stdout", "F", "one"));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let options = Options { follow: true, ..Options::default() };
    let mut stream = stream(&log, options, async move { drop(ended.await) }.boxed());
    let mut next = async || {
        let item =
            tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
        item.map(|c| String::from_utf8(c.expect("readable").to_vec()).expect("text"))
    };
    assert_eq!(next().await.as_deref(), Some("one\n"));
    append(&log, "2026-11-22T10:00:02Z stdout F tw");
    append(&log, "o\n");
    assert_eq!(next().await.as_deref(), Some("two\n"));
    append(&log, &entry(3, "stdout", "F", "three"));
    fs::rename(&log, directory.path().join("0.log.20261122-100003-000000000")).expect("renamed");
    append(&log, &entry(4, "stdout", "F", "four"));
    let mut text = String::new();
    while text != "three\nfour\n" {
        text.push_str(&next().await.expect("more"));
    }
    append(&log, &entry(5, "stdout", "F", "five"));
    drop(end);
    assert_eq!(next().await.as_deref(), Some("five\n"));
    assert_eq!(next().await, None);
}

/// A reader with what it has read so far, and a writer that rotates as the runtime does.
struct Rotation {
    directory: tempfile::TempDir,
    log: PathBuf,
    reader: Reader,
    text: String,
    rotations: u32,
}

impl Rotation {
    fn new() -> Rotation {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("0.log");
        append(&log, &entry(0, "stdout", "F", "first"));
        let options = Options { follow: true, ..Options::default() };
        let reader = Reader::open(&log, &options).expect("opened");
        Rotation { directory, log, reader, text: String::new(), rotations: 0 }
    }

    fn write(&self, text: &str) {
        append(&self.log, &entry(1, "stdout", "F", text));
    }

    fn rotate(&mut self) {
        self.rotations += 1;
        let name = format!("0.log.20261122-100000-{:09}", self.rotations);
        fs::rename(&self.log, self.directory.path().join(name)).expect("renamed");
    }

    /// Removes the oldest rotated file.
    fn prune(&self) {
        fs::remove_file(files(&self.log).first().expect("a file")).expect("removed");
    }

    fn read(&mut self) -> String {
        loop {
            let chunk = self.reader.chunk().expect("readable");
            if chunk.is_empty() {
                return std::mem::take(&mut self.text);
            }
            self.text.push_str(&String::from_utf8(chunk).expect("text"));
        }
    }
}

#[test]
fn no_file_is_lost_or_read_twice_while_logs_rotate() {
    let mut log = Rotation::new();
    assert_eq!(log.read(), "first\n");
    log.write("before");
    log.rotate();
    assert_eq!(log.read(), "before\n", "the new file is not there yet");
    log.write("one");
    log.rotate();
    log.write("two");
    log.rotate();
    log.write("three");
    assert_eq!(log.read(), "one\ntwo\nthree\n");
    log.rotate();
    log.write("four");
    log.rotate();
    log.write("five");
    for _ in 0..4 {
        log.prune(); // the one being read too
    }
    assert_eq!(log.read(), "four\nfive\n");
    assert_eq!(log.read(), "");
    fs::remove_file(&log.log).expect("removed");
    assert_eq!(log.read(), "", "what is left of a removed log is not read again");
}

#[test]
fn rotation_in_the_middle_of_older_files() {
    let mut log = Rotation::new();
    for name in 0..3 {
        log.rotate();
        log.write(&format!("{name} {}", "x".repeat(40 << 10)));
    }
    let mut text = String::from_utf8(log.reader.chunk().expect("readable")).expect("text");
    log.rotate();
    log.write("last");
    text.push_str(&log.read());
    let starts: Vec<&str> = text.lines().map(|l| l.get(..2).unwrap_or(l)).collect();
    assert_eq!(starts, ["fi", "0 ", "1 ", "2 ", "la"]);
}

#[test]
fn nothing_is_lost_beside_a_writer_that_rotates_all_the_time() {
    const LINES: u32 = 3000;
    let mut log = Rotation::new();
    let (path, directory) = (log.log.clone(), log.directory.path().to_owned());
    let writer = std::thread::spawn(move || {
        for line in 0..LINES {
            append(&path, &entry(1, "stdout", "F", &line.to_string()));
            if line % 7 == 0 {
                let name = format!("0.log.20261122-100000-{line:09}");
                fs::rename(&path, directory.join(name)).expect("renamed");
            }
        }
    });
    let mut text = String::new();
    while !writer.is_finished() {
        text.push_str(&log.read());
    }
    writer.join().expect("written");
    text.push_str(&log.read());
    let wanted: String = (0..LINES).map(|line| format!("{line}\n")).collect();
    assert_eq!(text, format!("first\n{wanted}"));
}
