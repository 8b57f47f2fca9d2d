//! What the rules of many Services cost, measured against the kernel of the calling thread's network namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Key;
use serde_json::json;

use super::engine::Engine;
use super::kernel::{Error, Kernel};
use super::transaction::TABLE;
use super::{Config, Node};
use crate::inputs::{Service, Slice};
use crate::nft::{Batch, Family};

/// Figures of one load.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub services: usize,
    /// Planning of everything, and the exchange with the kernel.
    pub full: Duration,
    pub full_bytes: usize,
    /// One endpoint of one Service replaced by another: planning and exchange; the median of several.
    pub change: Duration,
    pub change_bytes: usize,
    /// The same for one endpoint more, and one less.
    pub scale: Duration,
    pub scale_bytes: usize,
}

/// How often the one change is measured.
const CHANGES: usize = 21;
const NAMESPACE: &str = "measured";

/// Loads so many Services of so many endpoints, changes one, and removes everything again. Replaces what the namespace
/// of the calling thread has of Services' rules, so it wants one of its own.
pub fn measure(services: usize, endpoints: usize) -> Result<Figures, Error> {
    let config = config();
    let mut engine = Engine::new(Node::new(&config));
    for at in 0..services {
        let key = key(at);
        engine.change_service(&key, service(at));
        engine.change_slice(&key, None, slice(at, endpoints, 0));
    }
    let unavailable = |source| Error::Sending { bytes: 0, source };
    let mut kernel = Kernel::open(Family::V4).map_err(unavailable)?;
    let start = Instant::now();
    let sent = kernel.update(&mut engine)?;
    let full = start.elapsed();
    let at = services / 2;
    let mut last = slice(at, endpoints, 0);
    let mut median = |next: &dyn Fn(usize) -> Option<Arc<Slice>>| {
        let (mut costs, mut most) = (Vec::with_capacity(CHANGES), 0);
        for change in 1..=CHANGES {
            let old = std::mem::replace(&mut last, next(change));
            engine.change_slice(&key(at), old.as_deref(), last.clone());
            let start = Instant::now();
            let bytes = kernel.update(&mut engine)?.bytes;
            costs.push(start.elapsed());
            most = most.max(bytes);
        }
        costs.sort();
        Ok::<_, Error>((costs[CHANGES / 2], most))
    };
    let (change, change_bytes) = median(&|change| slice(at, endpoints, change))?;
    let (scale, scale_bytes) = median(&|change| slice(at, endpoints + change % 2, 0))?;
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    batch.commit().map_err(unavailable)?;
    let full_bytes = sent.bytes;
    Ok(Figures { services, full, full_bytes, change, change_bytes, scale, scale_bytes })
}

fn config() -> Config {
    let range = |a, b| crate::Range::new(IpAddr::from([a, b, 0, 0]), 16);
    Config {
        node_name: "node".to_owned(),
        node_ips: vec![IpAddr::from([192, 0, 2, 1])],
        cluster_cidr: range(10, 42),
        service_cidr: range(10, 43),
        node_ports: 30_000..=32_767,
        cluster_dns: IpAddr::from([10, 43, 0, 10]),
        bridge: String::new(),
        masquerade_all: false,
    }
}

fn key(at: usize) -> Key {
    (NAMESPACE.to_owned(), format!("service-{at}"))
}

/// The address of so many after the first of a range.
fn address(a: u8, b: u8, at: usize) -> IpAddr {
    let first = u32::from(Ipv4Addr::new(a, b, 1, 0));
    Ipv4Addr::from(first.wrapping_add(u32::try_from(at).unwrap_or(u32::MAX))).into()
}

fn service(at: usize) -> Option<Arc<Service>> {
    let object = json!({
        "metadata": {"namespace": NAMESPACE, "name": format!("service-{at}")},
        "spec": {"clusterIP": address(10, 43, at), "ports": [{"port": 80}]},
    });
    serde_json::from_value(object).ok().map(Arc::new)
}

/// The last endpoint is another one in each version.
fn slice(at: usize, endpoints: usize, version: usize) -> Option<Arc<Slice>> {
    let addresses = (0..endpoints).map(|endpoint| match endpoint {
        0 => address(10, 96, version),
        _ => address(10, 64, at * endpoints + endpoint),
    });
    let endpoints: Vec<_> = addresses.map(|it| json!({"addresses": [it]})).collect();
    let name = format!("service-{at}");
    let labels = json!({"kubernetes.io/service-name": name});
    let object = json!({
        "metadata": {"namespace": NAMESPACE, "name": name, "labels": labels},
        "endpoints": endpoints, "ports": [{"port": 8080}],
    });
    serde_json::from_value(object).ok().map(Arc::new)
}
