//! The questions a node asks the supervisor, and what its refusals mean.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::Dialed;
use http::{HeaderMap, HeaderValue, Method};
use pki::{Facts, Identity, JoinSecret, JoinToken};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::exchange::{Failure, Question, Reply, ask};
use super::files::Role;
use super::{Address, Balancer};
use crate::{Error, Refusal, clock, wire};

/// How a node proves that it may ask.
#[derive(Clone, Copy)]
pub(crate) enum Proof<'a> {
    Token(&'a JoinToken),
    /// Its certificate, by TLS.
    Certificate(&'a Identity),
    /// Its certificate, which TLS does not take any more; the signing request proves the key.
    Lapsed(&'a Identity),
}

/// Who the node is.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) ips: Vec<IpAddr>,
}

/// A node that asks one of the servers under one proof.
pub(crate) struct Talk<'a> {
    pub(crate) balancer: &'a Balancer,
    pub(crate) server_ca: &'a str,
    pub(crate) node: &'a Node,
    pub(crate) proof: Proof<'a>,
}

/// Fetches the cluster's authority from a server nobody vouches for, and lets the token's hash judge it.
pub(crate) async fn authority(balancer: &Balancer, token: &JoinToken) -> Result<String, Refusal> {
    let (server, dialed) = connect(balancer).await?;
    let tls = pki::unverified_client_config().map_err(Error::from)?;
    let question = Question {
        method: Method::GET,
        path: wire::CA_CERTS,
        headers: HeaderMap::new(),
        body: Vec::new(),
    };
    let reply = ask(dialed, tls, question).await.map_err(|f| refusal_of(f, &server))?;
    let pem = match (reply.code, String::from_utf8(reply.body.to_vec())) {
        (200, Ok(pem)) => pem,
        (429 | 500.., _) => return Err(answer(&server, wire::CA_CERTS, &reply)),
        (code, _) => {
            let why = format!("{} was answered with {code}", wire::CA_CERTS);
            return Err(Refusal::NotAServer { server, why });
        }
    };
    if Facts::of_pem(&pem).is_err() {
        let why = format!("{} is no certificate", wire::CA_CERTS);
        return Err(Refusal::NotAServer { server, why });
    }
    if !token.trusts(&pem) {
        let wanted = token.authority_hash.clone().unwrap_or_default();
        let found = pki::sha256_hex(pem.as_bytes());
        return Err(Refusal::WrongAuthority { server, found, wanted });
    }
    Ok(pem)
}

async fn connect(balancer: &Balancer) -> Result<(String, Dialed), Refusal> {
    let server = format!("https://{}", balancer.join_server());
    match balancer.connect().await {
        Ok(dialed) => {
            let address = Address { host: dialed.host.clone(), port: dialed.port };
            Ok((format!("https://{address}"), dialed))
        }
        Err(error) => Err(Refusal::Unreachable { server, why: error.to_string() }),
    }
}

impl Talk<'_> {
    pub(crate) async fn get(&self, path: &'static str) -> Result<Bytes, Refusal> {
        Ok(self.ask(Method::GET, path, Vec::new()).await?.body)
    }

    /// A certificate for the key, and how many seconds it lives.
    pub(crate) async fn certificate(
        &self,
        role: Role,
        key: &str,
    ) -> Result<(Identity, i64), Refusal> {
        let csr = pki::signing_request(key).map_err(Error::from)?;
        let reply = self.ask(Method::POST, role.path(), csr).await?;
        let life = reply.headers.get(wire::CERTIFICATE_SECONDS).and_then(|v| v.to_str().ok());
        let life = life.and_then(|text| text.parse().ok()).unwrap_or(pki::LEAF_SECONDS);
        let pem = String::from_utf8(reply.body.to_vec()).ok();
        match pem.filter(|pem| Facts::of_pem(pem).is_ok()) {
            Some(certificate) => Ok((Identity { certificate, key: key.to_owned() }, life)),
            None => Err(Refusal::NotAServer {
                server: format!("https://{}", self.balancer.join_server()),
                why: format!("the answer of {} is no certificate", role.path()),
            }),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<Reply, Refusal> {
        let (server, dialed) = connect(self.balancer).await?;
        let identity = match self.proof {
            Proof::Certificate(identity) => Some(identity),
            Proof::Token(_) | Proof::Lapsed(_) => None,
        };
        let tls = pki::client_config(self.server_ca, identity).map_err(Error::from)?;
        let question = Question { method, path, headers: self.headers()?, body };
        let reply = ask(dialed, tls, question).await.map_err(|f| refusal_of(f, &server))?;
        match (reply.code, self.proof) {
            (200..=299, _) => Ok(reply),
            (401, Proof::Token(_)) => {
                Err(Refusal::WrongToken { server, why: message(&reply.body) })
            }
            (401, _) => Err(Refusal::Expired { server, why: message(&reply.body) }),
            (403, _) => Err(Refusal::Forbidden { server, message: message(&reply.body) }),
            _ => Err(answer(&server, path, &reply)),
        }
    }

    fn headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, text: String, secret: bool| {
            let mut value = HeaderValue::try_from(text).map_err(|_| {
                Error::Token(format!("{name} holds characters no header can carry"))
            })?;
            value.set_sensitive(secret);
            headers.insert(name, value);
            Ok::<(), Error>(())
        };
        set(wire::NODE_NAME, self.node.name.clone(), false)?;
        set(wire::NODE_PASSWORD, self.node.password.clone(), true)?;
        let ips: Vec<String> = self.node.ips.iter().map(IpAddr::to_string).collect();
        set(wire::NODE_IP, ips.join(","), false)?;
        match self.proof {
            Proof::Certificate(_) => {}
            Proof::Lapsed(identity) => {
                let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes())
                    .map_err(|e| Error::Token(format!("this node's certificate: {e}")))?;
                set(wire::NODE_CERTIFICATE, STANDARD.encode(der), false)?;
            }
            Proof::Token(token) => {
                let value = match &token.secret {
                    JoinSecret::Basic { user, password } => {
                        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
                    }
                    JoinSecret::Bootstrap(token) => format!("Bearer {token}"),
                };
                set("authorization", value, true)?;
            }
        }
        Ok(headers)
    }
}

fn refusal_of(failure: Failure, server: &str) -> Refusal {
    let server = server.to_owned();
    match failure {
        Failure::Unreachable(why) => Refusal::Unreachable { server, why },
        Failure::Untrusted(why) => Refusal::Unproven { server, why },
        Failure::OwnCertificate(why) => Refusal::Expired { server, why },
        Failure::NotAServer(why) => Refusal::NotAServer { server, why },
        Failure::Clock(why) => {
            let now = jiff::Timestamp::from_second(clock::now())
                .map_or_else(|_| "an impossible time".to_owned(), |t| t.to_string());
            Refusal::Clock { server, now, why }
        }
    }
}

fn answer(server: &str, path: &str, reply: &Reply) -> Refusal {
    Refusal::Answer {
        server: server.to_owned(),
        path: path.to_owned(),
        code: reply.code,
        message: message(&reply.body),
    }
}

/// The message of a Status, or the beginning of whatever came instead.
fn message(body: &[u8]) -> String {
    const SHOWN: usize = 512;
    match serde_json::from_slice::<api::Status>(body) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).trim().to_owned(),
    }
}
