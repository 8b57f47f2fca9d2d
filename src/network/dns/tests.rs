//! Tests of cluster DNS. Those with sockets run in network namespaces of their own, which end with the test; they need
//! root. `UPDATE=1` rewrites the answers in `cases/`.

mod address;
mod caching;
mod forwarding;
mod index;
mod lookups;
mod packets;
mod resolvers;
mod responder;
mod serving;

use std::sync::Arc;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, unshare};
use serde::Deserialize;

use super::index::Index;
use super::packet::Request;
use crate::inputs::{Service, Slice};

/// The objects of `cases/cluster.json`.
#[derive(Clone, Deserialize)]
struct Cluster {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<Slice>>,
}

const CLUSTER: &str = include_str!("cases/cluster.json");

fn cluster() -> Cluster {
    serde_json::from_str(CLUSTER).unwrap()
}

fn empty_index() -> Index {
    Index::new(name("cluster.local."), 5, vec!["10.43.0.10".parse().unwrap()])
}

fn full_index() -> Index {
    let mut index = empty_index();
    let cluster = cluster();
    index.reset_services(cluster.services);
    index.reset_slices(cluster.slices);
    index
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(text: &str, kind: RecordType) -> Query {
    Query::query(name(text), kind)
}

/// A request as a client with EDNS sends it.
fn request(text: &str, kind: RecordType) -> Request {
    let query = query(text, kind);
    let edns = Some((1232, false));
    Request { id: 77, recursion_desired: true, checking_disabled: false, query, edns }
}

/// All records of a message, a line each.
fn lines(message: &Message) -> Vec<String> {
    let mut lines = vec![message.response_code.to_string()];
    lines.extend(message.answers.iter().map(|record| record.to_string()));
    lines.extend(message.authorities.iter().map(|record| format!("authority {record}")));
    lines.extend(message.additionals.iter().map(|record| format!("additional {record}")));
    lines
}

/// Runs a test on a thread in a network namespace of its own, where only loopback is there.
fn isolated<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        sys::namespace::loopback_up().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
