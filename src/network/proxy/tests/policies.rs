//! Traffic policies, readiness, terminating endpoints, topology hints.

use serde_json::{Value, json};

use super::world::{From, GATEWAY, NODE, OUTSIDE, REMOTE, endpoint, here, on_node, pod_ip, there};

const TERMINATING: (bool, bool, bool) = (false, true, true);
const ENDED: (bool, bool, bool) = (false, false, true);
const NOT_READY: (bool, bool, bool) = (false, false, false);

#[test]
fn local_external_traffic_keeps_its_sender() {
    on_node(2, |mut world| {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.43.7.7", "nodePort": 30080,
                          "externalIPs": ["198.51.100.7"], "externalTrafficPolicy": "Local"});
        world.service("web", spec, &["198.51.100.8"]);
        world.endpoints("web", &[here(&pod_ip(0)), there(REMOTE)]);
        world.apply();
        let targets = ["192.0.2.1:30080", "198.51.100.7:80", "198.51.100.8:80"];
        for target in targets {
            for _ in 0..8 {
                world.outside().gets(target, "pod0", OUTSIDE);
            }
            // The cluster is not outside.
            let all = ["pod0", "remote"].map(str::to_owned).into();
            assert_eq!(world.pod(1).names(target), all);
            assert_eq!(From::Node.names(target), all);
        }

        world.endpoints("web", &[there(REMOTE)]);
        world.apply();
        for target in targets {
            world.outside().is_dropped(target);
            world.pod(1).gets(target, "remote", &pod_ip(1));
            From::Node.gets(target, "remote", NODE);
        }
        world.endpoints("web", &[]);
        world.apply();
        for target in targets {
            world.outside().is_refused(target);
            world.pod(1).is_refused(target);
        }
    });
}

#[test]
fn local_internal_traffic_stays() {
    on_node(2, |mut world| {
        let spec = json!({"clusterIP": "10.43.7.7", "internalTrafficPolicy": "Local"});
        world.service("web", spec, &[]);
        world.endpoints("web", &[here(&pod_ip(0)), there(REMOTE)]);
        world.apply();
        for _ in 0..8 {
            world.pod(1).gets("10.43.7.7:80", "pod0", &pod_ip(1));
            From::Node.gets("10.43.7.7:80", "pod0", GATEWAY);
        }
        world.endpoints("web", &[there(REMOTE)]);
        world.apply();
        world.pod(1).is_dropped("10.43.7.7:80");
        From::Node.is_dropped("10.43.7.7:80");
        world.endpoints("web", &[]);
        world.apply();
        world.pod(1).is_refused("10.43.7.7:80");
    });
}

#[test]
fn terminating_endpoints_serve_when_there_is_nothing_else() {
    on_node(3, |mut world| {
        let spec =
            json!({"clusterIP": "10.43.7.7", "nodePort": 30080, "externalTrafficPolicy": "Local"});
        world.service("web", spec, &[]);
        let of = |at: usize, state| endpoint(&pod_ip(at), "here", state);
        let steps: [(Vec<Value>, Option<&str>); 4] = [
            (vec![here(&pod_ip(0)), of(1, TERMINATING), of(2, NOT_READY)], Some("pod0")),
            (vec![of(0, NOT_READY), of(1, TERMINATING), of(2, ENDED)], Some("pod1")),
            (vec![of(0, ENDED), of(1, ENDED), here(&pod_ip(2))], Some("pod2")),
            (vec![of(0, NOT_READY), of(1, ENDED)], None),
        ];
        for (endpoints, name) in steps {
            world.endpoints("web", &endpoints);
            world.apply();
            match name {
                Some(name) => {
                    assert_eq!(world.pod(2).names("10.43.7.7:80"), [name.to_owned()].into());
                    assert_eq!(world.outside().names("192.0.2.1:30080"), [name.to_owned()].into());
                }
                None => {
                    world.pod(2).is_refused("10.43.7.7:80");
                    world.outside().is_refused("192.0.2.1:30080");
                }
            }
        }
        // A terminating endpoint of this node is better than none, though others are ready.
        world.endpoints("web", &[of(1, TERMINATING), there(REMOTE)]);
        world.apply();
        assert_eq!(world.outside().names("192.0.2.1:30080"), ["pod1".to_owned()].into());
        assert_eq!(world.pod(2).names("10.43.7.7:80"), ["remote".to_owned()].into());
    });
}

#[test]
fn hints_are_followed() {
    on_node(2, |mut world| {
        world.service("web", json!({"clusterIP": "10.43.7.7"}), &[]);
        let hinted = |address: &str, node: &str| json!({"addresses": [address], "nodeName": "any", "hints": {"forNodes": [{"name": node}]}});
        world.endpoints("web", &[hinted(&pod_ip(0), "here"), hinted(REMOTE, "there")]);
        world.apply();
        assert_eq!(world.pod(1).names("10.43.7.7:80"), ["pod0".to_owned()].into());
        world.endpoints("web", &[hinted(&pod_ip(0), "elsewhere"), hinted(REMOTE, "there")]);
        world.apply();
        assert_eq!(world.pod(1).names("10.43.7.7:80").len(), 2);
    });
}
