//! Certificates, keys and tokens of a cluster: two P-256 authorities (one signs servers, one signs clients), the
//! certificates they issue, ES256 service-account tokens, the join token and kubeconfig texts, and the files they live in.
//!
//! It deliberately knows no HTTP, no API objects and no clock: whoever calls passes the time as seconds since 1970.
//! Start reading at [`ensure`], which makes everything a server needs below one directory.

mod any_server;
mod authority;
mod ensure;
mod facts;
mod files;
mod join;
mod kubeconfig;
mod password;
mod service_account;
mod tls;

#[cfg(test)]
mod tests;

pub use any_server::AnyServer;
pub use authority::{
    Authority, Identity, Request, Subject, new_key, requested_key, signing_request,
};
pub use ensure::{LEAF_SECONDS, ServerNames, ServerPki, ensure};
pub use facts::Facts;
pub use files::{make_directory, read_private, write_private, write_public};
pub use join::{BootstrapToken, JoinSecret, JoinToken, ensure_token, write_token};
pub use kubeconfig::{Credentials, decode_base64, kubeconfig, write_kubeconfig};
pub use password::{hash_password, password_matches, sha256_hex};
pub use service_account::{Bound, Claims, KubernetesClaims, ServiceAccountKeys};
pub use tls::{
    PeerIdentity, ServingCertificate, client_config, peer_identity, server_config,
    server_config_of, unverified_client_config,
};

use std::path::PathBuf;

/// What went wrong while making, reading or checking credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot {doing}: {source}")]
    Certificate { doing: &'static str, source: rcgen::Error },
    #[error("{what} is not usable: {why}")]
    Malformed { what: String, why: String },
    #[error("token refused: {0}")]
    Token(&'static str),
    #[error("cannot configure tls: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the system gave no random numbers")]
    Random,
}

/// Compares secrets without telling by its duration where they differ.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    // Lengths are not secret here; only the bytes are.
    a.len() == b.len() && a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// `bytes` random bytes as lower-case hex.
pub fn random_hex(bytes: usize) -> Result<String, Error> {
    use ring::rand::SecureRandom;
    let mut buffer = vec![0u8; bytes];
    ring::rand::SystemRandom::new().fill(&mut buffer).map_err(|_| Error::Random)?;
    Ok(hex(&buffer))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
