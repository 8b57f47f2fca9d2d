//! The servers of the cluster, as the Service `kubernetes` names them, followed while the agent runs.

use std::sync::Arc;

use client::{Cache, Client, ListParams};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Address, Balancer};

/// The addresses of a slice of the Service `kubernetes`.
pub(crate) fn servers_of(slice: &EndpointSlice) -> Vec<Address> {
    let ports = slice.ports.iter().flatten();
    let https = ports.clone().find(|p| p.name.as_deref() == Some("https"));
    let Some(port) = https.or(ports.clone().next()).and_then(|p| p.port) else {
        return Vec::new();
    };
    let Ok(port) = u16::try_from(port) else { return Vec::new() };
    let ready = |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
        e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
    };
    let endpoints = slice.endpoints.iter().flatten().filter(ready);
    endpoints.flat_map(|e| &e.addresses).map(|host| Address { host: host.clone(), port }).collect()
}

/// Hands every change of the servers to the balancer.
pub(crate) async fn follow(client: Client, balancer: Arc<Balancer>) {
    let params =
        ListParams::all().namespace("default").labels("kubernetes.io/service-name=kubernetes");
    let cache: Cache<EndpointSlice> = Cache::start(client, params);
    let mut changes = cache.subscribe();
    cache.synced().await;
    loop {
        let mut servers: Vec<Address> =
            cache.list().iter().flat_map(|slice| servers_of(slice)).collect();
        servers.sort();
        servers.dedup();
        // No server at all is a server that is just starting: the old list is worth more.
        if !servers.is_empty() {
            balancer.set(servers);
        }
        changes.next().await;
    }
}
