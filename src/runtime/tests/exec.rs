//! Commands in running containers.

use std::time::Duration;

use runtime::client::FdStream;
use runtime::protocol::ExecSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Node, eventually};

const DEADLINE: Duration = Duration::from_secs(20);
const LIMIT: usize = 1 << 20;

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_command_gives_output_and_exit_code() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec("a", "one", "sleep 600");
    spec.env = vec![("COLOUR".to_owned(), "blue".to_owned())];
    spec.cwd = "/srv/made".to_owned();
    node.run(&spec).await;
    let output = node
        .runtime
        .exec_sync("one", sh("echo $COLOUR; pwd; echo bad >&2; exit 9"), DEADLINE, LIMIT)
        .await
        .unwrap();
    assert_eq!(output.code, Some(9));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "blue\n/srv/made\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "bad\n");
    let killed = node.runtime.exec_sync("one", sh("kill -9 $$"), DEADLINE, LIMIT).await.unwrap();
    assert_eq!(killed.code, Some(137));
    let error = node
        .runtime
        .exec_sync("one", vec!["nonesuch".to_owned()], DEADLINE, LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(r#"exec: "nonesuch": executable file not found in $PATH"#), "{error}");
    assert!(
        node.runtime
            .exec_sync("two", sh("true"), DEADLINE, LIMIT)
            .await
            .unwrap_err()
            .is_not_found()
    );
    node.finish().await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "one", "sleep 600")).await;
    let short = Duration::from_millis(300);
    let output = node
        .runtime
        .exec_sync("one", sh("echo early; exec sleep 600"), short, LIMIT)
        .await
        .unwrap();
    assert_eq!((output.code, output.stdout.as_slice()), (None, b"early\n".as_slice()));
    node.finish().await;
}

#[tokio::test]
async fn input_reaches_the_command() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "one", "sleep 600")).await;
    let spec = ExecSpec { args: sh("cat; exit 4"), stdin: true, ..ExecSpec::default() };
    let session = node.runtime.exec("one", &spec).await.unwrap();
    let mut stdin = FdStream::new(session.stdin.unwrap()).unwrap();
    let mut stdout = FdStream::new(session.stdout.unwrap()).unwrap();
    stdin.write_all(b"through the pipe").await.unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "through the pipe");
    assert_eq!(node.runtime.exec_wait(session.id).await.unwrap(), 4);
    assert!(node.runtime.exec_wait(session.id).await.unwrap_err().is_not_found(), "told once");
    node.finish().await;
}

#[tokio::test]
async fn no_signal_is_ignored_to_begin_with() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "one", "sleep 600")).await;
    let command = ["grep", "SigIgn", "/proc/self/status"].map(str::to_owned).to_vec();
    let output = node.runtime.exec_sync("one", command, DEADLINE, LIMIT).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mask = text.split_whitespace().last().and_then(|hex| u64::from_str_radix(hex, 16).ok());
    // Those above are the C library's own.
    assert_eq!(mask.map(|mask| mask & 0x7fff_ffff), Some(0), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn a_command_with_a_terminal_has_its_size_and_can_be_resized() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "one", "sleep 600")).await;
    let script = "stty size; read a; stty size; exit 6";
    let spec = ExecSpec {
        args: sh(script),
        tty: true,
        stdin: true,
        size: Some((100, 30)),
        ..ExecSpec::default()
    };
    let session = node.runtime.exec("one", &spec).await.unwrap();
    assert!(session.stderr.is_none());
    let mut input = FdStream::new(session.stdin.unwrap()).unwrap();
    let mut output = FdStream::new(session.stdout.unwrap()).unwrap();
    node.runtime.resize_exec(session.id, 120, 40).await.unwrap();
    input.write_all(b"go\n").await.unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).await.unwrap();
    // The first answer depends on which was faster.
    assert!(text.ends_with("40 120\r\n"), "{text:?}");
    assert_eq!(node.runtime.exec_wait(session.id).await.unwrap(), 6);
    node.finish().await;
}

#[tokio::test]
async fn commands_run_side_by_side_and_end_with_their_container() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut events = node.runtime.events();
    node.run(&node.spec("a", "one", "sleep 600")).await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..8 {
        let runtime = node.runtime.clone();
        running.spawn(async move {
            let output = runtime
                .exec_sync("one", sh(&format!("echo {number}; exit {number}")), DEADLINE, LIMIT)
                .await
                .unwrap();
            assert_eq!(
                (output.code, output.stdout),
                (Some(number), format!("{number}\n").into_bytes())
            );
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let session = node
        .runtime
        .exec("one", &ExecSpec { args: sh("sleep 600"), ..ExecSpec::default() })
        .await
        .unwrap();
    node.runtime.kill_all("one").await.unwrap();
    node.wait(&mut events, "one").await;
    assert_eq!(node.runtime.exec_wait(session.id).await.unwrap(), 137);
    node.finish().await;
}

#[tokio::test]
async fn a_terminal_hangs_up_when_its_client_leaves() {
    let mut node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "one", "sleep 600")).await;
    let spec = ExecSpec { args: sh("sleep 601"), tty: true, stdin: true, ..ExecSpec::default() };
    let session = node.runtime.exec("one", &spec).await.unwrap();
    drop(session);
    node.disconnect_and_connect().await;
    let pids = || {
        let pid = node.init_pid("one");
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default()
    };
    eventually("only the container's own program is left", || node.processes("one").len() == 1)
        .await;
    assert_eq!(pids(), "");
    node.finish().await;
}
