//! Clients that stay with their endpoint.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::world::{From, Over, REMOTE, here, on_node, pod_ip, there};

fn spec(seconds: u32) -> Value {
    json!({"clusterIP": "10.43.7.7", "nodePort": 30080, "sessionAffinity": "ClientIP",
           "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
}

fn all(pods: usize) -> Vec<Value> {
    (0..pods).map(|at| here(&pod_ip(at))).collect()
}

#[test]
fn clients_stay_with_their_endpoint() {
    on_node(4, |mut world| {
        world.service("web", spec(60), &[]);
        world.endpoints("web", &all(4));
        world.apply();
        let target = "10.43.7.7:80";
        let mut chosen = Vec::new();
        for from in [world.pod(0), world.pod(1), world.pod(2), world.pod(3), From::Node] {
            let names = from.names(target);
            assert_eq!(names.len(), 1, "{names:?}");
            chosen.extend(names);
        }
        assert_eq!(world.outside().names("192.0.2.1:30080").len(), 1);
        assert_eq!(world.pod(0).names("192.0.2.1:30080"), [chosen[0].clone()].into());

        // A new endpoint takes no client away, and clients of one that is gone go elsewhere, to stay.
        let mut endpoints = all(4);
        endpoints.push(there(REMOTE));
        world.endpoints("web", &endpoints);
        world.apply();
        assert_eq!(world.pod(0).names(target), [chosen[0].clone()].into());
        let gone: usize = chosen[0].trim_start_matches("pod").parse().unwrap();
        endpoints.remove(gone);
        world.endpoints("web", &endpoints);
        world.apply();
        let other = world.pod(0).names(target);
        assert_eq!(other.len(), 1);
        assert!(!other.contains(&chosen[0]), "{other:?}");

        let spec = json!({"clusterIP": "10.43.7.7", "nodePort": 30080});
        world.service("web", spec, &[]);
        world.apply();
        assert!(world.pod(0).names(target).len() > 1, "without affinity");
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "asking sooner would begin the client's time again")]
fn clients_are_forgotten_in_time() {
    on_node(2, |mut world| {
        world.service("web", spec(60), &[]);
        world.endpoints("web", &all(2));
        world.apply();
        // The time is changed while there are clients.
        assert_eq!(world.pod(0).names("10.43.7.7:80").len(), 1);
        world.service("web", spec(1), &[]);
        world.apply();
        let mut names = BTreeSet::new();
        for _ in 0..20 {
            names.insert(world.pod(0).ask(Over::Tcp, "10.43.7.7:80").unwrap().name);
            if names.len() == 2 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1_100));
        }
        panic!("the client stayed for ever: {names:?}");
    });
}

#[test]
fn local_traffic_may_have_affinity() {
    on_node(2, |mut world| {
        let mut spec = spec(60);
        spec["externalTrafficPolicy"] = "Local".into();
        world.service("web", spec, &[]);
        world.endpoints("web", &[here(&pod_ip(0)), here(&pod_ip(1)), there(REMOTE)]);
        world.apply();
        let names = world.outside().names("192.0.2.1:30080");
        assert!(names.len() == 1 && !names.contains("remote"), "{names:?}");
        world.endpoints("web", &[there(REMOTE)]);
        world.apply();
        world.outside().is_dropped("192.0.2.1:30080");
        world.pod(0).gets("192.0.2.1:30080", "remote", &pod_ip(0));
    });
}
