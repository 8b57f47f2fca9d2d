//! The runtime process killed, replaced, or asked for twice.

use runtime::client::FdStream;
use runtime::protocol::{Event, ExecSpec, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Node, kill};

/// Announces itself, then goes on when the file appears.
const TWO_STEPS: &str =
    "echo before; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo after; exit 3";

async fn go(node: &Node, id: &str) {
    let touch = ["touch", "/tmp/go"].map(str::to_owned).to_vec();
    let output =
        node.runtime.exec_sync(id, touch, std::time::Duration::from_secs(20), 0).await.unwrap();
    // The container may see the file and end, and take `touch` along, before that has ended by itself.
    assert!(matches!(output.code, Some(0 | 137)), "{:?}", output.code);
}

#[tokio::test]
async fn after_a_kill_running_containers_are_found_and_their_output_goes_on() {
    let mut node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "runs", TWO_STEPS)).await;
    node.log_contains("runs", "before").await;
    node.run_to_end(&node.spec("a", "ended", "exit 4")).await;
    node.run(&node.spec("a", "dies", "sleep 600")).await;
    node.runtime.create_container(&node.spec("a", "waits", "echo late")).await.unwrap();
    let dies = node.init_pid("dies");

    node.kill_runtime().await;
    kill(dies);
    node.gone(dies).await;
    node.reconnect().await;

    let mut events = node.runtime.events();
    let snapshot = node.runtime.list().await.unwrap();
    assert!(snapshot.sandboxes[0].ready);
    let state = |id: &str| {
        snapshot.containers.iter().find(|c| c.id == id).map(|c| (c.state, c.exit_code)).unwrap()
    };
    assert_eq!(state("runs"), (State::Running, None));
    assert_eq!(state("ended"), (State::Exited, Some(4)));
    assert_eq!(state("dies"), (State::Exited, Some(255)));
    assert_eq!(state("waits"), (State::Created, None));

    node.runtime.start_container("waits").await.unwrap();
    node.wait(&mut events, "waits").await;
    assert_eq!(node.text("waits"), "late\n");
    go(&node, "runs").await;
    let ended = node.wait(&mut events, "runs").await;
    // Somebody else's child by now: that it ended is seen, how is not.
    assert_eq!(ended.exit_code, Some(255));
    assert!(ended.message.contains("unknown"), "{}", ended.message);
    assert_eq!(node.text("runs"), "before\nafter\n");
    node.run_to_end(&node.spec("a", "new", "exit 0")).await;
    node.finish().await;
}

#[tokio::test]
async fn an_upgrade_keeps_everything() {
    let mut node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "runs", TWO_STEPS)).await;
    let mut with_input = node.spec("a", "reads", "read a; echo got $a; exit 8");
    with_input.stdin = true;
    node.run(&with_input).await;
    let mut terminal = node.spec("a", "terminal", "read a; echo got $a; exit 9");
    (terminal.tty, terminal.stdin) = (true, true);
    node.run(&terminal).await;
    let spec = ExecSpec {
        args: ["sh", "-c", "read a; echo $a; exit 2"].map(str::to_owned).to_vec(),
        stdin: true,
        ..ExecSpec::default()
    };
    let session = node.runtime.exec("runs", &spec).await.unwrap();

    let mut events = node.runtime.events();
    let before = node.runtime.version().await.unwrap();
    node.runtime.upgrade(None).await.unwrap();
    while events.next().await.unwrap() != Event::Lost {}
    let after = node.runtime.version().await.unwrap();
    assert_eq!(before.pid, after.pid);
    assert!(before.started_at < after.started_at);

    for id in ["reads", "terminal"] {
        let attached = node.runtime.attach(id, true).await.unwrap();
        FdStream::new(attached.stdin.unwrap()).unwrap().write_all(b"word\n").await.unwrap();
    }
    assert_eq!(node.wait(&mut events, "reads").await.exit_code, Some(8));
    assert_eq!(node.wait(&mut events, "terminal").await.exit_code, Some(9));
    assert_eq!(node.text("reads"), "got word\n");
    let mut stdin = FdStream::new(session.stdin.unwrap()).unwrap();
    stdin.write_all(b"still there\n").await.unwrap();
    let mut text = String::new();
    FdStream::new(session.stdout.unwrap()).unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "still there\n");
    assert_eq!(node.runtime.exec_wait(session.id).await.unwrap(), 2);
    go(&node, "runs").await;
    assert_eq!(node.wait(&mut events, "runs").await.exit_code, Some(3));
    assert_eq!(node.text("runs"), "before\nafter\n");
    assert!(node.runtime.upgrade(Some(std::path::Path::new("/nonesuch"))).await.is_err());
    node.reconnect().await;
    node.finish().await;
}

#[tokio::test]
async fn a_second_start_finds_the_first() {
    let node = Node::start().await;
    let other = node.connect().await;
    assert_eq!(node.runtime.version().await.unwrap().pid, other.version().await.unwrap().pid);
    drop(other);
    node.finish().await;
}

#[tokio::test]
async fn stopping_leaves_containers_running_for_the_next() {
    let mut node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "runs", TWO_STEPS)).await;
    let pid = node.runtime.version().await.unwrap().pid;
    node.runtime.stop().await.unwrap();
    node.gone(pid).await;
    node.reconnect().await;
    let mut events = node.runtime.events();
    go(&node, "runs").await;
    node.wait(&mut events, "runs").await;
    assert_eq!(node.text("runs"), "before\nafter\n");
    node.finish().await;
}

#[tokio::test]
async fn a_killed_process_is_started_again_by_those_who_need_it() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.run(&node.spec("a", "runs", TWO_STEPS)).await;
    let mut events = node.runtime.events();
    let pid = node.runtime.version().await.unwrap().pid;
    kill(pid);
    while events.next().await.unwrap() != Event::Lost {}
    assert_ne!(node.runtime.version().await.unwrap().pid, pid);
    go(&node, "runs").await;
    node.wait(&mut events, "runs").await;
    assert_eq!(node.text("runs"), "before\nafter\n");
    node.finish().await;
}

/// Milliseconds into several creations at which the process is killed.
const MOMENTS: [u64; 8] = [0, 3, 8, 15, 25, 40, 60, 100];

#[tokio::test]
async fn killed_at_any_moment_of_creation_it_leaves_nothing_that_cannot_be_removed() {
    let mut node = Node::start().await;
    for moment in MOMENTS {
        node.sandbox("a").await;
        let mut making = tokio::task::JoinSet::new();
        for number in 0..4 {
            let (runtime, spec) =
                (node.runtime.clone(), node.spec("a", &format!("c{number}"), "sleep 600"));
            making.spawn(async move {
                if runtime.create_container(&spec).await.is_ok() {
                    // Whether this is reached is what the test leaves open.
                    let _ = runtime.start_container(&spec.id).await;
                }
            });
        }
        let mut other = node.sandbox_spec("b");
        other.share_pid = true;
        let runtime = node.runtime.clone();
        making.spawn(async move { drop(runtime.create_sandbox(&other).await) });
        tokio::time::sleep(std::time::Duration::from_millis(moment)).await;
        let pid = node.runtime_pid();
        kill(pid);
        while making.join_next().await.is_some() {}
        node.gone(pid).await;
        node.reconnect().await;
        node.remove_all().await;
    }
    node.finish().await;
}
