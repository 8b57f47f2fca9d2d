//! Pulling from a registry: Debian's docker-registry on the machine's loopback, filled by skopeo from our own archive.

use std::fs;

use testkit::Machine;

#[test]
fn images_are_pulled_verified_and_reused() {
    let m = Machine::ready();
    let config = m.path("registry.yml");
    let storage = m.path("registry");
    fs::create_dir(&storage).expect("folder");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:5000}}\n",
        storage.display()
    );
    fs::write(&config, text).expect("file");
    let mut registry = m.enter(&["--net", "--pid"]);
    let mut registry = registry.arg("docker-registry").arg("serve").arg(&config).spawn().expect("docker-registry");
    let archive = format!("docker-archive:{}:docker.io/library/busybox:1.0", m.path("data/agent/images/busybox.tar").display());
    let policy = m.path("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).expect("file");
    let policy = policy.to_str().expect("path").to_owned();
    m.wait("the registry takes the image", |m| {
        m.run("skopeo", &["--policy", &policy, "copy", "--dest-tls-verify=false", &archive, "docker://127.0.0.1:5000/tools/box:v1"]).is_ok()
    });
    m.ok(&["run", "pulled", "--image=127.0.0.1:5000/tools/box:v1", "--restart=Never", "--", "echo", "pulled"]);
    m.wait("the pulled image runs", |m| m.ok(&["get", "pod", "pulled", "-o", "jsonpath={.status.phase}"]) == "Succeeded");
    assert_eq!(m.ok(&["logs", "pulled"]), "pulled\n");
    let events = m.ok(&["get", "events", "--field-selector=involvedObject.name=pulled", "-o", "jsonpath={.items[*].reason}"]);
    assert!(events.contains("Pulling") && events.contains("Pulled") && events.contains("Started"), "{events}");
    let id = m.ok(&["get", "pod", "pulled", "-o", "jsonpath={.status.containerStatuses[0].imageID}"]);
    assert!(id.contains("127.0.0.1:5000/tools/box@sha256:"), "{id}");
    registry.kill().expect("kill");
    registry.wait().expect("wait");
    m.ok(&["run", "again", "--image=127.0.0.1:5000/tools/box:v1", "--restart=Never", "--", "true"]);
    m.wait("the image is there without the registry", |m| {
        m.ok(&["get", "pod", "again", "-o", "jsonpath={.status.phase}"]) == "Succeeded"
    });
}
