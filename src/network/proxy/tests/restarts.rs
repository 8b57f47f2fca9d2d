//! A new process in the place of an old one, and a table that somebody has broken.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::world::{NAMESPACE, Over, config, here, on_node, pod_ip, service, slice};
use crate::nft::{Batch, Family};
use crate::proxy::Node;
use crate::proxy::engine::Engine;
use crate::proxy::kernel::Kernel;
use crate::proxy::transaction::TABLE;
use crate::tests::namespace::PATIENCE;

/// How often the new process begins while connections are made.
const STARTS: usize = 20;

fn key(name: &str) -> client::Key {
    (NAMESPACE.to_owned(), name.to_owned())
}

fn stream_slice(address: &str) -> Value {
    json!({"metadata": {"name": "stream", "labels": {"kubernetes.io/service-name": "stream"}},
           "endpoints": [{"addresses": [address], "nodeName": "here"}],
           "ports": [{"name": "tcp", "port": 8090}]})
}

#[test]
fn a_new_process_takes_over_without_a_gap() {
    on_node(2, |mut world| {
        world.service("old", json!({"clusterIP": "10.43.7.8"}), &[]);
        world.endpoints("old", &[here(&pod_ip(0))]);
        let one = json!({"clusterIP": "10.43.7.9", "ports": [{"name": "tcp", "port": 80}]});
        world.service("stream", one.clone(), &[]);
        let stream = Arc::new(serde_json::from_value(stream_slice(&pod_ip(0))).unwrap());
        world.engine.change_slice(&key("stream"), None, Some(stream));
        world.apply();
        world.pod(1).ask(Over::Tcp, "10.43.7.8:80").unwrap();
        let listener = world.pod(0).run(|| TcpListener::bind("0.0.0.0:8090")).unwrap();
        let target: SocketAddr = "10.43.7.9:80".parse().unwrap();
        let mut stream =
            world.pod(1).run(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();

        // The new process knows another Service in place of the old one.
        let mut engine = Engine::new(Node::new(&config()));
        engine.change_service(
            &key("web"),
            Some(service("web", json!({"clusterIP": "10.43.7.7"}), &[])),
        );
        engine.change_slice(&key("web"), None, Some(slice("web", &[here(&pod_ip(0))])));
        Kernel::open(Family::V4).unwrap().update(&mut engine).unwrap();
        let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let client = &world.pods[1];
            let asking = scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let client = super::world::From::Namespace(client);
                    client.ask(Over::Tcp, "10.43.7.7:80").unwrap();
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
            for start in 1..=STARTS {
                Kernel::open(Family::V4).unwrap().update(&mut engine).unwrap();
                while asked.load(Ordering::Relaxed) < start && !asking.is_finished() {
                    std::thread::yield_now();
                }
            }
            ended.store(true, Ordering::Relaxed);
            asking.join().unwrap();
        });
        accepted.write_all(b"still here").unwrap();
        drop(accepted);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
        world.pod(1).is_dropped("10.43.7.8:80");
    });
}

#[test]
fn a_table_that_is_gone_is_made_again() {
    on_node(2, |mut world| {
        world.service("web", json!({"clusterIP": "10.43.7.7"}), &[]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        world.apply();
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        batch.commit().unwrap();
        world.endpoints("web", &[here(&pod_ip(1))]);
        let error = world.kernel.update(&mut world.engine).unwrap_err().to_string();
        assert!(error.starts_with("the kernel refused to DeleteElement"), "{error}");
        world.apply();
        world.pod(0).gets("10.43.7.7:80", "pod1", &pod_ip(0));
    });
}
