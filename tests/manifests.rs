//! Files in the server's `manifests` folder become objects of the cluster, as with K3s.

use std::fs;

use testkit::{Machine, NAMES};

fn write(m: &Machine, file: &str, text: &str) {
    let path = m.path("data/server/manifests").join(file);
    fs::create_dir_all(path.parent().expect("folder")).expect("folder");
    fs::write(path, text).expect("manifest");
}

fn deployment(replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         containers: [{{name: main, image: \"{}\", command: [sleep, \"3600\"]}}]\n",
        NAMES[0]
    )
}

fn config_map(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata: {{key: \"{value}\"}}\n"
    )
}

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

fn events(m: &Machine, addon: &str) -> String {
    let about = format!("involvedObject.name=addon.{addon}");
    let what = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    m.ok(&["get", "events", "-n", "kube-system", "--field-selector", &about, "-o", what])
}

fn value(m: &Machine, name: &str) -> String {
    m.kubectl(&["get", "configmap", "-n", "shop", name, "-o", "jsonpath={.data.key}"])
        .unwrap_or_default()
}

#[test]
fn manifests_are_applied_kept_and_pruned() {
    let mut m = Machine::bare();
    // The first file needs what a later one brings, and within the second the order is wrong.
    write(&m, "a_first.yaml", &config_map("early", "1"));
    let shop = format!("{}---\n{}---\n{NAMESPACE}", deployment(1), config_map("extra", "1"));
    write(&m, "shop.yaml", &shop);
    write(&m, "broken.yml", &format!("{}---\nkind: [\n", config_map("never", "1")));
    write(&m, "off.yaml", &config_map("off", "1"));
    write(&m, "left.yaml", &config_map("left", "1"));
    write(&m, "left.yaml.skip", "");
    m.start(&["--disable", "off,traefik"]);
    m.wait_node_ready();
    m.ok(&["rollout", "status", "-n", "shop", "deployment/web", "--timeout=60s"]);
    m.wait("what waited for the namespace", |m| value(m, "early") == "1");
    m.wait("an event for the broken file", |m| {
        let told = events(m, "broken");
        told.contains("ParseManifestFailed") && told.contains("broken.yml: line ")
    });
    for name in ["never", "off", "left"] {
        assert_eq!(value(&m, name), "", "{name}");
    }

    // What others set stays, what the file says comes back, what it has no more goes.
    m.ok(&["label", "deployment", "-n", "shop", "web", "mine=yes"]);
    write(&m, "shop.yaml", &format!("{NAMESPACE}---\n{}", deployment(2)));
    m.wait("two replicas", |m| {
        let what = "jsonpath={.spec.replicas}/{.metadata.labels.mine}";
        m.ok(&["get", "deployment", "-n", "shop", "web", "-o", what]) == "2/yes"
    });
    m.wait("the dropped object is deleted", |m| value(m, "extra").is_empty());
    m.wait("an event", |m| events(m, "shop").contains("AppliedManifest"));

    // One refused object keeps the others of its file neither from being applied nor from being kept.
    let refused = config_map("Not_A_Name", "1");
    let text = format!("{}---\n{refused}", config_map("beside", "1"));
    write(&m, "more/beside.yaml", &text);
    m.wait("the object beside the refused one", |m| value(m, "beside") == "1");
    m.wait("an event names the line", |m| {
        let told = events(m, "beside");
        told.contains("ApplyManifestFailed")
            && told.contains("line 6: v1 ConfigMap shop/Not_A_Name")
    });

    // A removed file leaves its objects; a started server writes nothing that is so already.
    fs::remove_file(m.path("data/server/manifests/a_first.yaml")).expect("remove");
    let revisions = |m: &Machine| {
        let get = |what: &[&str]| m.ok(&[&["get", "-n", "shop", "-o"], what].concat());
        let revision = "jsonpath={.metadata.uid}/{.metadata.resourceVersion}";
        [
            get(&["jsonpath={.metadata.uid}/{.metadata.generation}", "deployment", "web"]),
            get(&[revision, "namespace", "shop"]),
            get(&[revision, "configmap", "early"]),
            m.ok(&["get", "-n", "kube-system", "-o", revision, "configmap", "addon.shop"]),
        ]
    };
    let before = revisions(&m);
    m.stop("-TERM");
    m.start(&["--disable", "beside"]);
    m.wait_node_ready();
    write(&m, "last.yaml", &config_map("last", "1"));
    m.wait("a file written after the start", |m| value(m, "last") == "1");
    m.wait("a disabled file's object is deleted", |m| value(m, "beside").is_empty());
    m.ok(&["delete", "configmap", "-n", "shop", "last"]);
    assert_eq!(value(&m, "early"), "1");
    assert_eq!(revisions(&m), before, "nothing was written that was so already");
}
