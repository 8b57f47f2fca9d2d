//! Variables, command lines, the downward API, network files.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, Secret, Service};
use runtime::image::ImageConfig;
use serde_json::json;

use crate::env::{self, Objects};
use crate::expand::{expand, unknown};
use crate::fieldref::{self, NodeFields};
use crate::netfiles::{self, ClusterDns};
use crate::{container_spec, volumes};

fn typed<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("the test's object")
}

fn pod() -> Pod {
    typed(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
            "labels": {"app": "web", "tier": "a\"b"}, "annotations": {"note": "x"}},
        "spec": {"serviceAccountName": "sa", "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}}]},
    }))
}

fn node() -> NodeFields {
    NodeFields {
        node_name: "n1".into(),
        host_ips: vec!["192.168.1.5".into()],
        pod_ips: vec!["10.42.0.7".into(), "fd00::7".into()],
        allocatable_cpu: 4000,
        allocatable_memory: 1 << 30,
    }
}

#[test]
fn references_expand_as_upstream() {
    let lookup = |name: &str| match name {
        "A" => Some("1".to_owned()),
        "B" => Some("$(A)".to_owned()),
        _ => None,
    };
    let cases = [
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y$(A)z"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NOPE)", "$(NOPE)"),
        ("$(A", "$(A"),
        ("$A $", "$A $"),
        ("$$$$", "$$"),
        ("", ""),
        ("$()", "$()"),
    ];
    for (input, wanted) in cases {
        assert_eq!(expand(input, lookup), wanted, "{input}");
    }
    assert_eq!(unknown("$(A)/$(NOPE)", |n| n == "A"), ["NOPE"]);
}

