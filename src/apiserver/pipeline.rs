//! The way of a request, layer by layer. From the network it passes all of them; from inside the process it begins with
//! a user that is known already.

use crate::answer::{self, Answer, Form, Result};
use crate::authz::{self, Asked as Access, Attributes};
use crate::registry::{self, Context};
use crate::request::{Query, Route, Target, route};
use crate::{ApiServer, Body, Supervisor, User, authn, body, impersonation, paths, subresources};
use api::{Resource, Status, Strategy};
use bytes::Bytes;
use http::header::ACCEPT;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use pki::PeerIdentity;
use std::sync::Arc;

/// Custom resources are not served, so there are no definitions of any.
const NO_CUSTOM_KINDS: &str = r#"{"kind":"CustomResourceDefinitionList","apiVersion":"apiextensions.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[]}"#;

/// A request after its head was understood.
struct Asked {
    route: Route,
    query: Query,
    parts: Parts,
}

impl ApiServer {
    /// A request from the network: limits, authentication, and the time it may take.
    pub(crate) async fn handle_remote(
        self: &Arc<Self>,
        peer: Option<Arc<PeerIdentity>>,
        request: Request<Body>,
    ) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let response = self.answer_remote(peer, request).await;
        if head { without_body(response) } else { response }
    }

    async fn answer_remote(
        self: &Arc<Self>,
        peer: Option<Arc<PeerIdentity>>,
        request: Request<Body>,
    ) -> Response<Body> {
        if let Some(supervisor) = &self.config.supervisor
            && <dyn Supervisor>::answers(request.uri().path())
        {
            return supervisor.handle(peer.as_deref().cloned(), request).await;
        }
        let (asked, body) = match understand(request) {
            Ok(understood) => understood,
            Err(status) => return answer::status_response(&status),
        };
        let user = match authn::authenticate(self, peer.as_deref(), &asked.parts).await {
            Ok(user) => user,
            Err(status) => return answer::status_response(&status),
        };
        if asked.long_running() {
            return self.perform(&user, asked, body).await;
        }
        let Ok(_permit) = self.requests.try_acquire() else {
            let status = Status::too_many_requests("too many requests, please try again later", 1);
            return answer::status_response(&status);
        };
        let limit = self.config.limits.request_timeout;
        match tokio::time::timeout(limit, self.perform(&user, asked, body)).await {
            Ok(response) => self.hold(response),
            Err(_) => answer::status_response(&Status::timeout(
                "request did not complete within the allotted timeout",
            )),
        }
    }

    /// A request from inside the process: after authentication, before authorization.
    pub async fn handle(self: &Arc<Self>, user: User, request: Request<Body>) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let response = match understand(request) {
            Ok((asked, body)) => self.perform(&user, asked, body).await,
            Err(status) => answer::status_response(&status),
        };
        if head { without_body(response) } else { response }
    }

    async fn perform(
        self: &Arc<Self>,
        user: &User,
        mut asked: Asked,
        body: Body,
    ) -> Response<Body> {
        let indented = answer::wants_indentation(&asked.query, &asked.parts.headers);
        let response = match impersonation::effective(self, user, &mut asked.parts.headers).await {
            Ok(user) => self.perform_as(&user, asked, body).await,
            Err(status) => answer::status_response(&status),
        };
        if indented { answer::indented(response).await } else { response }
    }

    async fn perform_as(
        self: &Arc<Self>,
        user: &User,
        mut asked: Asked,
        body: Body,
    ) -> Response<Body> {
        if let Err(status) = authorize(self, user, &asked).await {
            return answer::status_response(&status);
        }
        let target = match &mut asked.route {
            Route::Path(path) => {
                return paths::answer(self, path, &asked.query, &asked.parts.headers).await;
            }
            Route::Resource(target) => std::mem::take(target),
        };
        let res = match served(&target, &asked.parts.method) {
            Ok(res) => res,
            Err(_) if lists_custom_kinds(&target) => {
                return answer::json_response(StatusCode::OK, NO_CUSTOM_KINDS);
            }
            Err(status) => return answer::status_response(&status),
        };
        let form = match Form::negotiate(
            asked.parts.headers.get(ACCEPT),
            asked.query.get("includeObject"),
        ) {
            Ok(form) => form,
            Err(status) => return answer::status_response(&status),
        };
        if subresources::is_stream(&target) {
            let answer = subresources::stream(self, &target, &asked.query, asked.parts, body).await;
            return answer::render(answer, None, Form::Plain);
        }
        let mut cx = Context {
            server: self,
            user,
            target: &target,
            res,
            query: &asked.query,
            headers: &asked.parts.headers,
            form,
            warnings: deprecations(res),
        };
        let result = match body::read(body, cx.headers, self.config.limits.body_bytes).await {
            Ok(bytes) => run(&mut cx, bytes).await,
            Err(status) => Err(status),
        };
        // Subresources with a kind of their own (Scale, Binding, ...) are no rows of the resource's table.
        let plain = matches!(target.subresource.as_str(), "" | "status" | "finalize")
            && res.strategy != Strategy::Virtual;
        let mut response = answer::render(result, plain.then_some(res), form);
        answer::add_warnings(&mut response, &cx.warnings);
        response
    }
}

