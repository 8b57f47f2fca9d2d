//! The pod network of one node: a bridge, a veth pair per pod, an address for each from the node's pod CIDR, and
//! masquerading of what leaves the cluster.
//!
//! [`BridgeNetwork`] works in the network namespace of the thread that makes it and is told the pods' namespaces as
//! paths. It deliberately does not know what a pod is beyond its uid, who decides the CIDR, how other nodes are reached
//! ([`overlay`]) or what a Service is.
//!
//! Start reading at [`bridge`] (the handle and the thread that owns the state), then `links` (netlink), `pool`
//! (addresses), `masquerade` and `nft` (the ruleset and its encoding).

mod addresses;
mod bridge;
pub mod dns;
mod error;
mod inputs;
mod links;
mod masquerade;
mod nft;
pub mod overlay;
mod pool;
pub mod proxy;
#[cfg(test)]
mod tests;
mod worker;

pub use addresses::Cidr;
pub use bridge::{BridgeNetwork, Config, PodAddresses};
pub use error::Error;
pub use inputs::{Inputs, NotARange, Range, keep as keep_services};
