//! The supervisor: limits, identification, rights, then the answer of each endpoint.

#![expect(
    clippy::result_large_err,
    reason = "an error is the answer to a request and is moved once or twice"
)]

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use client::{Body, Client, Tasks, full};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Semaphore;

use super::caller::{Unproven, identify};
use super::certificates::Claim;
use super::node_password::{self, Absent, Verdict};
use super::rights::{Denial, allowed};
use super::sessions::Sessions;
use super::{Caller, Endpoint, Tokens};
use crate::{Shared, clock, wire};

/// Requests at once that change nothing, and that sign or write.
const READS_MAX: usize = 20;
const WRITES_MAX: usize = 10;
/// How long an endpoint may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the peer of a tunnel may ask the server to dial: nothing. Agents reach the API server directly.
const NOTHING_TO_DIAL: &str = "this server dials nothing for its agents";

/// What a supervisor is given.
pub struct SupervisorConfig {
    pub pki: Arc<pki::ServerPki>,
    pub tokens: Tokens,
    pub shared: Shared,
    /// `HOST:PORT` of this server as agents should reach it, when the API does not tell yet.
    pub advertise: String,
    /// How long certificates of nodes live.
    pub leaf_seconds: i64,
}

/// Answers `/cacerts`, `/ping` and everything below `/v1-copepod/`.
pub struct Supervisor {
    config: SupervisorConfig,
    /// Names in the server's own certificate.
    server_names: Vec<String>,
    client: RwLock<Option<Client>>,
    sessions: Arc<Sessions>,
    tasks: Tasks,
    reads: Semaphore,
    writes: Semaphore,
}

type Answer = Result<Response<Body>, Status>;

impl Supervisor {
    pub fn new(config: SupervisorConfig) -> Result<Arc<Self>, crate::Error> {
        let server_names = pki::Facts::of_pem(&config.pki.server.certificate)?.names;
        Ok(Arc::new(Self {
            config,
            server_names,
            client: RwLock::default(),
            sessions: Arc::default(),
            tasks: Tasks::new(),
            reads: Semaphore::new(READS_MAX),
            writes: Semaphore::new(WRITES_MAX),
        }))
    }

    /// Hands over the way to the API, which exists only after the server that asks this supervisor.
    pub fn set_client(&self, client: Client) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    /// Ends all tunnels and lets go of the API.
    pub fn close(&self) {
        self.sessions.close();
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A stream to the kubelet of a node that has a tunnel.
    pub fn dial(&self, node: &str) -> BoxFuture<'static, io::Result<tunnel::BoxIo>> {
        let (sessions, node) = (self.sessions.clone(), node.to_owned());
        Box::pin(async move { sessions.dial(&node, crate::agent::KUBELET).await })
    }

    /// The nodes that have a tunnel now.
    pub fn connected(&self) -> Vec<String> {
        self.sessions.nodes()
    }

    pub async fn handle(
        &self,
        peer: Option<pki::PeerIdentity>,
        request: Request<Body>,
    ) -> Response<Body> {
        let answered = tokio::time::timeout(PATIENCE, self.answer(peer.as_ref(), request)).await;
        match answered {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => refusal(&status),
            Err(_) => {
                refusal(&Status::timeout("request did not complete within the allotted timeout"))
            }
        }
    }

