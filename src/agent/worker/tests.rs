//! Plays the transcripts in `cases/worker`: after each input (`>`) the effects and the resulting status are written down.
//! `BLESS=1` rewrites the files; their diff is what a change of behaviour looks like.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::clock::Now;
use crate::status;

struct Player {
    state: Option<PodState>,
    pod: Value,
    mono: Duration,
    status: PodStatus,
}

#[test]
fn transcripts_hold() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/worker");
    let bless = std::env::var_os("BLESS").is_some();
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("the case directory is there") {
        let path = entry.expect("readable directory").path();
        let text = std::fs::read_to_string(&path).expect("readable case");
        let played = play(&text);
        count += 1;
        if bless {
            std::fs::write(&path, &played).expect("writable case");
            continue;
        }
        assert_eq!(played, text, "{}", path.display());
    }
    assert!(count >= 10, "only {count} cases found in {}", directory.display());
}

fn play(text: &str) -> String {
    let mut player = Player {
        state: None,
        pod: Value::Null,
        mono: Duration::ZERO,
        status: PodStatus::default(),
    };
    let mut out = String::new();
    for line in text.lines().filter(|l| !l.starts_with("    ")) {
        out.push_str(line);
        out.push('\n');
        if let Some(spec) = line.strip_prefix("pod ") {
            player.pod = pod(serde_json::from_str(spec).expect("a pod spec in JSON"));
        } else if let Some(seconds) = line.strip_prefix("@ ") {
            player.mono = Duration::from_secs_f64(seconds.parse().expect("seconds"));
        } else if let Some(words) = line.strip_prefix("> ") {
            out.push_str(&player.step(words));
        }
    }
    out
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "default", "uid": "u1"}, "spec": spec})
}

impl Player {
    fn now(&self) -> Now {
        let base: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a timestamp");
        let passed = SignedDuration::try_from(self.mono).expect("small");
        Now { wall: base + passed, mono: self.mono }
    }

    fn typed(&self) -> Arc<Pod> {
        Arc::new(serde_json::from_value(self.pod.clone()).expect("a pod"))
    }

    fn step(&mut self, words: &str) -> String {
        let now = self.now();
        let input = self.input(words, now);
        let mut state = self.state.take().unwrap_or_else(|| PodState::new(self.typed(), now));
        let effects = state.step(input, now);
        let mut out = String::new();
        for effect in &effects {
            let _ = writeln!(out, "    {}", show(effect));
        }
        self.status = status::compute(&state, &["192.168.1.5".to_owned()], &self.status, now.wall);
        let _ = writeln!(out, "    = {}", summary(&self.status));
        if let Some(wake) = state.next_wake() {
            let _ = writeln!(out, "    wake {}s", wake.as_secs_f64());
        }
        self.state = Some(state);
        out
    }

    fn input(&mut self, words: &str, now: Now) -> Input {
        let parts: Vec<&str> = words.split(' ').collect();
        let rest = |from: usize| parts[from.min(parts.len())..].join(" ");
        let name = || parts[1].to_owned();
        let attempt = || parts[2].parse().expect("an attempt");
        match parts[0] {
            "tick" => Input::Tick,
            "retry" => Input::Retry,
            "gone" => Input::Gone,
            "delete" => {
                self.pod["metadata"]["deletionTimestamp"] = json!(Time(now.wall));
                self.pod["metadata"]["deletionGracePeriodSeconds"] = json!(number(&rest(1)));
                Input::Pod(self.typed())
            }
            "image-of" => {
                self.pod["spec"]["containers"][0]["image"] = json!(parts[1]);
                Input::Pod(self.typed())
            }
            "volumes" => Input::Volumes(outcome(&parts[1..], "FailedMount")),
            "sandbox" => Input::Sandbox(
                outcome(&parts[1..], "FailedCreatePodSandBox")
                    .map(|()| vec![[10, 42, 0, 7].into()]),
            ),
            "image" if parts[2] == "ok" => Input::Image { name: name(), result: Ok(image()) },
            "image" => {
                let reason = if parts[2] == "never" { "ErrImageNeverPull" } else { "ErrImagePull" };
                Input::Image {
                    name: name(),
                    result: Err(ImageFailure { reason, message: rest(3) }),
                }
            }
            "created" => made(name(), attempt(), parts[3]),
            "started" => Input::Started {
                name: name(),
                attempt: attempt(),
                result: started(&parts[3..], now),
            },
            "hooked" => {
                let result = if parts[3] == "ok" { Ok(()) } else { Err(rest(4)) };
                Input::Hooked { name: name(), attempt: attempt(), result }
            }
            "exited" => {
                let (made, exit) = (parts.get(4).map(|at| number(at)), exit(parts[3], now));
                Input::Exited { name: name(), attempt: attempt(), made, exit }
            }
            "probed" => {
                let kind = match parts[3] {
                    "startup" => ProbeKind::Startup,
                    "readiness" => ProbeKind::Readiness,
                    _ => ProbeKind::Liveness,
                };
                let outcome = probed(parts[4], rest(5));
                Input::Probed { name: name(), attempt: attempt(), kind, outcome }
            }
            "cleaned" => Input::Cleaned(if parts[1] == "ok" { Ok(()) } else { Err(rest(2)) }),
            "relisted" => Input::Relisted { sandbox: parts[1] == "sandbox", running: Vec::new() },
            other => panic!("unknown input {other:?}"),
        }
    }
}

