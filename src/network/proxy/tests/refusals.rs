//! What leads nowhere.

use serde_json::json;

use super::world::{From, REMOTE, here, on_node, pod_ip, there};

#[test]
fn services_without_endpoints_refuse() {
    on_node(1, |mut world| {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.43.7.7", "nodePort": 30080,
                          "externalIPs": ["198.51.100.7"]});
        world.service("web", spec, &["198.51.100.8"]);
        world.apply();
        let targets = ["10.43.7.7:80", "192.0.2.1:30080", "198.51.100.7:80", "198.51.100.8:80"];
        for _ in 0..2 {
            for target in targets {
                world.pod(0).is_refused(target);
                world.outside().is_refused(target);
                From::Node.is_refused(target);
            }
            // Had endpoints for a while.
            world.endpoints("web", &[here(&pod_ip(0))]);
            world.apply();
            From::Node.gets(targets[0], "pod0", super::world::GATEWAY);
            world.endpoints("web", &[]);
            world.apply();
        }
    });
}

#[test]
fn what_is_not_allocated_is_dropped() {
    on_node(1, |mut world| {
        world.service("web", json!({"clusterIP": "10.43.7.7"}), &[]);
        world.endpoints("web", &[there(REMOTE)]);
        world.apply();
        for from in [world.pod(0), From::Node, world.outside()] {
            from.is_dropped("10.43.7.8:80");
            from.is_refused("10.43.7.7:81");
        }
    });
}

#[test]
fn an_endpoint_may_be_where_another_service_refuses() {
    on_node(1, |mut world| {
        world.keep(super::world::Server::start_at("node", "192.0.2.1:8080".parse().unwrap()));
        let ports = json!([{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}]);
        let spec = json!({"clusterIP": "10.43.7.8", "externalIPs": ["192.0.2.1"], "ports": ports});
        world.service("refusing", spec, &[]);
        world.service("web", json!({"clusterIP": "10.43.7.7"}), &[]);
        world.endpoints("web", &[here("192.0.2.1")]);
        world.apply();
        world.pod(0).is_refused("192.0.2.1:8080");
        world.pod(0).gets("10.43.7.7:80", "node", &pod_ip(0));

        // A load balancer in front of a pod in the node's network, on the same port.
        world.endpoints("refusing", &[here("192.0.2.1")]);
        world.apply();
        world.outside().ask(super::world::Over::Tcp, "192.0.2.1:8080").unwrap();
    });
}

#[test]
fn headless_and_foreign_services_have_no_rules() {
    on_node(1, |mut world| {
        let before = world.apply();
        world.service("headless", json!({"clusterIP": "None", "clusterIPs": ["None"]}), &[]);
        world.service("outside", json!({"type": "ExternalName", "externalName": "x"}), &[]);
        world.endpoints("headless", &[here(&pod_ip(0))]);
        let after = world.apply();
        assert_eq!((before.bytes, after.bytes), (0, 0));
    });
}