    async fn answer(&self, peer: Option<&pki::PeerIdentity>, request: Request<Body>) -> Answer {
        let endpoint =
            Endpoint::of(request.method(), request.uri().path()).map_err(|d| status_of(d, ""))?;
        let slots = if endpoint.mutates() { &self.writes } else { &self.reads };
        let _slot = slots.try_acquire().map_err(|_| {
            Status::too_many_requests("too many requests, please try again later", 1)
        })?;
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let client_ca = self.config.pki.client_authority.certificate_pem();
        let caller =
            identify(peer, request.headers(), &self.config.tokens, client_ca, client.as_ref())
                .await
                .map_err(unproven)?;
        let node = request.headers().get(wire::NODE_NAME).and_then(|v| v.to_str().ok());
        allowed(&caller, endpoint, node.unwrap_or_default())
            .map_err(|denial| status_of(denial, request.uri().path()))?;
        match endpoint {
            Endpoint::CaCerts | Endpoint::ServerCa => {
                Ok(text(self.config.pki.server_authority.certificate_pem()))
            }
            Endpoint::ClientCa => Ok(text(client_ca)),
            Endpoint::Ping => Ok(text("pong")),
            Endpoint::Ready => client.map(|_| text("ok")).ok_or_else(starting),
            Endpoint::Config => Ok(json(self.config.shared.to_json())),
            Endpoint::ApiServers => Ok(json(self.api_servers(client.as_ref()).await)),
            Endpoint::ServingCertificate | Endpoint::ClientCertificate => {
                let client = client.ok_or_else(starting)?;
                self.certificate(&client, &caller, endpoint, request).await
            }
            Endpoint::Connect => self.connect(&caller, request),
            Endpoint::Token => self.rotate(request).await,
        }
    }

    async fn certificate(
        &self,
        client: &Client,
        caller: &Caller,
        endpoint: Endpoint,
        request: Request<Body>,
    ) -> Answer {
        let claim = Claim::of(request.headers()).map_err(Status::bad_request)?;
        if let Some(name) = claim.poses_as(&self.server_names) {
            return Err(forbidden(format!(
                "{name:?} is a name or address of the server itself; give this node another with --node-name or --node-ip"
            )));
        }
        let lapsed_key = match caller {
            Caller::Lapsed(_) => lapsed_key(&request),
            _ => None,
        };
        let csr = read(request.into_body()).await?;
        let absent = match caller {
            Caller::Lapsed(_) => {
                let key =
                    pki::requested_key(&csr).map_err(|e| Status::bad_request(e.to_string()))?;
                if !lapsed_key.is_some_and(|own| own.ends_with(&key)) {
                    return Err(forbidden(
                        "the signing request is for another key than the node's old certificate"
                            .to_owned(),
                    ));
                }
                Absent::Refuse
            }
            _ => Absent::Take,
        };
        let verdict = node_password::check(client, &claim.name, &claim.password, absent).await;
        match verdict.map_err(|e| unavailable(&e.to_string()))? {
            Verdict::Granted => {}
            Verdict::Taken => return Err(forbidden(taken(&claim.name))),
            Verdict::Unknown => {
                return Err(forbidden(format!(
                    "the node {:?} was removed from the cluster; it can join again with a token",
                    claim.name
                )));
            }
        }
        self.signed(&claim, endpoint, &csr)
    }

    fn signed(&self, claim: &Claim, endpoint: Endpoint, csr: &[u8]) -> Answer {
        let (pki, seconds) = (&self.config.pki, self.config.leaf_seconds);
        let (authority, wish) = match endpoint {
            Endpoint::ServingCertificate => (&pki.server_authority, claim.serving(seconds)),
            _ => (&pki.client_authority, claim.client(seconds)),
        };
        let certificate = authority
            .sign(csr, &wish, clock::now())
            .map_err(|e| Status::bad_request(e.to_string()))?;
        tracing::info!(node = claim.name, name = wish.subject.common_name, "certificate signed");
        let mut response = text(&(certificate + authority.certificate_pem()));
        response.headers_mut().insert(wire::CERTIFICATE_SECONDS, seconds.into());
        Ok(response)
    }

    /// The servers as the API knows them.
    async fn api_servers(&self, client: Option<&Client>) -> Vec<u8> {
        let mut servers = Vec::new();
        if let Some(client) = client
            && let Ok(Some(slice)) = client.get_opt::<EndpointSlice>("default", "kubernetes").await
        {
            servers = crate::agent::servers_of(&slice);
        }
        let mut texts: Vec<String> = servers.iter().map(ToString::to_string).collect();
        if texts.is_empty() {
            texts.push(self.config.advertise.clone());
        }
        // A list of strings always has a JSON form.
        serde_json::to_vec(&texts).unwrap_or_default()
    }

