//! How nodes belong to a cluster: the server half signs their certificates, keeps their passwords and tunnels; the agent
//! half joins by a token, keeps the node's identity valid, chooses among servers and keeps the tunnel up.
//!
//! It deliberately does not know what the API server does with a request, what a kubelet answers, or how packets of pods
//! travel. Time is judged as little as possible: boards have no clock they can trust.
//!
//! Start reading at `wire` (what both halves say to each other), then [`Supervisor`] (`server/`) and [`join`] (`agent/`).

mod agent;
mod bootstrap;
mod clock;
mod error;
mod server;
mod wire;

#[cfg(test)]
mod tests;

pub use agent::{Address, Balancer, JoinConfig, Joined, accept_kubelet, join, node_name};
pub use bootstrap::{BootstrapRecord, NewBootstrapToken, create_token, delete_token, list_tokens};
pub use error::{Error, Refusal};
pub use server::{Supervisor, SupervisorConfig, Tokens, upkeep};
pub use wire::{Shared, TOKEN_PATH};