fn number(text: &str) -> i64 {
    text.parse().expect("a number")
}

fn made(name: String, attempt: u32, at: &str) -> Input {
    Input::Created { name, attempt, made: number(at) }
}

fn probed(word: &str, text: String) -> ProbeOutcome {
    match word {
        "ok" => ProbeOutcome::Success,
        "fail" => ProbeOutcome::Failure(text),
        _ => ProbeOutcome::Unknown(text),
    }
}

fn outcome(words: &[&str], reason: &'static str) -> Result<(), Failure> {
    if words[0] == "ok" { Ok(()) } else { Err(Failure::new(reason, words[1..].join(" "))) }
}

fn started(words: &[&str], now: Now) -> Result<Timestamp, Failure> {
    match words[0] {
        "ok" => Ok(now.wall),
        "fatal" => {
            Err(Failure { fatal: true, ..Failure::new("RunContainerError", words[1..].join(" ")) })
        }
        _ => Err(Failure::new("CreateContainerConfigError", words[1..].join(" "))),
    }
}

fn image() -> ImageRef {
    ImageRef {
        id: "sha256:1".into(),
        name: "docker.io/library/app:1".into(),
        status_id: "app@sha256:2".into(),
    }
}

fn exit(code: &str, now: Now) -> Termination {
    let exit_code: i32 = code.parse().expect("an exit code");
    Termination {
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
        message: None,
        started_at: Some(now.wall),
        finished_at: now.wall,
        container_id: None,
    }
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::MountVolumes => "mount".into(),
        Effect::CreateSandbox { replace: false } => "sandbox".into(),
        Effect::CreateSandbox { replace: true } => "sandbox again".into(),
        Effect::PullImage { name } => format!("pull {name}"),
        Effect::StartContainer { name, attempt } => format!("start {name} {attempt}"),
        Effect::PostStart { name, attempt } => format!("postStart {name} {attempt}"),
        Effect::Stop(plan) => {
            let hook = if plan.hook { " hook" } else { "" };
            format!("stop {} {} within {}s{hook}", plan.name, plan.attempt, plan.grace.as_secs())
        }
        Effect::Forget { name, attempt } => format!("forget {name} {attempt}"),
        Effect::StartProbe { name, attempt, kind } => {
            format!("probe {name} {attempt} {}", kind.label())
        }
        Effect::StopProbes { name } => format!("stop probes {name}"),
        Effect::Event(note) => {
            let kind = if note.warning { "Warning" } else { "Normal" };
            let on = note.container.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
            format!("event {kind} {}{on}: {}", note.reason, note.message)
        }
        Effect::Cleanup { last: false } => "clean up".into(),
        Effect::Cleanup { last: true } => "clean up all".into(),
        Effect::Delete => "delete".into(),
    }
}

fn summary(status: &PodStatus) -> String {
    let ready =
        status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let mut text = status.phase.clone().unwrap_or_default();
    text.push_str(if ready { " ready" } else { "" });
    if let Some(reason) = &status.reason {
        let _ = write!(text, " [{reason}]");
    }
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in all {
        let _ = write!(text, " | {}", one(container));
    }
    text
}

