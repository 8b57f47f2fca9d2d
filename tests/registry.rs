//! Pulling from a registry: Debian's docker-registry on the machine's loopback, filled by skopeo from our own archive.

use std::fs;
use std::process::{Child, Stdio};

use testkit::Machine;

/// Where [`registry`] listens.
pub(crate) const REGISTRY: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/tools/box:v1";

/// An empty registry; it may not listen yet.
pub(crate) fn registry(m: &Machine) -> Child {
    let (config, storage) = (m.path("registry.yml"), m.path("registry"));
    fs::create_dir(&storage).expect("folder");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nhttp: {{addr: {REGISTRY}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\n",
        storage.display()
    );
    fs::write(&config, text).expect("file");
    let mut registry = m.enter(&["--net", "--pid"]);
    registry.arg("docker-registry").arg("serve").arg(&config).stderr(Stdio::null());
    registry.spawn().expect("docker-registry")
}

/// A registry that holds [`IMAGE`].
fn filled_registry(m: &Machine) -> Child {
    let registry = registry(m);
    let archive = m.path("data/agent/images/busybox.tar");
    let archive = format!("docker-archive:{}:docker.io/library/busybox:1.0", archive.display());
    let policy = m.path("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).expect("file");
    let policy = policy.to_str().expect("path").to_owned();
    let image = format!("docker://{IMAGE}");
    let copy = ["--policy", &policy, "copy", "--dest-tls-verify=false", &archive, &image];
    m.wait("the registry takes the image", |m| m.run("skopeo", &copy).is_ok());
    registry
}

fn run(m: &Machine, name: &str) {
    let image = format!("--image={IMAGE}");
    m.ok(&["run", name, &image, "--restart=Never", "--", "echo", "pulled"]);
    m.wait(&format!("pod {name} runs"), |m| {
        m.ok(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]) == "Succeeded"
    });
    assert_eq!(m.ok(&["logs", name]), "pulled\n");
}

#[test]
fn images_are_pulled_verified_and_reused() {
    let m = Machine::ready();
    let mut registry = filled_registry(&m);
    run(&m, "pulled");
    let events = ["get", "events", "--field-selector=involvedObject.name=pulled"];
    let events = m.ok(&[&events[..], &["-o", "jsonpath={.items[*].reason}"]].concat());
    for reason in ["Pulling", "Pulled", "Started"] {
        assert!(events.contains(reason), "{events}");
    }
    let id = "jsonpath={.status.containerStatuses[0].imageID}";
    let id = m.ok(&["get", "pod", "pulled", "-o", id]);
    assert!(id.contains("127.0.0.1:5000/tools/box@sha256:"), "{id}");
    registry.kill().expect("kill");
    registry.wait().expect("wait");
    run(&m, "again");
}
