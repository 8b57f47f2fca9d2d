//! The agent half: joins, keeps its identity valid, chooses among servers, keeps the tunnels up.

mod accept;
mod address;
mod balancer;
mod exchange;
mod files;
mod join;
mod keeper;
mod member;
mod renewal;
mod requests;
mod servers;

pub(crate) use accept::KUBELET;
pub use accept::accept_kubelet;
pub use address::Address;
pub use balancer::Balancer;
pub use files::node_name;
pub use join::{JoinConfig, join};
pub use member::Joined;
pub(crate) use servers::servers_of;

#[cfg(test)]
pub(crate) use balancer::Choice;
#[cfg(test)]
pub(crate) use exchange::{Failure, failure_of};
#[cfg(test)]
pub(crate) use renewal::due;
