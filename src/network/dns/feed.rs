//! Keeps the index current with the API's Services and EndpointSlices.
//!
//! While the API server is away the caches, and so the index, keep what they know.

use std::sync::RwLock;

use client::{Cache, Change, Client, ListParams};

use super::index::Index;
use super::objects::{Service, Slice};
use super::resolver::write;

/// Follows the API until dropped.
pub(crate) async fn follow(client: Client, index: &RwLock<Index>) {
    let services: Cache<Service> = Cache::start(client.clone(), ListParams::all());
    let slices: Cache<Slice> = Cache::start(client, ListParams::all());
    let mut service_changes = services.subscribe();
    let mut slice_changes = slices.subscribe();
    loop {
        tokio::select! {
            change = service_changes.next() => match change {
                Change::Resync => write(index).reset_services(services.list()),
                Change::Object { key, new, .. } => {
                    write(index).change_service((&key.0, &key.1), new);
                }
            },
            change = slice_changes.next() => match change {
                Change::Resync => write(index).reset_slices(slices.list()),
                Change::Object { old, new, .. } => {
                    write(index).change_slice(old.as_deref(), new);
                }
            },
        }
    }
}
