//! The generic verbs over the resource table. What a kind does differently is asked from `strategies`.

mod create;
mod delete;
mod list;
mod metadata;
mod patch;
mod update;
mod watch;

pub(crate) use create::create_object;
pub(crate) use delete::{DeleteOptions, delete_object};
pub(crate) use patch::Patch;
pub(crate) use update::{Change, modify};

use crate::answer::{Answer, Form, Result};
use crate::body::{self, FieldValidation};
use crate::request::{Query, Target};
use crate::{ApiServer, User, object};
use api::{Resource, Status};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use std::sync::Arc;

/// One request on its way through a verb.
pub(crate) struct Context<'a> {
    pub server: &'a Arc<ApiServer>,
    pub user: &'a User,
    pub target: &'a Target,
    pub res: &'static Resource,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub form: Form,
    pub warnings: Vec<String>,
}

/// Runs the verb of a request on the resource itself (not on a subresource).
pub(crate) async fn run(cx: &mut Context<'_>, body: Bytes) -> Result<Answer> {
    let nameless = cx.target.name.is_empty() && matches!(cx.target.verb, "update" | "patch");
    if nameless || !cx.res.has_verb(cx.target.verb) {
        return Err(Status::method_not_allowed_here());
    }
    match cx.target.verb {
        "get" => get(cx).await,
        "list" => list::list(cx).await,
        "watch" => watch::watch(cx).await,
        "create" => create::create(cx, &body).await,
        "update" => update::update(cx, &body).await,
        "patch" => patch::patch(cx, &body).await,
        "delete" => delete::delete(cx, &body).await,
        "deletecollection" => delete::delete_collection(cx, &body).await,
        _ => Err(Status::method_not_allowed_here()),
    }
}

async fn get(cx: &Context<'_>) -> Result<Answer> {
    let entry = cx.server.load(cx.res, &cx.target.namespace, &cx.target.name).await?;
    Ok(Answer::Object { code: StatusCode::OK, bytes: entry.value })
}

impl Context<'_> {
    /// Decodes the request's object of this resource.
    pub(crate) fn object(&mut self, bytes: &[u8]) -> Result<Value> {
        body::require_json(self.headers)?;
        let validation = FieldValidation::from_query(self.query)?;
        let kind = (self.res.group, self.res.version, self.res.kind);
        let mut value = body::object(kind, bytes, validation, &mut self.warnings)?;
        if object::storage_form(self.res) != self.res {
            schema::event_to_core(&mut value);
        }
        Ok(value)
    }

    pub(crate) fn dry_run(&self) -> Result<bool> {
        body::dry_run(self.query)
    }
}

impl ApiServer {
    /// The stored entry of an object, or "not found".
    pub(crate) async fn load(
        &self,
        res: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<store::Entry> {
        self.find(res, namespace, name).await?.ok_or_else(|| Status::not_found(res, name))
    }

    pub(crate) async fn find(
        &self,
        res: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<store::Entry>> {
        // A name with a slash would reach into another key.
        if !key_part(name) || (res.namespaced && !key_part(namespace)) {
            return Ok(None);
        }
        self.config.store.get(&res.key(namespace, name)).await.map_err(|e| store_error(&e))
    }
}

fn key_part(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && !text.contains('/')
}

/// What a failure of the store means to a client. Conflicts are the verbs' own business.
pub(crate) fn store_error(error: &store::Error) -> Status {
    match error {
        store::Error::Future { requested, current } => {
            Status::timeout(format!("Too large resource version: {requested}, current: {current}"))
        }
        store::Error::Compacted { .. } | store::Error::Lagged => {
            Status::expired("The resourceVersion for the provided watch is too old.")
        }
        store::Error::TooLarge { limit, .. } => Status::too_large(*limit),
        store::Error::TooManyWatches { limit } => {
            Status::too_many_requests(format!("too many watches, the limit is {limit}"), 1)
        }
        store::Error::InvalidKey { reason, .. } => Status::bad_request(format!(
            "the namespace or name in the path is not usable: {reason}"
        )),
        store::Error::Closed => Status::service_unavailable("the server is shutting down"),
        other => Status::internal(other),
    }
}
