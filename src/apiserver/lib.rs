//! The Kubernetes API server: one pipeline (authentication, limits, authorization, routing), one generic path per verb
//! over the resource table of `api`, and a strategy only for kinds with behaviour of their own.
//!
//! It deliberately does not know how a kubelet is reached (the caller passes a [`NodeDialer`]), which controllers run, or
//! how bytes are kept (`store` does). Objects stay encoded JSON from the store to the client wherever nobody selects.
//! Start reading at `pipeline.rs`, then `registry/`.

mod config;
mod server;

pub use config::{Body, BoxError, BoxFuture, Config, Limits, NodeDialer, Stream, User};
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
