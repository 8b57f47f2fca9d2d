//! Reading objects.

use super::objects::Routing;
use super::{Node, Pod, Range, Service, Slice};

#[test]
fn services_are_read() {
    let text = r#"{"metadata": {"name": "web", "namespace": "shop", "managedFields": [{}]},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.7", "externalIPs": ["192.0.2.9", "x"],
                 "loadBalancerSourceRanges": ["198.51.100.0/24", " 2001:db8::/32", "wrong"],
                 "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
                 "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 31000,
                 "ports": [{"port": 80, "nodePort": 30080}, {"port": 99999}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "x"},
                                                {"ip": "192.0.2.2", "ipMode": "Proxy"}]}}}"#;
    let service: Service = serde_json::from_str(text).unwrap();
    assert_eq!(
        service.routing,
        Routing {
            foreign: false,
            external_ips: ["192.0.2.9".parse().unwrap()].into(),
            ingress: ["192.0.2.1".parse().unwrap()].into(),
            source_ranges: ["198.51.100.0/24", "2001:db8::/32"]
                .map(|it| it.parse().unwrap())
                .into(),
            affinity: Some(7),
            external_local: true,
            internal_local: false,
            health_port: 31000,
        }
    );
    assert_eq!((service.ports.len(), service.ports[0].node_port), (1, 30080));
    let foreign = r#"{"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}},
        "spec": {"sessionAffinity": "ClientIP"}}"#;
    let routing = serde_json::from_str::<Service>(foreign).unwrap().routing;
    assert!(routing.foreign);
    assert_eq!(routing.affinity, Some(10_800));
}

#[test]
fn slices_are_read() {
    let text = r#"{"metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.42.0.2"]},
                      {"addresses": ["10.42.1.2"], "nodeName": "n",
                       "conditions": {"ready": false, "serving": true, "terminating": true},
                       "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]}}],
        "ports": [{"port": 8080}]}"#;
    let slice: Slice = serde_json::from_str(text).unwrap();
    let states: Vec<_> =
        slice.endpoints.iter().map(|it| (it.ready, it.serving, it.terminating)).collect();
    assert_eq!(states, [(true, true, false), (false, true, true)]);
    let second = &slice.endpoints[1];
    assert_eq!(
        (second.node.as_deref(), &*second.zones[0], &*second.nodes[0]),
        (Some("n"), "z", "n")
    );
}

#[test]
fn pods_and_nodes_are_read() {
    let pod = |phase: &str, host: bool| -> Pod {
        let text = format!(
            r#"{{"metadata": {{"name": "a"}}, "spec": {{"hostNetwork": {host}, "containers": [{{"ports": [
                {{"containerPort": 80, "hostPort": 8080}}, {{"containerPort": 53, "hostPort": 53, "protocol": "UDP",
                  "hostIP": "192.0.2.1"}}, {{"containerPort": 81}}]}}]}},
            "status": {{"phase": "{phase}", "podIP": "10.42.0.2", "podIPs": [{{"ip": "10.42.0.2"}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    let running = pod("Running", false);
    let ports: Vec<_> =
        running.host_ports.iter().map(|it| (it.protocol, it.number, it.container_port)).collect();
    assert_eq!(ports, [("_tcp", 8080, 80), ("_udp", 53, 53)]);
    assert_eq!(running.addresses.len(), 1);
    assert!(pod("Failed", false).addresses.is_empty() && pod("Running", true).addresses.is_empty());

    let node = r#"{"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}, "status": {"addresses": [
        {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}]}}"#;
    let node: Node = serde_json::from_str(node).unwrap();
    assert_eq!((node.addresses.len(), node.zone.as_deref()), (1, Some("z")));
}

#[test]
fn ranges_are_of_either_family() {
    let range = |text: &str| text.parse::<Range>();
    assert_eq!(range("10.42.3.7/16").unwrap().to_string(), "10.42.0.0/16");
    assert_eq!(range("2001:db8:1::7/32").unwrap().to_string(), "2001:db8::/32");
    assert_eq!(range("10.42.3.7").unwrap().prefix(), 32);
    assert!(range("0.0.0.0/0").unwrap().contains("192.0.2.1".parse().unwrap()));
    assert!(!range("0.0.0.0/0").unwrap().contains("::1".parse().unwrap()));
    assert!(range("::/0").unwrap().contains("::1".parse().unwrap()));
    for wrong in ["", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/"] {
        assert!(range(wrong).unwrap_err().to_string().contains("is not a range"), "{wrong}");
    }
}