async fn run(cx: &mut Context<'_>, body: Bytes) -> Result<Answer> {
    match (cx.res.strategy, cx.target.subresource.as_str()) {
        (Strategy::Virtual, _) => subresources::review(cx, &body).await,
        (_, "") => registry::run(cx, body).await,
        _ => subresources::run(cx, body).await,
    }
}

fn understand(request: Request<Body>) -> Result<(Asked, Body)> {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default())
        .ok_or_else(|| Status::bad_request("the query parameters are not valid text"))?;
    let route = route(&parts.method, parts.uri.path(), &query)
        .ok_or_else(|| Status::bad_request("the path is not valid text"))?;
    Ok((Asked { route, query, parts }, body))
}

async fn authorize(server: &ApiServer, user: &User, asked: &Asked) -> Result<()> {
    let target = match &asked.route {
        Route::Path(path) => {
            let verb = asked.parts.method.as_str().to_ascii_lowercase();
            return server.require(user, &Access::Path { verb: &verb, path }).await;
        }
        Route::Resource(target) => target,
    };
    let fields = authz::fields(target, &asked.query);
    let access = Attributes::of(target, &fields);
    server.require(user, &Access::Resource(access)).await?;
    // A WebSocket begins with GET, and yet does what POST does.
    if subresources::enters(target, &asked.parts.headers) && access.verb == "get" {
        let access = Attributes { verb: "create", ..access };
        server.require(user, &Access::Resource(access)).await?;
    }
    Ok(())
}

/// What clients are told about kinds that will go.
fn deprecations(res: &Resource) -> Vec<String> {
    match res.kind {
        "Endpoints" => vec![
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
                .to_owned(),
        ],
        _ => Vec::new(),
    }
}

/// kubectl asks for the list before it says that a kind is unknown, and says something else if it gets none.
fn lists_custom_kinds(target: &Target) -> bool {
    let wanted = ("list", "apiextensions.k8s.io", "v1", "customresourcedefinitions");
    (target.verb, target.group.as_str(), target.version.as_str(), target.plural.as_str()) == wanted
}

/// The answer to HEAD: HTTP/2 takes a body there for a broken stream.
fn without_body(response: Response<Body>) -> Response<Body> {
    response.map(|_| answer::full(Bytes::new()))
}

/// The resource of a path, if path and scope exist and the method has a meaning there.
fn served(target: &Target, method: &Method) -> Result<&'static Resource> {
    let Some(res) = target.resource else { return Err(Status::no_such_resource()) };
    let scoped = match res.namespaced {
        true => !target.namespace.is_empty() || target.name.is_empty(),
        false => target.namespace.is_empty(),
    };
    let known = match target.subresource.as_str() {
        "" => target.rest.is_empty(),
        sub => (target.rest.is_empty() || sub == "proxy") && res.subresource(sub).is_some(),
    };
    if !scoped || !known {
        return Err(Status::no_such_resource());
    }
    if method == Method::HEAD && target.subresource != "proxy" {
        return Err(Status::method_not_allowed_here());
    }
    Ok(res)
}

impl Asked {
    /// Requests that may last: they have limits of their own and no deadline.
    fn long_running(&self) -> bool {
        matches!(&self.route, Route::Resource(t) if t.verb == "watch" || subresources::is_stream(t))
    }
}
