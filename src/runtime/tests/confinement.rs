//! What a container may and may not.

use std::fs;

use runtime::protocol::{Capabilities, ContainerSpec, Mount, MountKind, Resources, Seccomp, User};

use crate::node::{Node, version_2};

async fn output(node: &Node, spec: &ContainerSpec) -> String {
    let ended = node.run_to_end(spec).await;
    let text = node.text(&spec.id);
    if text.is_empty() {
        eprintln!("no output: {ended:?}");
    }
    node.runtime.remove_container(&spec.id).await.unwrap();
    fs::remove_file(node.log_path(&spec.id)).unwrap();
    text
}

#[tokio::test]
async fn memory_is_limited_and_its_exhaustion_reported() {
    if version_2() {
        eprintln!("not tested: version 2 has no controllers here");
        return;
    }
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec("a", "one", "head -c 200000000 /dev/zero | tail");
    spec.resources =
        Resources { memory_limit: Some(16 << 20), pids_limit: Some(20), ..Resources::default() };
    spec.args = ["tail", "/dev/zero"].map(str::to_owned).to_vec();
    let ended = node.run_to_end(&spec).await;
    assert!(ended.oom_killed, "{ended:?}");
    assert_eq!(ended.exit_code, Some(137));
    let stats = node.runtime.stats("one").await.unwrap();
    assert!(stats.cpu_ns > 0);
    node.finish().await;
}

#[tokio::test]
async fn limits_can_be_read_measured_and_changed() {
    if version_2() {
        eprintln!("not tested: version 2 has no controllers here");
        return;
    }
    let node = Node::start().await;
    let mut home = node.sandbox_spec("a");
    home.resources = Some(Resources {
        memory_limit: Some(128 << 20),
        cpu_shares: Some(512),
        ..Resources::default()
    });
    node.runtime.create_sandbox(&home).await.unwrap();
    let mut spec = node.spec(
        "a",
        "one",
        "dd if=/dev/zero of=/tmp/file bs=1000 count=100 2>/dev/null; echo up; sleep 600",
    );
    spec.resources =
        Resources { memory_limit: Some(64 << 20), cpu_shares: Some(256), ..Resources::default() };
    node.run(&spec).await;
    node.log_contains("one", "up").await;
    let stats = node.runtime.stats("one").await.unwrap();
    assert!(stats.memory_bytes > 0 && stats.memory_bytes < 64 << 20, "{stats:?}");
    assert!(
        stats.pids >= 1 && stats.writable_bytes >= 100_000 && stats.writable_inodes >= 1,
        "{stats:?}"
    );
    assert!(node.runtime.sandbox_stats("a").await.unwrap().memory_bytes >= stats.memory_bytes / 2);
    let more = Resources { memory_limit: Some(96 << 20), ..Resources::default() };
    node.runtime.update_resources("one", &more).await.unwrap();
    assert_eq!(node.memory_limit("a", "one"), (96 << 20).to_string());
    node.finish().await;
}

#[tokio::test]
async fn capabilities_are_the_default_set_with_changes() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let script = "grep -E 'Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|^Seccomp:' /proc/self/status | tr -s '\\t\\n' '  '";
    let mut spec = node.spec("a", "one", script);
    let default = output(&node, &spec).await;
    let expected = "CapPrm: 00000000a80425fb CapEff: 00000000a80425fb CapBnd: 00000000a80425fb CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 2";
    assert_eq!(default.trim(), expected);
    spec.capabilities =
        Capabilities { add: vec!["NET_ADMIN".to_owned()], drop: vec!["ALL".to_owned()] };
    spec.no_new_privileges = true;
    let changed = output(&node, &spec).await;
    assert!(
        changed.contains("CapEff: 0000000000001000") && changed.contains("NoNewPrivs: 1"),
        "{changed}"
    );
    spec.capabilities = Capabilities::default();
    spec.no_new_privileges = false;
    spec.user = User { uid: 1000, gid: 1000, additional_gids: vec![7, 8] };
    let user = output(&node, &spec).await;
    assert!(user.contains("CapEff: 0000000000000000 CapBnd: 00000000a80425fb"), "{user}");
    spec.capabilities.add = vec!["NONESUCH".to_owned()];
    let error = node.runtime.create_container(&spec).await.unwrap_err().to_string();
    assert!(error.contains("unknown capability \"NONESUCH\""), "{error}");
    node.finish().await;
}

