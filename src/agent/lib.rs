//! The node agent (kubelet): it makes the pods that are bound to this node run, and tells the API server how they are.
//!
//! It is an ordinary API client (crate `client`) in front of the container runtime (crate `runtime`). It does not know how
//! the API server stores things, how containers are cloned, or how pod addresses are wired: the last is behind
//! [`PodNetwork`].
//!
//! It works without the API server too: `link` knows whether the server answers, `record` keeps on disk what the pods of the
//! node are started from, and `telling` sends the latest status when somebody listens again.
//!
//! Start reading at `worker`: what a pod needs next is decided there, without IO, by `PodState::step`. `actor` owns one
//! pod and performs what was decided; `pods` owns the actors. `status` turns the state into the pod's status.
//! `node` registers the node and keeps its lease; `server` is the kubelet's HTTP API for logs, exec and attach.

mod actor;
mod adopt;
mod agent;
mod backoff;
mod clock;
mod config;
mod container_spec;
mod context;
mod env;
mod error;
mod events;
mod execute;
mod expand;
mod fieldref;
mod go_duration;
mod hooks;
mod http_get;
mod keep;
mod link;
mod logs;
mod machine_end;
mod netfiles;
mod node;
mod node_facts;
mod note;
mod objects;
mod paths;
mod pods;
mod prober;
mod pull;
mod record;
mod resolver;
mod resources;
mod restart;
mod security;
mod server;
mod start;
mod status;
mod telling;
#[cfg(test)]
mod tests;
mod tokens;
mod volumes;
mod worker;

pub use agent::Agent;
pub use config::{Config, PodNetwork, Registration};
pub use error::Error;
pub use record::recorded_pods;
pub use server::KubeletApi;
