//! What containers of a sandbox share.

use std::fs;
use std::time::Duration;

use runtime::protocol::{Mount, Propagation, State};

use crate::node::{Node, eventually};

const DEADLINE: Duration = Duration::from_secs(20);

async fn namespaces(node: &Node, id: &str) -> Vec<String> {
    let args = ["sh", "-c", "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done"]
        .map(str::to_owned)
        .to_vec();
    let output = node.runtime.exec_sync(id, args, DEADLINE, 4096).await.unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn network_ipc_and_name_are_shared_and_pids_are_not() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.sandbox("b").await;
    for (sandbox, id) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        node.run(&node.spec(sandbox, id, "ip addr show lo | grep -c 'LOOPBACK,UP'; sleep 600"))
            .await;
        node.log_contains(id, "1").await;
    }
    let (a1, a2, b1) = (
        namespaces(&node, "a1").await,
        namespaces(&node, "a2").await,
        namespaces(&node, "b1").await,
    );
    assert_eq!(a1[..3], a2[..3]);
    assert_ne!(a1[3], a2[3]);
    assert_ne!(a1[4], a2[4]);
    for index in 0..5 {
        assert_ne!(a1[index], b1[index]);
        assert_ne!(a1[index], own(["net", "ipc", "uts", "pid", "mnt"][index]));
    }
    let snapshot = node.runtime.list().await.unwrap();
    let netns = snapshot.sandboxes[0].netns.as_ref().unwrap();
    assert!(netns.starts_with(&node.config.state_dir));
    node.finish().await;
}

#[tokio::test]
async fn shared_memory_is_the_sandbox_s() {
    let node = Node::start().await;
    node.sandbox("a").await;
    node.run_to_end(&node.spec("a", "one", "echo message > /dev/shm/note")).await;
    node.run_to_end(&node.spec(
        "a",
        "two",
        "cat /dev/shm/note; df -k /dev/shm | tail -1 | awk '{print $2}'",
    ))
    .await;
    assert_eq!(node.text("two"), "message\n65536\n");
    node.finish().await;
}

#[tokio::test]
async fn pids_are_shared_below_a_tiny_init_if_asked_for() {
    let node = Node::start().await;
    let mut home = node.sandbox_spec("a");
    home.share_pid = true;
    node.runtime.create_sandbox(&home).await.unwrap();
    let mut events = node.runtime.events();
    node.run(&node.spec("a", "one", "sleep 601 & echo up; sleep 602")).await;
    node.log_contains("one", "up").await;
    node.run_to_end(&node.spec("a", "two", "ps | grep -c 'sleep 60[12]$'; cat /proc/1/comm")).await;
    assert_eq!(node.text("two"), "2\npause\n");
    // Its children do not outlive it although the namespace does.
    node.runtime.signal("one", nix::libc::SIGKILL).await.unwrap();
    assert_eq!(node.wait(&mut events, "one").await.exit_code, Some(137));
    eventually("its processes are gone", || node.processes("one").is_empty()).await;
    node.finish().await;
}

#[tokio::test]
async fn a_container_sees_its_own_group_and_cannot_change_it() {
    let node = Node::start().await;
    node.runtime.create_sandbox(&node.sandbox_spec("a")).await.unwrap();
    let script = "cd /sys/fs/cgroup; test -e cgroup.procs || cd memory; grep -cx 1 cgroup.procs; \
        mkdir sub 2>&1 | grep -c Read-only; (echo $$ > cgroup.procs) 2>/dev/null || echo refused";
    node.run_to_end(&node.spec("a", "one", script)).await;
    let text = node.text("one");
    assert!(text.starts_with("1\n1\n") && text.ends_with("refused\n"), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn host_namespaces_are_the_host_s() {
    let node = Node::start().await;
    let mut home = node.sandbox_spec("a");
    (home.host_network, home.host_ipc, home.host_pid) = (true, true, true);
    let sandbox = node.runtime.create_sandbox(&home).await.unwrap();
    assert_eq!(sandbox.netns, None);
    node.run(&node.spec("a", "one", "sleep 600")).await;
    let seen = namespaces(&node, "one").await;
    assert_eq!(seen[..4], ["net", "ipc", "uts", "pid"].map(own));
    node.finish().await;
}

#[tokio::test]
async fn sysctls_are_set_in_the_sandbox_only() {
    let node = Node::start().await;
    let mut home = node.sandbox_spec("a");
    home.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned());
    home.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
    node.runtime.create_sandbox(&home).await.unwrap();
    node.run_to_end(&node.spec(
        "a",
        "one",
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
    ))
    .await;
    assert_eq!(node.text("one"), "77\n1\n");
    for bad in ["kernel.panic", "vm.swappiness", "net.../../kernel/panic"] {
        let mut home = node.sandbox_spec("b");
        home.sysctls.insert(bad.to_owned(), "1".to_owned());
        assert!(node.runtime.create_sandbox(&home).await.is_err(), "{bad}");
    }
    assert_eq!(node.runtime.list().await.unwrap().sandboxes.len(), 1);
    node.finish().await;
}

#[tokio::test]
async fn a_sandbox_can_be_made_again_after_removal() {
    let node = Node::start().await;
    node.sandbox("a").await;
    assert!(
        node.runtime.create_sandbox(&node.sandbox_spec("a")).await.unwrap_err().is_already_exists()
    );
    node.runtime.remove_sandbox("a").await.unwrap();
    node.runtime.remove_sandbox("a").await.unwrap();
    node.sandbox("a").await;
    let ended = node.run_to_end(&node.spec("a", "one", "exit 1")).await;
    assert_eq!(ended.state, State::Exited);
    node.finish().await;
}

#[tokio::test]
async fn mounts_travel_only_where_asked_for() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let volume = node.dir.path().join("volume");
    fs::create_dir_all(volume.join("from-container")).unwrap();
    fs::create_dir_all(volume.join("from-host")).unwrap();
    let path = volume.to_str().unwrap();
    node.on_node(&format!("mount --bind {path} {path} && mount --make-shared {path}"));
    let mount = |propagation| Mount {
        source: volume.clone(),
        destination: "/volume".into(),
        recursive: true,
        propagation,
        ..Mount::default()
    };
    let script = "mount -t tmpfs none /volume/from-container; echo up; sleep 600";
    for (id, propagation) in [
        ("both", Propagation::Bidirectional),
        ("in", Propagation::HostToContainer),
        ("none", Propagation::Private),
    ] {
        let mut spec = node.spec("a", id, if id == "both" { script } else { "echo up; sleep 600" });
        spec.privileged = true;
        spec.mounts = vec![mount(propagation)];
        node.run(&spec).await;
        node.log_contains(id, "up").await;
    }
    node.on_node(&format!("mount -t tmpfs none {path}/from-host"));
    let table = node.on_node("cat /proc/self/mountinfo");
    assert!(table.contains("volume/from-container"), "{table}");
    for (id, sees) in [("both", true), ("in", true), ("none", false)] {
        let args = ["cat", "/proc/self/mountinfo"].map(str::to_owned).to_vec();
        let output = node.runtime.exec_sync(id, args, DEADLINE, 1 << 20).await.unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().contains("/volume/from-host"),
            sees,
            "{id}"
        );
    }
    for id in ["both", "in", "none"] {
        node.runtime.remove_container(id).await.unwrap();
    }
    assert!(volume.join("from-host").is_dir(), "removal follows no mounts");
    node.on_node(&format!("umount -R {path}"));
    node.finish().await;
}
