//! The Kubernetes API server: one pipeline (authentication, limits, authorization, routing), one generic path per verb
//! over the resource table of `api`, and a strategy only for kinds with behaviour of their own.
//!
//! It deliberately does not know how a kubelet is reached (the caller passes a [`NodeDialer`]), which controllers run, or
//! how bytes are kept (`store` does). Objects stay encoded JSON from the store to the client wherever nobody selects.
//! Start reading at `pipeline.rs`, then `registry/`.

#![expect(
    clippy::result_large_err,
    reason = "an error is the answer to a request and is moved once or twice"
)]

mod answer;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod config;
mod discovery;
mod expiry;
mod follow;
mod impersonation;
mod listener;
mod nodes;
mod object;
mod openapi;
mod paths;
mod pipeline;
mod protobuf;
mod rbac;
mod registry;
mod request;
mod select;
mod server;
mod stall;
mod strategies;
mod subresources;

#[cfg(test)]
mod tests;

pub use config::{Body, BoxError, BoxFuture, Config, Limits, NodeDialer, Stream, Supervisor, User};
pub use server::ApiServer;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("service network {0:?} is not an IPv4 network like 10.43.0.0/16")]
    ServiceNetwork(String),
    #[error("cannot use the store: {0}")]
    Store(#[from] store::Error),
    #[error("cannot create {what}: {status}")]
    Bootstrap { what: String, status: String },
}

/// The durability class of a key, for `store::Options::durability`: kinds that the resource table calls memory-only are
/// not written to the disk.
pub fn durability(key: &str) -> store::Durability {
    let memory = api::RESOURCES
        .iter()
        .filter(|r| r.durability == api::Durability::Memory && r.strategy != api::Strategy::Virtual)
        .any(|r| {
            let group = if r.storage_group.is_empty() { "core" } else { r.storage_group };
            key.strip_prefix("/registry/")
                .and_then(|rest| rest.strip_prefix(group))
                .and_then(|rest| rest.strip_prefix('/'))
                .and_then(|rest| rest.strip_prefix(r.plural))
                .is_some_and(|rest| rest.starts_with('/'))
        });
    if memory { store::Durability::Memory } else { store::Durability::Durable }
}
