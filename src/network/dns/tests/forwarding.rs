//! Names of others, asked for at resolvers on loopback.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use super::responder::Responder;
use super::{isolated, lines, request};
use crate::dns::Config;
use crate::dns::packet::Carrier;
use crate::dns::resolver::{Resolver, write};

/// A node with its resolvers' file.
struct Node {
    resolver: Arc<Resolver>,
    folder: tempfile::TempDir,
}

impl Node {
    fn new(servers: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_servers(folder.path(), servers);
        let listen = vec!["10.43.0.10:53".parse().unwrap()];
        let config = Config::new(listen, "cluster.local", folder.path().join("resolv.conf"));
        let resolver = Arc::new(Resolver::new(&config).unwrap());
        let cluster = super::cluster();
        let index = resolver.index();
        write(&index).reset_services(cluster.services);
        write(&index).reset_slices(cluster.slices);
        Self { resolver, folder }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.ask_over(name, kind, Carrier::Tcp).await
    }

    async fn ask_over(&self, name: &str, kind: RecordType, carrier: Carrier) -> Message {
        let mut out = Vec::new();
        let request = request(name, kind);
        if !self.resolver.immediate(&request, carrier, &mut out) {
            self.resolver.resolve(&request, carrier, &mut out).await;
        }
        Message::from_vec(&out).unwrap()
    }

    async fn lines(&self, name: &str) -> Vec<String> {
        lines(&self.ask(name, RecordType::A).await)
    }
}

/// Replaces the file, as programs that manage it do.
fn write_servers(folder: &Path, servers: &[&str]) {
    let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let new = folder.join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join("resolv.conf")).unwrap();
}

async fn responder(address: &str, number: u8) -> Responder {
    Responder::start(format!("{address}:53").parse().unwrap(), number).await
}

#[test]
fn answers_are_kept() {
    isolated(|| async {
        let upstream = responder("127.0.0.1", 1).await;
        let node = Node::new(&["127.0.0.1"]);
        let first = node.ask("plain.example.", RecordType::A).await;
        assert_eq!(lines(&first), ["No Error", "plain.example. 60 IN A 192.0.2.1"]);
        assert!(first.recursion_available && !first.authoritative && !first.authentic_data);
        for spelling in ["PLAIN.example.", "plain.EXAMPLE."] {
            let again = node.ask(spelling, RecordType::A).await;
            assert_eq!(again.queries[0].name.to_string(), spelling);
            assert_eq!(again.answers.len(), 1);
        }
        assert_eq!(node.lines("missing.example.").await[0], "Non-Existent Domain");
        let denied = node.ask("missing.example.", RecordType::A).await;
        assert_eq!(denied.response_code, ResponseCode::NXDomain);
        assert_eq!(denied.authorities.len(), 1);
        for _ in 0..2 {
            let none = node.ask("plain.example.", RecordType::AAAA).await;
            assert_eq!((none.response_code, none.answers.len()), (ResponseCode::NoError, 0));
        }
        assert_eq!(upstream.asked(), ["udp plain", "udp missing", "udp plain"]);
        assert_eq!(node.resolver.cache_usage().0, 3);
    });
}

#[test]
fn long_answers_come_over_tcp() {
    isolated(|| async {
        let upstream = responder("127.0.0.1", 1).await;
        let node = Node::new(&["127.0.0.1"]);
        let whole = node.ask("long.example.", RecordType::A).await;
        assert_eq!((whole.answers.len(), whole.truncation), (200, false));
        let part = node.ask_over("long.example.", RecordType::A, Carrier::Udp).await;
        assert!(part.truncation && part.answers.len() > 60, "{}", part.answers.len());
        assert_eq!(upstream.asked(), ["udp long", "tcp long"]);
        assert_eq!(node.lines("cut.example.").await, ["Server Failure"]);
    });
}

#[test]
fn forged_and_old_fashioned_answers() {
    isolated(|| async {
        let upstream = responder("127.0.0.1", 1).await;
        let node = Node::new(&["127.0.0.1"]);
        let expected = ["No Error", "forged.example. 60 IN A 192.0.2.1"];
        assert_eq!(node.lines("forged.example.").await, expected);
        let expected = ["No Error", "ancient.example. 60 IN A 192.0.2.1"];
        assert_eq!(node.lines("ancient.example.").await, expected);
        assert_eq!(upstream.asked(), ["udp forged", "udp ancient", "udp ancient"]);
    });
}

