//! Who may ask what: a pure table.

use http::Method;

use super::Caller;
use crate::wire;

/// What the supervisor serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    CaCerts,
    Ping,
    ServingCertificate,
    ClientCertificate,
    ClientCa,
    ServerCa,
    ApiServers,
    Config,
    Ready,
    Connect,
    Token,
}

/// Why a request is not answered, before anything was looked up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    NotFound,
    Method,
    Unauthorized,
    Forbidden,
}

impl Endpoint {
    pub(crate) fn of(method: &Method, path: &str) -> Result<Endpoint, Denial> {
        let (endpoint, wanted) = match path {
            wire::CA_CERTS => (Endpoint::CaCerts, Method::GET),
            wire::PING => (Endpoint::Ping, Method::GET),
            wire::CONNECT => (Endpoint::Connect, Method::GET),
            wire::SERVING_CERTIFICATE => (Endpoint::ServingCertificate, Method::POST),
            wire::CLIENT_CERTIFICATE => (Endpoint::ClientCertificate, Method::POST),
            wire::CLIENT_CA => (Endpoint::ClientCa, Method::GET),
            wire::API_SERVERS => (Endpoint::ApiServers, Method::GET),
            wire::CONFIG => (Endpoint::Config, Method::GET),
            wire::TOKEN_PATH => (Endpoint::Token, Method::PUT),
            _ => match path.strip_prefix(wire::PREFIX) {
                Some("server-ca.crt") => (Endpoint::ServerCa, Method::GET),
                Some("readyz") => (Endpoint::Ready, Method::GET),
                _ => return Err(Denial::NotFound),
            },
        };
        match *method == wanted || (wanted == Method::GET && *method == Method::HEAD) {
            true => Ok(endpoint),
            false => Err(Denial::Method),
        }
    }

    /// Changes something, for the limit on requests in flight.
    pub(crate) fn mutates(self) -> bool {
        matches!(self, Endpoint::ServingCertificate | Endpoint::ClientCertificate | Endpoint::Token)
    }
}

/// Whether the caller may ask this of the supervisor; `node` is the name the request is about.
pub(crate) fn allowed(caller: &Caller, endpoint: Endpoint, node: &str) -> Result<(), Denial> {
    use Caller::{Administrator, Agent, Anonymous, Bootstrapper, Lapsed, Node, Other, Server};
    use Endpoint::{CaCerts, ClientCertificate, Connect, Ping, ServingCertificate, Token};
    let granted = match (endpoint, caller) {
        (CaCerts | Ping, _) => true,
        (_, Anonymous) => return Err(Denial::Unauthorized),
        (_, Other) => false,
        (Token, Server | Administrator) => true,
        (Token, _) => false,
        (Connect, Node(_)) => true,
        (Connect, _) => false,
        (ServingCertificate | ClientCertificate, Node(name)) => name == node,
        // It proves the key of this one alone.
        (ClientCertificate, Lapsed(name)) => name == node,
        (ServingCertificate | ClientCertificate, Administrator) => false,
        (_, Lapsed(_)) => false,
        (_, Server | Agent | Bootstrapper | Node(_) | Administrator) => true,
    };
    if granted { Ok(()) } else { Err(Denial::Forbidden) }
}
