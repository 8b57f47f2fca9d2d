//! QoS and cgroups, security contexts, credentials, durations, back-off, signals.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use runtime::image::{Auth, ImageConfig};
use runtime::protocol::Seccomp;
use serde_json::json;

use crate::backoff::BackOff;
use crate::resources::{self, Qos};
use crate::security::{self, ImageUser};
use crate::{adopt, container_spec, execute, go_duration, node_facts, pull, tokens};

fn spec(value: serde_json::Value) -> PodSpec {
    serde_json::from_value(value).expect("a pod spec")
}

#[test]
fn durations_read_like_go() {
    let cases = [
        (Duration::from_secs(10), "10s"),
        (Duration::from_secs(80), "1m20s"),
        (Duration::from_secs(300), "5m0s"),
        (Duration::from_secs(3_661), "1h1m1s"),
        (Duration::from_millis(1_500), "1.5s"),
        (Duration::from_millis(312), "312ms"),
        (Duration::from_micros(1_200), "1.2ms"),
        (Duration::ZERO, "0s"),
    ];
    for (duration, wanted) in cases {
        assert_eq!(go_duration::text(duration), wanted);
    }
}

#[test]
fn back_off_doubles_to_five_minutes_and_forgets() {
    let mut back_off = BackOff::default();
    let mut now = Duration::ZERO;
    assert_eq!(back_off.wait_until(now), None);
    let mut delays = Vec::new();
    for _ in 0..7 {
        back_off.retry(now, now);
        let until = back_off.wait_until(now).expect("a delay");
        delays.push((until - now).as_secs());
        now = until;
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    let later = now + Duration::from_secs(700);
    assert_eq!(back_off.wait_until(later), None);
}

#[test]
fn a_signal_has_two_seconds_after_a_long_hook() {
    let asked = tokio::time::Instant::now();
    for (grace, hook, kill) in
        [(30, 0, 30), (30, 20, 30), (30, 29, 31), (30, 30, 32), (1, 0, 2), (0, 0, 0)]
    {
        let seconds = Duration::from_secs;
        let at = execute::kill_at(asked, asked + seconds(hook), seconds(grace));
        assert_eq!((at - asked).as_secs(), kill, "{grace} {hook}");
    }
}

#[test]
fn quality_of_service_and_cgroups() {
    let of = |resources: serde_json::Value| {
        spec(json!({"containers": [{"name": "a", "resources": resources}]}))
    };
    let guaranteed = of(json!({"limits": {"cpu": "500m", "memory": "64Mi"}}));
    let burstable = of(json!({"requests": {"memory": "256Mi"}}));
    let nothing = of(json!({}));
    assert_eq!(resources::qos(&guaranteed), Qos::Guaranteed);
    assert_eq!(resources::qos(&burstable), Qos::Burstable);
    assert_eq!(resources::qos(&nothing), Qos::BestEffort);
    assert_eq!(Qos::Guaranteed.cgroup("u"), "kubepods/podu");
    assert_eq!(Qos::Burstable.cgroup("u"), "kubepods/burstable/podu");
    let settings = resources::pod_settings(&guaranteed);
    assert_eq!((settings.cpu_shares, settings.cpu_quota_us), (512, Some(50_000)));
    assert_eq!(settings.memory_limit, Some(64 << 20));
    assert_eq!(resources::pod_settings(&nothing).cpu_shares, 2);
    let score = |spec: &PodSpec| resources::oom_score_adj(spec, &spec.containers[0], 1 << 30);
    assert_eq!((score(&guaranteed), score(&burstable), score(&nothing)), (-997, 750, 1000));
}

#[test]
fn run_as_non_root_is_enforced() {
    let check = |pod_context: serde_json::Value, own: serde_json::Value, image: &ImageUser| {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {
            "securityContext": pod_context, "containers": [{"name": "a", "securityContext": own}]}}))
        .expect("a pod");
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let security = security::effective(&pod, container).map_err(|f| f.message)?;
        security::user(&security, image, "a", "web_default(u1)").map_err(|f| f.message)
    };
    let root = ImageUser::default();
    let named = ImageUser { text: "app".into(), uid: 100, gid: 101, groups: vec![5], home: None };
    let suffix = "(pod: \"web_default(u1)\", container: a)";
    let non_root = json!({"runAsNonRoot": true});
    assert_eq!(
        check(non_root.clone(), json!({}), &root),
        Err(format!("container has runAsNonRoot and image will run as root {suffix}"))
    );
    assert_eq!(
        check(non_root.clone(), json!({}), &named),
        Err(format!(
            "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root {suffix}"
        ))
    );
    assert_eq!(
        check(non_root.clone(), json!({"runAsUser": 0}), &root),
        Err(format!("container's runAsUser breaks non-root policy {suffix}"))
    );
    let context =
        json!({"runAsNonRoot": true, "runAsUser": 7, "supplementalGroups": [9], "fsGroup": 8});
    let user = check(context, json!({"runAsGroup": 6}), &root).expect("a user");
    assert_eq!((user.uid, user.gid, user.additional_gids), (7, 6, vec![6, 8, 9]));
    let user = check(json!({}), json!({}), &named).expect("a user");
    assert_eq!((user.uid, user.gid, user.additional_gids), (100, 101, vec![5, 101]));
    let context = json!({"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000]});
    let user = check(context, json!({}), &root).expect("a user");
    assert_eq!((user.uid, user.gid, user.additional_gids), (1000, 3000, vec![3000, 4000]));
    let user = check(json!({"supplementalGroupsPolicy": "Strict"}), json!({}), &named);
    assert_eq!(user.expect("a user").additional_gids, [101]);
}

#[test]
fn home_is_the_users_unless_somebody_says_otherwise() {
    let image = |env: &[&str]| ImageConfig {
        env: env.iter().map(|&line| line.to_owned()).collect(),
        ..ImageConfig::default()
    };
    let home = |image: &ImageConfig, pods: &[(String, String)], home: Option<&str>| {
        let all = container_spec::environment(image, pods, home.map(str::to_owned), "web", false);
        let mut found = all.into_iter().filter(|(name, _)| name == "HOME").map(|(_, value)| value);
        (found.next(), found.next())
    };
    let one = |value: &str| (Some(value.to_owned()), None);
    let pods = [("HOME".to_owned(), "/pod".to_owned())];
    assert_eq!(home(&image(&[]), &[], None), one("/"));
    assert_eq!(home(&image(&[]), &[], Some("/root")), one("/root"));
    assert_eq!(home(&image(&["HOME=/image"]), &[], Some("/root")), one("/image"));
    assert_eq!(home(&image(&["HOME=/image"]), &pods, Some("/root")), one("/pod"));
}

#[test]
fn security_settings_reach_the_runtime() {
    let pod: Pod = serde_json::from_value(json!({"spec": {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "readOnlyRootFilesystem": true}},
            {"name": "b", "securityContext": {"privileged": true, "allowPrivilegeEscalation": false}},
            {"name": "c", "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}}]}}))
    .expect("a pod");
    let containers = &pod.spec.as_ref().expect("a spec").containers;
    let first = security::effective(&pod, &containers[0]).expect("fine");
    assert!(first.no_new_privileges && first.readonly_rootfs && first.seccomp == Seccomp::Default);
    assert_eq!(
        (first.capabilities.add, first.capabilities.drop),
        (vec!["NET_ADMIN".into()], vec!["ALL".into()])
    );
    let second = security::effective(&pod, &containers[1]).expect("fine");
    assert!(
        !second.no_new_privileges && second.privileged && second.seccomp == Seccomp::Unconfined
    );
    assert!(security::effective(&pod, &containers[2]).is_err());
}

#[test]
fn credentials_match_the_registry() {
    let auths = json!({
        "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
        "registry.example.com": {"username": "u", "password": "p"},
        "registry.example.com/team": {"username": "t", "password": "p"},
        "tokens.example.com": {"identitytoken": "tok"},
    });
    let user = |registry: &str, image: &str| match pull::from_auths(&auths, registry, image) {
        Some(Auth::Basic { username, .. }) => username,
        Some(Auth::IdentityToken(token)) => format!("token {token}"),
        _ => "none".to_owned(),
    };
    assert_eq!(user("docker.io", "docker.io/library/busybox"), "hub");
    assert_eq!(user("registry.example.com", "registry.example.com/x"), "u");
    assert_eq!(user("registry.example.com", "registry.example.com/team/x"), "t");
    assert_eq!(user("registry.example.com", "registry.example.com/teamwork/x"), "u");
    assert_eq!(user("tokens.example.com", "tokens.example.com/x"), "token tok");
    assert_eq!(user("other.example.com", "other.example.com/x"), "none");
}

#[test]
fn small_facts() {
    assert_eq!(adopt::signal_number("SIGQUIT"), Some(3));
    assert_eq!(adopt::signal_number("quit"), Some(3));
    assert_eq!(adopt::signal_number("15"), Some(15));
    assert_eq!(adopt::signal_number("SIGRTMIN+3"), Some(37));
    assert_eq!(adopt::signal_number("nonsense"), None);
    assert_eq!(
        node_facts::os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
        "Debian GNU/Linux 12"
    );
    let at = |text: &str| text.parse::<jiff::Timestamp>().expect("a time");
    let renewal = tokens::renewal(at("2026-11-22T10:00:00Z"), at("2026-11-22T11:00:00Z"));
    assert_eq!(renewal, at("2026-11-22T10:48:00Z"));
    let long = tokens::renewal(at("2026-11-22T10:00:00Z"), at("2027-11-22T10:00:00Z"));
    assert_eq!(long, at("2026-11-23T10:00:00Z"));
}
