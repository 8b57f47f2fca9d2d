//! Who asks the supervisor: a holder of a token, a node by its certificate, or nobody.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Client;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::Tokens;
use super::tokens::Holder;
use crate::{bootstrap, wire};

/// The longest certificate a header may carry.
const CERTIFICATE_HEADER_MAX: usize = 8 * 1024;

/// Someone who asks, as far as they have proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Anonymous,
    /// Knows the server's token.
    Server,
    /// Knows the agents' token.
    Agent,
    /// Holds a bootstrap token.
    Bootstrapper,
    /// Has a valid certificate of this node.
    Node(String),
    /// Shows a certificate of this node that was ours once; whether it owns the key is seen from its signing request.
    Lapsed(String),
    Administrator,
    /// Has a certificate that is about something else.
    Other,
}

/// A header that proves nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unproven {
    WrongToken,
    /// Bootstrap tokens cannot be looked up right now.
    Unavailable(String),
}

/// Whom TLS and the headers prove. A token counts before a certificate: who sends one wants to be judged by it.
pub(crate) async fn identify(
    peer: Option<&pki::PeerIdentity>,
    headers: &HeaderMap,
    tokens: &Tokens,
    client_ca_pem: &str,
    client: Option<&Client>,
) -> Result<Caller, Unproven> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| Unproven::WrongToken)?;
        return by_token(text, tokens, client).await;
    }
    if let Some(peer) = peer {
        return Ok(by_certificate(peer));
    }
    match headers.get(wire::NODE_CERTIFICATE) {
        Some(value) => {
            Ok(lapsed(value.as_bytes(), client_ca_pem).map_or(Caller::Other, Caller::Lapsed))
        }
        None => Ok(Caller::Anonymous),
    }
}

async fn by_token(
    header: &str,
    tokens: &Tokens,
    client: Option<&Client>,
) -> Result<Caller, Unproven> {
    let (scheme, rest) = header.split_once(' ').ok_or(Unproven::WrongToken)?;
    if scheme.eq_ignore_ascii_case("basic") {
        let text = STANDARD.decode(rest.trim()).ok().and_then(|b| String::from_utf8(b).ok());
        let (user, password) =
            text.as_deref().and_then(|t| t.split_once(':')).ok_or(Unproven::WrongToken)?;
        return match tokens.check(user, password) {
            Some(Holder::Server) => Ok(Caller::Server),
            Some(Holder::Agent) => Ok(Caller::Agent),
            None => Err(Unproven::WrongToken),
        };
    }
    let token = pki::BootstrapToken::parse(rest.trim())
        .filter(|_| scheme.eq_ignore_ascii_case("bearer"))
        .ok_or(Unproven::WrongToken)?;
    let client = client.ok_or_else(|| Unproven::Unavailable("the server starts".to_owned()))?;
    match bootstrap::admits(client, &token).await {
        Ok(true) => Ok(Caller::Bootstrapper),
        Ok(false) => Err(Unproven::WrongToken),
        Err(error) => Err(Unproven::Unavailable(error.to_string())),
    }
}

pub(crate) fn by_certificate(peer: &pki::PeerIdentity) -> Caller {
    if let Some(name) = node_of(&peer.common_name, &peer.organizations) {
        return Caller::Node(name);
    }
    match peer.organizations.iter().any(|o| o == "system:masters") {
        true => Caller::Administrator,
        false => Caller::Other,
    }
}

/// The node that a certificate of ours names, whatever its time says.
fn lapsed(header: &[u8], client_ca_pem: &str) -> Option<String> {
    if header.len() > CERTIFICATE_HEADER_MAX {
        return None;
    }
    let facts = pki::Facts::of_der(&STANDARD.decode(header).ok()?).ok()?;
    if !facts.issued_by(client_ca_pem) {
        return None;
    }
    node_of(&facts.common_name, &facts.organizations)
}

fn node_of(user: &str, groups: &[String]) -> Option<String> {
    let name = user.strip_prefix(wire::NODE_USER_PREFIX).filter(|name| !name.is_empty())?;
    groups.iter().any(|g| g == wire::NODES_GROUP).then(|| name.to_owned())
}
