//! What can go wrong with the pod network; each message names the link, path or address it is about.

use std::io;
use std::path::PathBuf;

/// Errors of the pod network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid pod cidr {text:?}: {reason}")]
    Cidr { text: String, reason: &'static str },
    #[error("invalid configuration: {field}: {reason}")]
    Config { field: &'static str, reason: String },
    #[error("invalid pod uid {uid:?}")]
    Uid { uid: String },
    #[error("the node has no pod cidr yet")]
    NoCidr,
    #[error("no free address in {cidr}")]
    Exhausted { cidr: String },
    #[error("failed to {action} {link}: {reason}")]
    Link { action: &'static str, link: String, reason: String },
    #[error("failed to open a netlink socket: {source}")]
    Netlink { source: io::Error },
    #[error("failed to enter network namespace {}: {source}", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error("failed to {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("failed to program nftables table {table}: {source}")]
    Nftables { table: &'static str, source: io::Error },
    #[error("{count} pods or links could not be detached; the first: {first}")]
    Several { count: usize, first: Box<Error> },
    #[error("{count} changes of links, routes or neighbours failed; the first: {first}")]
    SeveralChanges { count: usize, first: Box<Error> },
    #[error("failed to annotate node {node}: {reason}")]
    Announce { node: String, reason: String },
    #[error("the network thread has ended")]
    Stopped,
}

impl Error {
    /// For `map_err`: a failed file operation with the path it was about.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
