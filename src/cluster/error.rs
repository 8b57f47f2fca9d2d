//! What can go wrong, and for joining: what to do about it.

use std::path::PathBuf;

/// An error of this crate other than a refused join.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Pki(#[from] pki::Error),
    #[error("{what}: {source}")]
    Api { what: String, source: client::Error },
    #[error("--server {0:?}: expected https://HOST[:PORT]")]
    ServerUrl(String),
    #[error("{0}")]
    Token(String),
    #[error("{}: expected {expected}", path.display())]
    File { path: PathBuf, expected: &'static str },
}

/// Why a node did not become a member. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Setup(#[from] Error),
    #[error(
        "cannot reach {server}: {why}; check that the server runs, that its address is right and that nothing between \
         blocks its port"
    )]
    Unreachable { server: String, why: String },
    #[error(
        "{server} shows another cluster CA (SHA-256 {found}) than the token names ({wanted}): the token belongs to \
         another cluster, or someone stands in between; take the token from DATA/server/token of the right server"
    )]
    WrongAuthority { server: String, found: String, wanted: String },
    #[error(
        "{server} cannot prove that it belongs to the cluster CA: {why}; if the server is reached by another name or \
         address than it knows, add it there with --tls-san"
    )]
    Unproven { server: String, why: String },
    #[error(
        "{server} shows a certificate that is not valid at this machine's time, {now}: {why}; set this machine's clock, \
         or the server's if that one is wrong"
    )]
    Clock { server: String, now: String, why: String },
    #[error(
        "{server} refused the token: {why}; take it from DATA/server/token or make one with 'copepod token create' on the \
         server"
    )]
    WrongToken { server: String, why: String },
    #[error(
        "no token is given and this node is not a member yet; give --token, --token-file or COPEPOD_TOKEN"
    )]
    NoToken,
    #[error("{server} refused this node: {message}")]
    Forbidden { server: String, message: String },
    #[error(
        "this node is a member of another cluster (its CA is {found}, the token names {wanted}); remove {} to let it join \
         the other cluster",
        folder.display()
    )]
    OtherCluster { found: String, wanted: String, folder: PathBuf },
    #[error(
        "{server} refused this node's certificate: {why}; give a token with --token so that the node can join again"
    )]
    Expired { server: String, why: String },
    #[error("{server} answered {path} with {code}: {message}")]
    Answer { server: String, path: String, code: u16, message: String },
    #[error("{server} is not a copepod server: {why}; check --server")]
    NotAServer { server: String, why: String },
}

impl Refusal {
    /// Whether the same question may get a better answer later without anybody doing anything here.
    pub fn is_temporary(&self) -> bool {
        match self {
            Refusal::Unreachable { .. } => true,
            Refusal::Answer { code, .. } => matches!(code, 408 | 429 | 500..),
            _ => false,
        }
    }
}