#[test]
fn variables_come_from_everywhere_in_order() {
    let container: Container = typed(json!({"name": "a",
    "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}},
        {"configMapRef": {"name": "absent", "optional": true}}],
    "env": [
        {"name": "PLAIN", "value": "p"},
        {"name": "REF", "value": "$(PLAIN)-$(P_k)-$(DB_SERVICE_HOST)-$(LATER)"},
        {"name": "LATER", "value": "l"},
        {"name": "password", "value": "overridden"},
        {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
        {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
        {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
    ]}));
    let mut objects = Objects::default();
    let map: ConfigMap = typed(json!({"metadata": {"name": "cm"}, "data": {"k": "v"}}));
    let secret: Secret =
        typed(json!({"metadata": {"name": "s"}, "data": {"password": "c2VjcmV0"}}));
    objects.config_maps.insert("cm".into(), Some(Arc::new(map)));
    objects.config_maps.insert("absent".into(), None);
    objects.secrets.insert("s".into(), Some(Arc::new(secret)));
    let services = [("DB_SERVICE_HOST".to_owned(), "10.43.0.9".to_owned())];
    let resolved =
        env::resolve(&pod(), &container, &objects, &node(), &services).expect("all is there");
    let text: Vec<String> = resolved.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let wanted = [
        "P_k=v",
        "password=overridden",
        "PLAIN=p",
        "REF=p-v-10.43.0.9-$(LATER)",
        "LATER=l",
        "KEY=v",
        "NS=shop",
        "CPU=4",
        "DB_SERVICE_HOST=10.43.0.9",
    ];
    assert_eq!(text, wanted);
    let references = env::references(&container);
    assert_eq!(references.config_maps.into_iter().collect::<Vec<_>>(), ["absent", "cm"]);
}

#[test]
fn what_is_missing_is_named() {
    let refuse = |env: serde_json::Value| {
        let container: Container =
            typed(json!({"name": "a", "env": [{"name": "X", "valueFrom": env}]}));
        let mut objects = Objects::default();
        let map: ConfigMap = typed(json!({"metadata": {"name": "cm"}}));
        objects.config_maps.insert("cm".into(), Some(Arc::new(map)));
        env::resolve(&pod(), &container, &objects, &node(), &[]).expect_err("it is missing").message
    };
    let cases = [
        (json!({"configMapKeyRef": {"name": "no", "key": "k"}}), "configmap \"no\" not found"),
        (json!({"secretKeyRef": {"name": "no", "key": "k"}}), "secret \"no\" not found"),
        (
            json!({"configMapKeyRef": {"name": "cm", "key": "k"}}),
            "couldn't find key k in ConfigMap shop/cm",
        ),
        (json!({"fieldRef": {"fieldPath": "spec.nope"}}), "unsupported fieldPath: spec.nope"),
    ];
    for (env, wanted) in cases {
        assert_eq!(refuse(env), wanted);
    }
}

#[test]
fn services_become_variables() {
    let service = |ns: &str, name: &str, ip: &str| -> Service {
        typed(json!({"metadata": {"name": name, "namespace": ns}, "spec": {"clusterIP": ip,
            "ports": [{"name": "http-alt", "port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}))
    };
    let all = [
        service("default", "kubernetes", "10.43.0.1"),
        service("shop", "my-db", "10.43.0.9"),
        service("shop", "headless", "None"),
        service("other", "x", "10.43.0.8"),
    ];
    let vars = env::service_variables(all.iter(), "shop", true);
    let get = |name: &str| vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(get("KUBERNETES_SERVICE_HOST"), Some("10.43.0.1"));
    assert_eq!(get("MY_DB_SERVICE_PORT_HTTP_ALT"), Some("80"));
    assert_eq!(get("MY_DB_PORT"), Some("tcp://10.43.0.9:80"));
    assert_eq!(get("MY_DB_PORT_53_UDP"), Some("udp://10.43.0.9:53"));
    assert_eq!(get("MY_DB_PORT_80_TCP_ADDR"), Some("10.43.0.9"));
    assert_eq!(get("HEADLESS_SERVICE_HOST"), None);
    assert_eq!(get("X_SERVICE_HOST"), None);
    let without = env::service_variables(all.iter(), "shop", false);
    assert!(without.iter().all(|(n, _)| n.starts_with("KUBERNETES_")), "{without:?}");
}

#[test]
fn fields_and_resources_are_readable() {
    let field = |path: &str| fieldref::field(&pod(), &node(), path);
    let cases = [
        ("metadata.name", Ok("web")),
        ("metadata.labels['app']", Ok("web")),
        ("metadata.annotations['none']", Ok("")),
        ("metadata.labels", Ok("app=\"web\"\ntier=\"a\\\"b\"")),
        ("spec.nodeName", Ok("n1")),
        ("status.podIPs", Ok("10.42.0.7,fd00::7")),
        ("status.hostIP", Ok("192.168.1.5")),
        ("metadata.name['x']", Err("fieldPath \"metadata.name['x']\" does not support subscript")),
    ];
    for (path, wanted) in cases {
        assert_eq!(field(path), wanted.map(str::to_owned).map_err(str::to_owned), "{path}");
    }
    let resource = |name: &str, divisor: Option<&str>| {
        let selector = typed(
            json!({"containerName": "a", "resource": name, "divisor": divisor.unwrap_or("0")}),
        );
        fieldref::resource(&pod(), &Container::default(), &node(), &selector)
    };
    assert_eq!(resource("requests.cpu", None).as_deref(), Ok("1"));
    assert_eq!(resource("requests.cpu", Some("1m")).as_deref(), Ok("250"));
    assert_eq!(resource("limits.cpu", None).as_deref(), Ok("4"));
    assert_eq!(resource("limits.memory", Some("1Mi")).as_deref(), Ok("128"));
    assert_eq!(resource("requests.memory", None).as_deref(), Ok("67108864"));
}

#[test]
fn commands_follow_the_image() {
    let image = ImageConfig {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["serve".into(), "$(X)".into()],
        ..ImageConfig::default()
    };
    let env = [("X".to_owned(), "1".to_owned())];
    let line = |container: serde_json::Value, image: &ImageConfig| {
        container_spec::command(&typed(container), image, &env).map_err(|f| f.message)
    };
    let cases = [
        (json!({"name": "a"}), vec!["/entry", "serve", "$(X)"]),
        (json!({"name": "a", "args": ["$(X)"]}), vec!["/entry", "1"]),
        (json!({"name": "a", "command": ["sh", "$(X)"]}), vec!["sh", "1"]),
        (json!({"name": "a", "command": ["sh"], "args": ["-c"]}), vec!["sh", "-c"]),
    ];
    for (container, wanted) in cases {
        assert_eq!(
            line(container.clone(), &image),
            Ok(wanted.into_iter().map(str::to_owned).collect()),
            "{container}"
        );
    }
    let nothing = line(json!({"name": "a"}), &ImageConfig::default());
    assert_eq!(nothing, Err("failed to generate spec: no command specified".to_owned()));
}

#[test]
fn network_files_are_upstreams() {
    let dns =
        ClusterDns { servers: vec![IpAddr::from([10, 43, 0, 10])], domain: "cluster.local".into() };
    let host = "# by dhcp\nnameserver 1.1.1.1\nsearch lan home\noptions timeout:1\n";
    let spec = |value| -> PodSpec { typed(value) };
    let resolv = |value| crate::resolver::resolv_conf(&spec(value), "shop", host, &dns).0;
    assert_eq!(
        resolv(json!({"containers": []})),
        "search shop.svc.cluster.local svc.cluster.local cluster.local lan home\nnameserver 10.43.0.10\noptions ndots:5\n"
    );
    assert_eq!(
        resolv(json!({"containers": [], "hostNetwork": true})),
        "search lan home\nnameserver 1.1.1.1\noptions timeout:1\n"
    );
    assert_eq!(
        resolv(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"],
            "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}})
        ),
        "search a\nnameserver 9.9.9.9\noptions ndots:2 rotate\n"
    );
    let aliased = spec(json!({"containers": [], "subdomain": "sub",
        "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}]}));
    let domain = netfiles::pod_domain(&aliased, "shop", &dns);
    let hosts =
        netfiles::hosts(&aliased, &[IpAddr::from([10, 42, 0, 7])], "web", domain.as_deref());
    assert!(
        hosts.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\t"),
        "{hosts}"
    );
    assert!(hosts.contains("\n10.42.0.7\tweb.sub.shop.svc.cluster.local\tweb\n"), "{hosts}");
    assert!(hosts.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\tx\ty\n"), "{hosts}");
    let long =
        netfiles::hostname(&spec(json!({"containers": []})), &format!("{}-x", "a".repeat(62)), "n");
    assert_eq!(long, "a".repeat(62));
}

#[test]
fn unsupported_volumes_name_themselves() {
    let kind = |value| volumes::plan::kind(&typed(value));
    let claim = kind(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
    assert_eq!(claim, volumes::plan::Kind::Unsupported("persistentVolumeClaim"));
    let nfs = kind(json!({"name": "v", "nfs": {"server": "s", "path": "/"}}));
    assert_eq!(nfs, volumes::plan::Kind::Unsupported("nfs"));
}