#[test]
fn the_next_resolver_is_asked() {
    isolated(|| async {
        let first = responder("127.0.0.1", 1).await;
        let second = responder("127.0.0.2", 2).await;
        // Nobody listens on the last one, which is refused at once.
        let node = Node::new(&["127.0.0.9", "127.0.0.1", "127.0.0.2"]);
        let expected = ["No Error", "broken.example. 60 IN A 192.0.2.2"];
        assert_eq!(node.lines("broken.example.").await, expected);
        let expected = ["No Error", "plain.example. 60 IN A 192.0.2.2"];
        assert_eq!(node.lines("plain.example.").await, expected, "what worked is asked first");
        assert_eq!(first.asked(), ["udp broken"]);
        assert_eq!(second.asked(), ["udp broken", "udp plain"]);
    });
}

#[test]
fn silence_fails_in_time_and_is_remembered() {
    isolated(|| async {
        let upstream = responder("127.0.0.1", 1).await;
        let node = Node::new(&["127.0.0.1"]);
        let start = Instant::now();
        assert_eq!(node.lines("silent.example.").await, ["Server Failure"]);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(node.lines("silent.example.").await, ["Server Failure"]);
        assert_eq!(upstream.asked().len(), 2, "two rounds, then a failure that is kept");
    });
}

#[test]
fn a_question_is_under_way_once() {
    isolated(|| async {
        let upstream = responder("127.0.0.1", 1).await;
        let node = Node::new(&["127.0.0.1"]);
        let abandoned = node.lines("slow.example.");
        tokio::time::timeout(Duration::from_millis(50), abandoned).await.unwrap_err();
        let first = node.lines("slow.example.");
        let second = node.lines("SLOW.example.");
        let open = async {
            while upstream.asked().len() < 2 {
                tokio::task::yield_now().await;
            }
            upstream.gate.add_permits(2);
        };
        let (first, second, ()) = tokio::join!(first, second, open);
        assert_eq!(first, ["No Error", "slow.example. 60 IN A 192.0.2.1"]);
        assert_eq!(first.len(), second.len());
        assert_eq!(upstream.asked().len(), 2, "the abandoned one and one for both");
    });
}

#[test]
fn aliases_lead_out_of_the_cluster_and_back() {
    isolated(|| async {
        let upstream = responder("127.0.0.1", 1).await;
        let node = Node::new(&["127.0.0.1"]);
        let out = node.lines("outside.shop.svc.cluster.local.").await;
        assert_eq!(
            out,
            [
                "No Error",
                "outside.shop.svc.cluster.local. 5 IN CNAME db.example.com.",
                "db.example.com. 60 IN A 192.0.2.1",
            ]
        );
        let back = node.lines("elsewhere.shop.svc.cluster.local.").await;
        assert_eq!(
            back,
            [
                "No Error",
                "elsewhere.shop.svc.cluster.local. 5 IN CNAME web.shop.svc.cluster.local.",
                "web.shop.svc.cluster.local. 5 IN A 10.43.7.7",
            ]
        );
        let service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "loop", "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "loop.shop.svc.cluster.local"},
        }));
        let index = node.resolver.index();
        write(&index).change_service(("shop", "loop"), Some(Arc::new(service.unwrap())));
        assert_eq!(node.lines("loop.shop.svc.cluster.local.").await[0], "Server Failure");
        assert_eq!(upstream.asked(), ["udp db"]);
    });
}

#[test]
fn the_list_of_resolvers_is_followed() {
    isolated(|| async {
        let _first = responder("127.0.0.1", 1).await;
        let _second = responder("127.0.0.2", 2).await;
        let node = Node::new(&[]);
        assert_eq!(node.lines("a.example.").await, ["Server Failure"]);
        let last = |lines: Vec<String>| lines.last().unwrap().clone();
        for (server, number) in [("127.0.0.1", 1), ("127.0.0.2", 2)] {
            write_servers(node.folder.path(), &[server]);
            let start = Instant::now();
            // What is not cached makes it look at the file, and a change empties the cache.
            for attempt in 0.. {
                node.lines(&format!("try{attempt}.example.")).await;
                if last(node.lines("a.example.").await).ends_with(&format!("192.0.2.{number}")) {
                    break;
                }
                assert!(start.elapsed() < Duration::from_secs(10));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        std::fs::remove_file(node.folder.path().join("resolv.conf")).unwrap();
        assert!(last(node.lines("a.example.").await).ends_with("192.0.2.2"), "still in the cache");
    });
}
