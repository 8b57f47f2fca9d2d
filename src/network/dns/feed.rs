//! Keeps the index current with the API's Services and EndpointSlices.
//!
//! While the API server is away the caches, and so the index, keep what they know.

use std::sync::RwLock;

use client::{Cache, Change};

use super::index::Index;
use super::resolver::write;
use crate::inputs::{Service, Slice};

/// Follows the caches until dropped.
pub(crate) async fn follow(services: Cache<Service>, slices: Cache<Slice>, index: &RwLock<Index>) {
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
