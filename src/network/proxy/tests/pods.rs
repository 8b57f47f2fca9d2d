//! Host ports of pods, and what connection tracking remembers of datagrams.

use serde_json::{Value, json};

use super::world::{
    From, GATEWAY, NODE, OUTSIDE, Over, REMOTE, Server, ask_udp, here, on_node, pod_ip, there, udp,
};
use crate::tests::namespace::PATIENCE;

fn pod(address: &str, phase: &str, ports: Value) -> Value {
    json!({"metadata": {"name": "pod", "namespace": "shop"}, "spec": {"containers": [{"ports": ports}]},
           "status": {"phase": phase, "podIP": address}})
}

fn both(host_port: u16, host_ip: &str) -> Value {
    json!([{"containerPort": 8080, "hostPort": host_port, "hostIP": host_ip},
           {"containerPort": 8080, "hostPort": host_port, "hostIP": host_ip, "protocol": "UDP"}])
}

#[test]
fn host_ports_lead_to_the_pod() {
    on_node(2, |mut world| {
        world.keep(Server::start("node", 8089));
        world.pod_object("a", Some(pod(&pod_ip(0), "Running", both(8089, ""))));
        world.apply();
        world.outside().gets("192.0.2.1:8089", "pod0", OUTSIDE);
        world.pod(1).gets("192.0.2.1:8089", "pod0", &pod_ip(1));
        world.pod(0).gets("192.0.2.1:8089", "pod0", GATEWAY);
        world.pod(1).gets("10.42.7.1:8089", "pod0", &pod_ip(1));
        From::Node.gets("192.0.2.1:8089", "pod0", NODE);
        From::Node.gets("127.0.0.1:8089", "node", "127.0.0.1");

        world.pod_object("a", Some(pod(&pod_ip(0), "Succeeded", both(8089, ""))));
        world.apply();
        assert_eq!(world.outside().ask(Over::Tcp, "192.0.2.1:8089").unwrap().name, "node");

        // One address of the node only.
        world.pod_object("a", Some(pod(&pod_ip(0), "Running", both(8089, "10.42.7.1"))));
        world.apply();
        world.pod(1).gets("10.42.7.1:8089", "pod0", &pod_ip(1));
        assert_eq!(world.outside().ask(Over::Tcp, "192.0.2.1:8089").unwrap().name, "node");
        world.pod_object("a", None);
        world.apply();
        assert_eq!(world.pod(1).ask(Over::Tcp, "10.42.7.1:8089").unwrap().name, "node");
    });
}

#[test]
fn datagrams_follow_their_service() {
    on_node(3, |mut world| {
        let spec = json!({"clusterIP": "10.43.7.7", "nodePort": 30080});
        world.service("web", spec, &[]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        world.apply();
        // Clients that never change their port, so that each is one flow for connection tracking.
        let inside = world.pod(2).run(|| udp("10.43.7.7:80".parse().unwrap()));
        let outside = world.outside().run(|| udp("192.0.2.1:30080".parse().unwrap()));
        let host = udp("10.43.7.7:80".parse().unwrap());
        let all = [&inside, &outside, &host];
        let answered_by = |name: &str| {
            for socket in all {
                assert_eq!(ask_udp(socket, PATIENCE).unwrap().name, name);
            }
        };
        answered_by("pod0");
        world.endpoints("web", &[here(&pod_ip(0)), here(&pod_ip(1))]);
        assert_eq!(world.apply().flows, 0, "nothing is stale");
        answered_by("pod0");
        world.endpoints("web", &[here(&pod_ip(1))]);
        assert_eq!(world.apply().flows, 3);
        answered_by("pod1");
        world.endpoints("web", &[there(REMOTE)]);
        world.apply();
        answered_by("remote");
        world.endpoints("web", &[]);
        world.apply();
        for socket in all {
            assert!(ask_udp(socket, PATIENCE).is_err());
        }
        world.endpoints("web", &[here(&pod_ip(1))]);
        world.apply();
        answered_by("pod1");
    });
}

#[test]
fn datagrams_that_came_before_the_service_are_led() {
    on_node(1, |mut world| {
        let node = Server::start("node", 30080);
        let outside = world.outside().run(|| udp("192.0.2.1:30080".parse().unwrap()));
        assert_eq!(ask_udp(&outside, PATIENCE).unwrap().name, "node");
        drop(node);
        let spec = json!({"clusterIP": "10.43.7.7", "nodePort": 30080});
        world.service("web", spec, &[]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        assert_eq!(world.apply().flows, 1);
        assert_eq!(ask_udp(&outside, PATIENCE).unwrap().name, "pod0");
    });
}
