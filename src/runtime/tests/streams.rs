//! Logs, standard input, attaching.

use std::fs;
use std::time::Duration;

use runtime::client::FdStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Node, log_lines};

#[tokio::test]
async fn long_lines_are_split_and_marked() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo end; head -c 16384 /dev/zero | tr '\\0' y; echo";
    node.run_to_end(&node.spec("a", "one", script)).await;
    let lines: Vec<(char, usize)> =
        node.log("one").into_iter().map(|(_, tag, text)| (tag, text.len())).collect();
    assert_eq!(lines, [('P', 16384), ('P', 16384), ('F', 7232), ('F', 3), ('F', 16384)]);
    node.finish().await;
}

#[tokio::test]
async fn logs_are_rotated_by_size_and_the_oldest_removed() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec(
        "a",
        "one",
        "i=0; while [ $i -lt 3000 ]; do echo line number $i; i=$((i+1)); done",
    );
    (spec.log_max_bytes, spec.log_max_files) = (20_000, 3);
    node.run_to_end(&spec).await;
    let mut files: Vec<_> = fs::read_dir(node.log_path("one").parent().unwrap())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    // 0.log sorts first and is the newest.
    files.rotate_left(1);
    let numbers: Vec<usize> = files
        .iter()
        .flat_map(|path| log_lines(path))
        .map(|(_, _, text)| text.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(*numbers.last().unwrap(), 2999);
    let gap = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
    assert_eq!(gap, None, "no line lost or out of order: {files:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_log_moved_away_is_opened_anew_on_request() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec(
        "a",
        "one",
        "echo first; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo second; sleep 600",
    ))
    .await;
    node.log_contains("one", "first").await;
    let path = node.log_path("one");
    fs::rename(&path, path.with_extension("old")).unwrap();
    node.runtime.reopen_log("one").await.unwrap();
    let touch = vec!["touch".to_owned(), "/tmp/go".to_owned()];
    node.runtime.exec_sync("one", touch, Duration::from_secs(10), 0).await.unwrap();
    node.log_contains("one", "second").await;
    assert_eq!(node.text("one"), "second\n");
    node.finish().await;
}

#[tokio::test]
async fn standard_input_ends_with_the_first_attachment_if_asked_for() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec("a", "one", "cat; echo done");
    (spec.stdin, spec.stdin_once) = (true, true);
    let mut events = node.runtime.events();
    node.run(&spec).await;
    let session = node.runtime.attach("one", true).await.unwrap();
    let mut stdin = FdStream::new(session.stdin.unwrap()).unwrap();
    let mut stdout = FdStream::new(session.stdout.unwrap()).unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello\ndone\n");
    assert_eq!(node.wait(&mut events, "one").await.exit_code, Some(0));
    assert_eq!(node.text("one"), text);
    assert!(node.runtime.attach("one", false).await.is_err(), "nothing to attach to any more");
    node.finish().await;
}

#[tokio::test]
async fn standard_input_stays_open_between_attachments() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec("a", "one", "read one; echo got $one; read two; echo got $two");
    spec.stdin = true;
    let mut events = node.runtime.events();
    node.run(&spec).await;
    for word in ["first\n", "second\n"] {
        let session = node.runtime.attach("one", true).await.unwrap();
        FdStream::new(session.stdin.unwrap()).unwrap().write_all(word.as_bytes()).await.unwrap();
        node.log_contains("one", &format!("got {}", word.trim())).await;
    }
    node.wait(&mut events, "one").await;
    node.finish().await;
}

#[tokio::test]
async fn a_container_with_a_terminal_can_be_attached_and_resized() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec("a", "one", "tty; read line; stty size; exit 5");
    (spec.tty, spec.stdin) = (true, true);
    let mut events = node.runtime.events();
    node.run(&spec).await;
    node.runtime.resize("one", 91, 33).await.unwrap();
    let session = node.runtime.attach("one", true).await.unwrap();
    let mut stdin = FdStream::new(session.stdin.unwrap()).unwrap();
    stdin.write_all(b"go\n").await.unwrap();
    assert_eq!(node.wait(&mut events, "one").await.exit_code, Some(5));
    let text = node.text("one");
    assert!(text.contains("33 91"), "{text}");
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn an_attached_reader_that_does_not_read_holds_nothing_up() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx | head -c 4000000; echo; echo end";
    let mut events = node.runtime.events();
    let mut spec = node.spec("a", "one", script);
    spec.log_max_bytes = 1_000_000;
    node.run(&spec).await;
    let session = node.runtime.attach("one", false).await.unwrap();
    let touch = vec!["touch".to_owned(), "/tmp/go".to_owned()];
    node.runtime.exec_sync("one", touch, Duration::from_secs(10), 0).await.unwrap();
    node.wait(&mut events, "one").await;
    drop(session);
    assert!(node.text("one").ends_with("end\n"));
    node.finish().await;
}

#[tokio::test]
async fn logs_are_complete_although_no_client_is_there() {
    let mut node = Node::start().await;
    node.sandbox("a").await;
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done";
    node.run(&node.spec("a", "one", script)).await;
    node.disconnect_and_connect().await;
    let mut events = node.runtime.events();
    node.wait(&mut events, "one").await;
    assert_eq!(node.log("one").len(), 2000);
    node.finish().await;
}
