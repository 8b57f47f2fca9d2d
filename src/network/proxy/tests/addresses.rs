//! Ways into a Service: cluster addresses, ports of nodes, load balancers, external addresses.

use serde_json::json;

use super::world::{
    From, GATEWAY, NODE, OUTSIDE, Over, REMOTE, Server, here, on_node, pod_ip, there,
};

#[test]
fn cluster_addresses_lead_to_endpoints() {
    on_node(3, |mut world| {
        world.service("web", json!({"clusterIP": "10.43.7.7"}), &[]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        world.apply();
        let target = "10.43.7.7:80";
        world.pod(1).gets(target, "pod0", &pod_ip(1));
        world.pod(0).gets(target, "pod0", GATEWAY);
        From::Node.gets(target, "pod0", GATEWAY);
        world.outside().gets(target, "pod0", GATEWAY);

        world.endpoints("web", &[here(&pod_ip(0)), here(&pod_ip(1)), there(REMOTE)]);
        world.apply();
        let all = ["pod0", "pod1", "remote"].map(str::to_owned).into();
        for from in [world.pod(0), world.pod(2), From::Node, world.outside()] {
            assert_eq!(from.names(target), all);
        }

        world.endpoints("web", &[there(REMOTE)]);
        world.apply();
        world.pod(1).gets(target, "remote", &pod_ip(1));
        From::Node.gets(target, "remote", NODE);

        world.no_service("web");
        world.apply();
        world.pod(1).is_dropped(target);
    });
}

#[test]
fn the_api_server_is_reached_by_its_cluster_address() {
    on_node(1, |mut world| {
        world.keep(Server::start_at("api", "192.0.2.1:8080".parse().unwrap()));
        world.service("kubernetes", json!({"clusterIP": "10.43.0.1"}), &[]);
        world.endpoints("kubernetes", &[json!({"addresses": [NODE]})]);
        world.apply();
        world.pod(0).gets("10.43.0.1:80", "api", &pod_ip(0));
        assert_eq!(From::Node.ask(Over::Tcp, "10.43.0.1:80").unwrap().name, "api");
    });
}

#[test]
fn cluster_dns_stays_on_the_node() {
    on_node(1, |mut world| {
        crate::tests::namespace::ip("addr add 10.43.0.10/32 dev lo");
        world.keep(Server::start_at("dns", "10.43.0.10:80".parse().unwrap()));
        world.service("kube-dns", json!({"clusterIP": "10.43.0.10"}), &[]);
        world.endpoints("kube-dns", &[there(REMOTE)]);
        world.apply();
        world.pod(0).gets("10.43.0.10:80", "dns", &pod_ip(0));
        From::Node.gets("10.43.0.10:80", "dns", "10.43.0.10");
    });
}

#[test]
fn ports_of_the_node_lead_to_endpoints() {
    on_node(2, |mut world| {
        world.service("web", json!({"clusterIP": "10.43.7.7", "nodePort": 30080}), &[]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        world.apply();
        let target = "192.0.2.1:30080";
        world.outside().gets(target, "pod0", GATEWAY);
        world.pod(1).gets(target, "pod0", GATEWAY);
        world.pod(0).gets(target, "pod0", GATEWAY);
        From::Node.gets(target, "pod0", GATEWAY);

        // An endpoint elsewhere is reached under the node's address, so that answers come back.
        world.endpoints("web", &[there(REMOTE)]);
        world.apply();
        world.outside().gets(target, "remote", NODE);

        // The cluster address has no such port, and the node no port 80.
        world.pod(1).is_refused("10.43.7.7:30080");
        world.outside().is_refused("192.0.2.1:80");
    });
}

#[test]
fn load_balancers_and_external_addresses_lead_to_endpoints() {
    on_node(2, |mut world| {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.43.7.7", "externalIPs": ["198.51.100.7"]});
        world.service("web", spec, &[NODE, "198.51.100.8"]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        world.apply();
        for target in ["192.0.2.1:80", "198.51.100.7:80", "198.51.100.8:80"] {
            world.outside().gets(target, "pod0", GATEWAY);
            world.pod(1).gets(target, "pod0", GATEWAY);
            From::Node.gets(target, "pod0", GATEWAY);
        }
    });
}

#[test]
fn load_balancers_are_for_those_in_the_source_ranges() {
    on_node(2, |mut world| {
        let spec = |ranges: &[&str]| {
            json!({"type": "LoadBalancer", "clusterIP": "10.43.7.7", "nodePort": 30080,
                   "loadBalancerSourceRanges": ranges})
        };
        world.service("web", spec(&["203.0.113.0/24", "192.0.2.2/32"]), &[NODE]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        world.apply();
        world.outside().gets("192.0.2.1:80", "pod0", GATEWAY);
        world.pod(1).is_dropped("192.0.2.1:80");
        // Neither the port of the node nor the cluster address are the load balancer's.
        world.pod(1).gets("192.0.2.1:30080", "pod0", GATEWAY);
        world.pod(1).gets("10.43.7.7:80", "pod0", &pod_ip(1));

        world.service("web", spec(&["10.42.0.0/16", "192.0.2.1/32"]), &[NODE]);
        world.apply();
        world.outside().is_dropped("192.0.2.1:80");
        world.pod(1).gets("192.0.2.1:80", "pod0", GATEWAY);
        From::Node.gets("192.0.2.1:80", "pod0", GATEWAY);

        world.service("web", spec(&[]), &[NODE]);
        world.apply();
        world.outside().gets("192.0.2.1:80", "pod0", GATEWAY);
        assert_eq!(world.outside.ip("route get 192.0.2.1").matches(OUTSIDE).count(), 1);
    });
}