fn one(status: &ContainerStatus) -> String {
    let state = status.state.clone().unwrap_or_default();
    let shown = match (state.waiting, state.running, state.terminated) {
        (Some(w), _, _) => {
            let message = w.message.map(|m| format!(": {m}")).unwrap_or_default();
            format!("waiting {}{message}", w.reason.unwrap_or_default())
        }
        (_, Some(_), _) => "running".to_owned(),
        (_, _, Some(t)) => format!("ended {} {}", t.exit_code, t.reason.unwrap_or_default()),
        _ => "nothing".to_owned(),
    };
    let last = status.last_state.as_ref().and_then(|l| l.terminated.as_ref());
    let last = last.map(|t| format!(", last {}", t.exit_code)).unwrap_or_default();
    let mut flags = String::new();
    for (set, name) in [(status.started == Some(true), " started"), (status.ready, " ready")] {
        flags.push_str(if set { name } else { "" });
    }
    format!("{} #{} {shown}{flags}{last}", status.name, status.restart_count)
}

#[test]
fn adoption_keeps_running_containers_and_restarts_lost_ones() {
    let spec =
        json!({"containers": [{"name": "a", "image": "app:1"}, {"name": "b", "image": "app:1"}]});
    let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod(spec)).expect("a pod"));
    let now =
        Now { wall: "2026-11-22T10:00:00Z".parse().expect("a time"), mono: Duration::from_secs(1) };
    let known = |name: &str, running: bool| Known {
        name: name.into(),
        attempt: 3,
        image: Some(image()),
        made: running.then_some(7),
        running_since: running.then_some(now.wall),
        exit: (!running).then(|| crate::adopt::unknown_exit(now.wall)),
        previous: None,
        was_ready: running,
        was_started: running,
    };
    let found = vec![known("a", true), known("b", false)];
    let mut state = PodState::adopt(pod, now, found, Some(vec![[10, 42, 0, 9].into()]));
    let effects: Vec<String> = state.step(Input::Tick, now).iter().map(show).collect();
    assert_eq!(effects, ["mount", "forget b 2", "pull b"]);
    let status = status::compute(&state, &[], &PodStatus::default(), now.wall);
    assert_eq!(
        summary(&status),
        "Running | a #3 running started ready | b #3 ended 137 ContainerStatusUnknown"
    );
}

#[test]
fn a_lost_sandbox_makes_init_containers_run_again() {
    let spec = json!({"initContainers": [{"name": "i", "image": "app:1"}],
        "containers": [{"name": "a", "image": "app:1"}]});
    let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod(spec)).expect("a pod"));
    let now =
        Now { wall: "2026-11-22T10:00:00Z".parse().expect("a time"), mono: Duration::from_secs(1) };
    let ended = |name: &str, exit: Termination| Known {
        name: name.into(),
        attempt: 0,
        image: Some(image()),
        made: None,
        running_since: None,
        exit: Some(exit),
        previous: None,
        was_ready: false,
        was_started: false,
    };
    let found = vec![ended("i", exit("0", now)), ended("a", crate::adopt::unknown_exit(now.wall))];
    let mut state = PodState::adopt(pod, now, found, None);
    let effects: Vec<String> = state.step(Input::Tick, now).iter().map(show).collect();
    assert_eq!(effects, ["mount", "sandbox", "pull i"]);
}

#[test]
fn a_failed_start_names_its_container() {
    let pod: Arc<Pod> = Arc::new(
        serde_json::from_value(pod(json!({"restartPolicy": "Never",
            "containers": [{"name": "a", "image": "app:1"}]})))
        .expect("a pod"),
    );
    let now =
        Now { wall: "2026-11-22T10:00:00Z".parse().expect("a time"), mono: Duration::from_secs(1) };
    let mut state = PodState::new(pod, now);
    let failed = Failure { fatal: true, ..Failure::new("RunContainerError", "no such program") };
    for input in [
        Input::Tick,
        Input::Image { name: "a".into(), result: Ok(image()) },
        Input::Sandbox(Ok(Vec::new())),
        Input::Volumes(Ok(())),
        Input::Started { name: "a".into(), attempt: 0, result: Err(failed) },
    ] {
        state.step(input, now);
    }
    let status = status::compute(&state, &[], &PodStatus::default(), now.wall);
    let shown = status.container_statuses.expect("statuses").remove(0).state.expect("a state");
    let ended = shown.terminated.expect("an end");
    assert_eq!(ended.reason.as_deref(), Some("StartError"));
    let id = format!("copepod://{}", status::container_id("u1", "a", 0));
    assert_eq!(ended.container_id, Some(id));
}