#[tokio::test]
async fn users_groups_and_their_streams() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec =
        node.spec("a", "one", "id -u; id -g; id -G; echo $HOME; echo again > /dev/stdout; umask");
    spec.user = User { uid: 1000, gid: 1001, additional_gids: vec![7, 8] };
    assert_eq!(output(&node, &spec).await, "1000\n1001\n1001 7 8\n/tmp\nagain\n0022\n");
    node.finish().await;
}

#[tokio::test]
async fn the_seccomp_profile_is_in_force() {
    let node = Node::start().await;
    node.sandbox("a").await;
    // With CAP_SYS_ADMIN but the filter of a container without it, only the filter can refuse.
    let script = "unshare -m true && echo unshared; mount -t tmpfs none /tmp && echo mounted; true";
    let spec = node.spec("a", "one", script);
    assert!(!output(&node, &spec).await.contains("unshared"));
    let filtered = node.spec(
        "a",
        "one",
        "setarch linux32 uname -m; unshare -U true && echo user namespace; true",
    );
    assert!(!output(&node, &filtered).await.contains("user namespace"));
    let mut open = filtered.clone();
    open.seccomp = Seccomp::Unconfined;
    assert!(
        output(&node, &open).await.contains("user namespace"),
        "what the filter refused is possible without it"
    );
    node.finish().await;
}

#[tokio::test]
async fn the_root_file_system_can_be_read_only_and_layers_are_stacked() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let upper = node.dir.path().join("upper-layer");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/motd"), "from the top\n").unwrap();
    let mut spec = node.spec("a", "one", "cat /etc/motd; echo no > /etc/motd || echo refused; echo yes > /mnt/data/file; touch /dev/shm/ok && echo shm");
    spec.readonly_rootfs = true;
    spec.lower.insert(0, upper.clone());
    spec.mounts = vec![Mount {
        source: node.dir.path().to_owned(),
        destination: "/mnt/data".into(),
        ..Mount::default()
    }];
    let text = output(&node, &spec).await;
    assert!(
        text.contains("from the top\n") && text.contains("refused\n") && text.contains("shm\n"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(node.dir.path().join("file")).unwrap(), "yes\n");
    assert_eq!(fs::read_to_string(upper.join("etc/motd")).unwrap(), "from the top\n");
    node.finish().await;
}

#[tokio::test]
async fn very_many_layers_can_be_stacked() {
    const LAYERS: usize = 120;
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec("a", "one", "ls /layers | wc -l");
    for number in 0..LAYERS {
        let layer =
            node.dir.path().join(format!("a-rather-long-directory-name-for-a-layer/{number}"));
        fs::create_dir_all(layer.join("layers")).unwrap();
        fs::write(layer.join(format!("layers/{number}")), "").unwrap();
        spec.lower.insert(0, layer);
    }
    assert_eq!(output(&node, &spec).await.trim(), LAYERS.to_string());
    node.finish().await;
}

#[tokio::test]
async fn proc_and_sys_are_masked_unless_privileged() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let script = "cat /proc/keys | wc -c; (echo 1 > /proc/sys/kernel/printk) 2>/dev/null || echo ro; touch /sys/x 2>&1 | grep -c Read-only; ls /dev | tr '\\n' ' '";
    let text = output(&node, &node.spec("a", "one", script)).await;
    assert!(text.starts_with("0\n"), "{text}");
    assert!(text.contains("ro\n1\n"), "{text}");
    assert!(
        text.contains(
            "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
        ),
        "{text}"
    );
    let mut spec = node.spec(
        "a",
        "one",
        "grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted; ls /dev | wc -l",
    );
    spec.privileged = true;
    let text = output(&node, &spec).await;
    assert!(text.contains("mounted"), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn devices_not_given_cannot_be_opened() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let script = "mknod /tmp/kmsg c 1 11; head -c1 /tmp/kmsg 2>&1; mknod /tmp/zero c 1 5; head -c3 /tmp/zero | wc -c";
    let text = output(&node, &node.spec("a", "one", script)).await;
    assert!(text.contains("not permitted") && text.ends_with("3\n"), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn memory_file_systems_have_their_size() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let mut spec = node.spec(
        "a",
        "one",
        "df -k /cache | tail -1 | awk '{print $2}'; touch /cache/x && echo writable",
    );
    spec.mounts = vec![Mount {
        destination: "/cache".into(),
        kind: MountKind::Tmpfs { size: Some(1 << 20) },
        ..Mount::default()
    }];
    assert_eq!(output(&node, &spec).await, "1024\nwritable\n");
    node.finish().await;
}
