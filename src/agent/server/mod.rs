//! The kubelet's HTTP API: logs, exec, attach, port forwarding, and what monitoring asks for. It serves streams that
//! somebody else has accepted and authenticated; it knows neither listeners nor TLS.

mod channels;
mod configz;
mod exec;
mod log_request;
mod metrics;
mod portforward;
mod query;
mod session;
mod stats;
#[cfg(test)]
mod tests;
mod upgrade;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::actor::View;
use crate::context::Context;
use crate::pods::Directory;
use query::Query;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// What goes on with a connection after its upgrade.
type After = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

/// The API of one agent; clones serve the same pods.
#[derive(Clone)]
pub struct KubeletApi {
    ctx: Arc<Context>,
    pods: Directory,
}

/// A refusal: the code and the text of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal(StatusCode, String);

type Answer = Result<Response<Body>, Refusal>;

impl KubeletApi {
    pub(crate) fn new(ctx: Arc<Context>, pods: Directory) -> KubeletApi {
        KubeletApi { ctx, pods }
    }

    #[cfg(test)]
    pub(crate) fn knows(&self, namespace: &str, pod: &str) -> bool {
        self.pods.get(namespace, pod).is_some()
    }

    /// Serves HTTP/1.1 on one stream, upgrades included, until it ends.
    pub async fn serve_stream(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let after: After = Arc::default();
        let service = service_fn(|request: Request<Incoming>| {
            let (api, after) = (self.clone(), Arc::clone(&after));
            async move { Ok::<_, Infallible>(api.answer(request, &after).await) }
        });
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "kubelet connection ended");
        }
        let session = after.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(session) = session {
            session.await;
        }
    }

    async fn answer(&self, request: Request<Incoming>, after: &After) -> Response<Body> {
        let path = request.uri().path().to_owned();
        match self.route(request, &path, after).await {
            Ok(response) => response,
            Err(Refusal(code, text)) => respond(code, "text/plain; charset=utf-8", text),
        }
    }

    async fn route(&self, request: Request<Incoming>, path: &str, after: &After) -> Answer {
        let decoded: Vec<String> = path.trim_matches('/').split('/').map(query::decode).collect();
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        match parts.as_slice() {
            ["healthz"] if reading => {
                Ok(respond(StatusCode::OK, "text/plain; charset=utf-8", "ok"))
            }
            ["pods"] if reading => self.list_pods(),
            ["stats", "summary"] if reading => stats::summary(&self.ctx, &self.pods.list()).await,
            ["configz"] if reading => configz::answer(&self.ctx),
            ["metrics"] if reading => metrics::answer(&self.ctx, &self.pods.list()),
            ["metrics", "resource"] if reading => {
                stats::resource_metrics(&self.ctx, &self.pods.list()).await
            }
            ["containerLogs", namespace, pod, container] if reading => {
                let query = Query::parse(request.uri().query());
                log_request::answer(&self.ctx, self.pod(namespace, pod)?, container, &query)
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                exec::answer(self, request, (namespace, pod, container), exec::Verb::Exec, after)
                    .await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                exec::answer(self, request, (namespace, pod, container), exec::Verb::Attach, after)
                    .await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                portforward::answer(self, request, (namespace, pod), after).await
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, "404 page not found".to_owned())),
        }
    }

    fn pod(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<tokio::sync::watch::Receiver<Arc<View>>, Refusal> {
        self.pods
            .get(namespace, name)
            .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "pod does not exist".to_owned()))
    }

    fn list_pods(&self) -> Answer {
        let items = self.pods.list().into_iter().map(|view| {
            let mut pod = Pod::clone(&view.pod);
            pod.status = Some(view.status.clone());
            pod
        });
        let list = List { items: items.collect(), ..List::<Pod>::default() };
        let text = serde_json::to_vec(&list).map_err(internal)?;
        Ok(respond(StatusCode::OK, "application/json", text))
    }
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn respond(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// The status of one container, init containers included.
fn status_of<'a>(view: &'a View, container: &str) -> Option<&'a ContainerStatus> {
    let init = view.status.init_container_statuses.iter().flatten();
    init.chain(view.status.container_statuses.iter().flatten()).find(|s| s.name == container)
}

/// The runtime's name of the container if it runs.
fn running_id(view: &View, container: &str) -> Option<String> {
    let status = status_of(view, container)?;
    status.state.as_ref()?.running.as_ref()?;
    status.container_id.as_deref()?.strip_prefix("copepod://").map(str::to_owned)
}
