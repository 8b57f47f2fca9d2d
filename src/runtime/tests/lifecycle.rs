//! Create, start, exit, signals, removal.

use std::fs;
use std::time::{Duration, Instant};

use runtime::client::Error;
use runtime::protocol::{ExecSpec, Failure, FailureKind, State};

use crate::node::{Node, eventually};

fn kind(error: Error) -> FailureKind {
    match error {
        Error::Refused(Failure { kind, .. }) => kind,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_container_runs_logs_and_exits_with_its_code() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let spec = node.spec("a", "one", "echo out; echo err >&2; hostname; pwd; printf tail; exit 7");
    let created = node.runtime.create_container(&spec).await.unwrap();
    assert_eq!(created.state, State::Created);
    assert!(created.pid.is_some());
    let mut events = node.runtime.events();
    node.runtime.start_container("one").await.unwrap();
    let ended = node.wait(&mut events, "one").await;
    assert_eq!((ended.exit_code, ended.signal, ended.oom_killed), (Some(7), None, false));
    assert!(ended.created_at <= ended.started_at.unwrap() && ended.started_at <= ended.finished_at);
    let mut out: Vec<String> = node
        .log("one")
        .into_iter()
        .map(|(stream, tag, text)| format!("{stream} {tag} {text}"))
        .collect();
    out.sort();
    assert_eq!(
        out,
        ["stderr F err", "stdout F /", "stdout F host-a", "stdout F out", "stdout P tail"]
    );
    node.finish().await;
}

#[tokio::test]
async fn what_cannot_run_fails_to_start_with_a_reason() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let cases: [(&[&str], &str); 4] = [
        (&["nonesuch"], r#"exec: "nonesuch": executable file not found in $PATH"#),
        (&["/nonesuch"], r#"exec: "/nonesuch": stat /nonesuch: no such file or directory"#),
        (&["/etc/passwd"], r#"exec: "/etc/passwd": permission denied"#),
        (&["/bin"], r#"exec: "/bin": is a directory"#),
    ];
    for (args, message) in cases {
        let mut spec = node.spec("a", "bad", "");
        spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let created = node.runtime.create_container(&spec).await.unwrap();
        assert_eq!((created.state, created.pid), (State::Created, None));
        let error = node.runtime.start_container("bad").await.unwrap_err();
        assert_eq!(error.to_string(), format!("unable to start container process: {message}"));
        assert_eq!(kind(error), FailureKind::Start);
        let ended = node.runtime.container("bad").await.unwrap();
        assert_eq!((ended.state, ended.exit_code), (State::Exited, Some(128)));
        assert!(ended.message.ends_with(message));
        node.runtime.remove_container("bad").await.unwrap();
    }
    let spec = node.spec("nonesuch", "bad", "");
    assert_eq!(
        kind(node.runtime.create_container(&spec).await.unwrap_err()),
        FailureKind::NotFound
    );
    let spec = node.spec("a", "../bad", "");
    assert_eq!(kind(node.runtime.create_container(&spec).await.unwrap_err()), FailureKind::Invalid);
    assert_eq!(kind(node.runtime.start_container("bad").await.unwrap_err()), FailureKind::NotFound);
    node.runtime.remove_container("bad").await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn signals_reach_the_program_and_give_its_exit_code() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut events = node.runtime.events();
    let graceful = node.spec(
        "a",
        "graceful",
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done",
    );
    // As the first process of its PID namespace a program without a handler is deaf to SIGTERM.
    let deaf = node.spec("a", "deaf", "echo up; sleep 600");
    for spec in [&graceful, &deaf] {
        node.run(spec).await;
        node.log_contains(&spec.id, "up").await;
        node.runtime.signal(&spec.id, nix::libc::SIGTERM).await.unwrap();
    }
    assert_eq!(node.wait(&mut events, "graceful").await.exit_code, Some(3));
    assert_eq!(node.runtime.container("deaf").await.unwrap().state, State::Running);
    node.runtime.kill_all("deaf").await.unwrap();
    let killed = node.wait(&mut events, "deaf").await;
    assert_eq!((killed.exit_code, killed.signal), (Some(137), Some(9)));
    node.runtime.signal("deaf", nix::libc::SIGTERM).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn a_container_never_started_can_be_removed_and_a_running_one_too() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.runtime.create_container(&node.spec("a", "waiting", "echo never")).await.unwrap();
    assert_eq!(
        kind(node.runtime.create_container(&node.spec("a", "waiting", "")).await.unwrap_err()),
        FailureKind::AlreadyExists
    );
    node.run(&node.spec("a", "running", "sleep 600 & sleep 600")).await;
    assert_eq!(
        kind(node.runtime.start_container("running").await.unwrap_err()),
        FailureKind::State
    );
    assert_eq!(kind(node.runtime.remove_sandbox("a").await.unwrap_err()), FailureKind::State);
    node.runtime.remove_container("waiting").await.unwrap();
    node.runtime.remove_container("running").await.unwrap();
    node.runtime.remove_container("running").await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn many_containers_are_made_at_once() {
    const COUNT: usize = 8;
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut making = tokio::task::JoinSet::new();
    for number in 0..COUNT {
        let (runtime, spec) =
            (node.runtime.clone(), node.spec("a", &format!("c{number}"), "echo $0; sleep 600"));
        making.spawn(async move {
            runtime.create_container(&spec).await.unwrap();
            runtime.start_container(&spec.id).await.unwrap();
        });
    }
    while let Some(made) = making.join_next().await {
        made.unwrap();
    }
    let snapshot = node.runtime.list().await.unwrap();
    assert_eq!(
        snapshot.containers.iter().filter(|container| container.state == State::Running).count(),
        COUNT
    );
    node.finish().await;
}

#[tokio::test]
async fn several_sandboxes_and_lifecycles_in_a_row_leak_no_descriptors() {
    const ROUNDS: usize = 5;
    let node = Node::start().await;
    let pid = node.runtime.version().await.unwrap().pid;
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let mut after_first = 0;
    for round in 0..ROUNDS {
        node.sandbox("a").await;
        let ended = node.run_to_end(&node.spec("a", "one", "echo hello")).await;
        assert_eq!(ended.exit_code, Some(0));
        node.runtime.remove_container("one").await.unwrap();
        let mut terminal = node.spec("a", "two", "sleep 600");
        (terminal.tty, terminal.stdin) = (true, true);
        node.run(&terminal).await;
        drop(node.runtime.attach("two", true).await.unwrap());
        for tty in [false, true] {
            let args = vec!["true".to_owned()];
            let exec = ExecSpec { args, tty, stdin: true, ..ExecSpec::default() };
            let session = node.runtime.exec("two", &exec).await.unwrap();
            assert_eq!(node.runtime.exec_wait(session.id).await.unwrap(), 0);
        }
        node.runtime.remove_container("two").await.unwrap();
        node.runtime.remove_sandbox("a").await.unwrap();
        if round == 0 {
            after_first = descriptors();
        }
    }
    // A connection or child that is just ending may still have some.
    eventually("no more descriptors than after the first round", || descriptors() <= after_first)
        .await;
    node.finish().await;
}

/// Prints what making containers costs; run with `--ignored --nocapture`, in release for figures that mean something.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure() {
    const ROUNDS: u32 = 30;
    let node = Node::start().await;
    node.sandbox("a").await;
    let (mut create, mut start, mut exec) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        let spec = node.spec("a", &format!("c{number}"), "sleep 600");
        let before = Instant::now();
        node.runtime.create_container(&spec).await.unwrap();
        create.push(before.elapsed());
        let before = Instant::now();
        node.runtime.start_container(&spec.id).await.unwrap();
        start.push(before.elapsed());
        let before = Instant::now();
        let deadline = Duration::from_secs(10);
        node.runtime.exec_sync(&spec.id, vec!["true".to_owned()], deadline, 0).await.unwrap();
        exec.push(before.elapsed());
    }
    for (what, mut times) in [("create", create), ("start", start), ("exec to end", exec)] {
        times.sort();
        eprintln!(
            "{what}: median {:?}, slowest {:?}",
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
    let pid = node.runtime.version().await.unwrap().pid;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    for line in rollup
        .lines()
        .filter(|line| ["Rss", "Pss:", "Private_Dirty"].iter().any(|name| line.starts_with(name)))
    {
        eprintln!("runtime process with {ROUNDS} containers: {line}");
    }
    node.finish().await;
}
