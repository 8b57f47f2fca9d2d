//! The server half: answers the paths below `/v1-copepod/` and keeps the tunnels.

mod caller;
mod certificates;
mod node_password;
mod rights;
mod sessions;
mod supervisor;
mod tokens;

pub(crate) use caller::Caller;
pub(crate) use rights::Endpoint;
pub use supervisor::{Supervisor, SupervisorConfig};
pub use tokens::Tokens;

#[cfg(test)]
pub(crate) use node_password::secret_name;
#[cfg(test)]
pub(crate) use rights::{Denial, allowed};