    fn connect(&self, caller: &Caller, mut request: Request<Body>) -> Answer {
        let Caller::Node(node) = caller else {
            return Err(status_of(Denial::Forbidden, wire::CONNECT));
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let response = tunnel::handshake_response(&parts)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let (sessions, node) = (self.sessions.clone(), node.clone());
        self.tasks.spawn(async move {
            match upgrade.await {
                Ok(stream) => {
                    let accept: tunnel::Accept = Arc::new(|_, _| {
                        Box::pin(async {
                            Err(io::Error::new(io::ErrorKind::PermissionDenied, NOTHING_TO_DIAL))
                        })
                    });
                    let io = Box::new(TokioIo::new(stream));
                    sessions.insert(&node, tunnel::serve(io, accept, tunnel::Limits::default()));
                }
                Err(error) => tracing::debug!(node, %error, "tunnel was not upgraded"),
            }
        });
        Ok(response.map(|()| full(Bytes::new())))
    }

    async fn rotate(&self, request: Request<Body>) -> Answer {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wish {
            new_token: String,
        }
        let body = read(request.into_body()).await?;
        let wish: Wish = serde_json::from_slice(&body)
            .map_err(|e| Status::bad_request(format!("expected {{\"newToken\": …}}: {e}")))?;
        let token = pki::JoinToken::parse(&wish.new_token)
            .map_err(|e| Status::bad_request(e.to_string()))?;
        let password = token.password().ok_or_else(|| {
            Status::bad_request("a bootstrap token cannot be the cluster's token")
        })?;
        self.config.tokens.rotate(password).map_err(|e| unavailable(&e.to_string()))?;
        tracing::info!("the server's token was replaced");
        Ok(text("ok"))
    }
}

/// The public key of the certificate that a node shows though TLS does not take it any more.
fn lapsed_key(request: &Request<Body>) -> Option<Vec<u8>> {
    use base64::Engine;
    let header = request.headers().get(wire::NODE_CERTIFICATE)?;
    let der = base64::engine::general_purpose::STANDARD.decode(header.as_bytes()).ok()?;
    Some(pki::Facts::of_der(&der).ok()?.public_key)
}

async fn read(mut body: Body) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > wire::REQUEST_BYTES_MAX {
            return Err(Status::too_large(wire::REQUEST_BYTES_MAX));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn unproven(why: Unproven) -> Status {
    match why {
        Unproven::WrongToken => {
            Status::failure(401, "Unauthorized", "the token is wrong, has expired or was deleted")
        }
        Unproven::Unavailable(why) => unavailable(&why),
    }
}

fn status_of(denial: Denial, path: &str) -> Status {
    match denial {
        Denial::NotFound => Status::no_such_resource(),
        Denial::Method => Status::method_not_allowed_here(),
        Denial::Unauthorized => Status::unauthorized(),
        Denial::Forbidden => Status::forbidden_path(&format!("this identity may not use {path}")),
    }
}

fn taken(node: &str) -> String {
    format!(
        "the name {node:?} belongs to another node, whose password differs; give this node another name with --node-name or \
         --with-node-id, or, if it replaces the other one, run 'kubectl delete node {node}' and 'kubectl -n {} delete secret {}' \
         first",
        node_password::NAMESPACE,
        node_password::secret_name(node)
    )
}

fn forbidden(message: String) -> Status {
    Status::failure(403, "Forbidden", message)
}

fn starting() -> Status {
    unavailable("the server is starting")
}

fn unavailable(why: &str) -> Status {
    Status::failure(503, "ServiceUnavailable", why)
}

fn refusal(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(status).unwrap_or_default();
    let mut response = json(body);
    *response.status_mut() = code;
    response
}

fn text(text: &str) -> Response<Body> {
    answer("text/plain", text.as_bytes().to_vec())
}

fn json(body: Vec<u8>) -> Response<Body> {
    answer("application/json", body)
}

fn answer(kind: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(body));
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
