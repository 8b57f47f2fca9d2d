//! Kubeconfig texts with embedded data, in the shape K3s writes: cluster, context and user are called `default`.

use crate::{Error, Identity, files};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// How the user of a kubeconfig proves who they are.
pub enum Credentials<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

/// The text of a kubeconfig for one cluster and one user.
pub fn kubeconfig(server: &str, authority_pem: &str, credentials: &Credentials<'_>) -> String {
    let user = match credentials {
        Credentials::Certificate(identity) => format!(
            "    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(&identity.certificate),
            STANDARD.encode(&identity.key)
        ),
        Credentials::Token(token) => format!("    token: {token}\n"),
    };
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  \
         name: default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  name: default\n\
         current-context: default\npreferences: {{}}\nusers:\n- name: default\n  user:\n{user}",
        STANDARD.encode(authority_pem)
    )
}

/// Writes a kubeconfig; it holds a key, so `mode` is 0600 unless the operator asked for more.
pub fn write_kubeconfig(
    path: &Path,
    server: &str,
    authority_pem: &str,
    credentials: &Credentials<'_>,
    mode: u32,
) -> Result<(), Error> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        files::make_directory(parent)?;
    }
    files::write(path, kubeconfig(server, authority_pem, credentials).as_bytes(), mode)
}

/// The bytes of base64 text, as kubeconfigs hold them.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
