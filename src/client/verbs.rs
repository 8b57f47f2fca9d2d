//! The client: typed verbs on objects.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::request::{Query, request};
use crate::{
    Body, DeleteParams, Error, ListParams, Object, PartialObject, Patch, ResourcePath, Result,
    Transport, key_of,
};

/// How long a call other than a watch may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest body of an answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Objects fetched by one request of a list.
const LIST_PAGE: usize = 500;
/// How often a list starts over when its continue token expires half way.
const LIST_RESTARTS_MAX: usize = 3;

/// Talks to the API over a transport; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

/// All objects of a collection at a revision.
#[derive(Clone, Debug)]
pub struct List<K> {
    pub items: Vec<K>,
    /// Where a watch continues.
    pub revision: String,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// What a list does with an object that cannot be read as the type asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Fails,
    /// One object of one user must not keep a controller from all others.
    IsSkipped,
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K> {
        self.call(Method::GET, ResourcePath::of::<K>().path(namespace, name, ""), None).await
    }

    /// Like `get`, with `None` for an object that does not exist.
    pub async fn get_opt<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<K>> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Like `get_opt`, for an object whose collection is given by its path.
    pub async fn get_at<K: DeserializeOwned>(
        &self,
        resource: ResourcePath,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>> {
        match self.call(Method::GET, resource.path(namespace, name, ""), None).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn list<K: Object>(&self, namespace: &str, params: &ListParams) -> Result<List<K>> {
        let params = ListParams { namespace: namespace.to_owned(), ..params.clone() };
        self.list_at(ResourcePath::of::<K>(), &params).await
    }

    /// Lists a collection given by its path, page by page.
    pub async fn list_at<K: Object>(
        &self,
        resource: ResourcePath,
        params: &ListParams,
    ) -> Result<List<K>> {
        self.list_pages(resource, params, Unreadable::Fails).await
    }

    pub(crate) async fn list_pages<K: Object>(
        &self,
        resource: ResourcePath,
        params: &ListParams,
        unreadable: Unreadable,
    ) -> Result<List<K>> {
        let mut restarts = 0;
        loop {
            match self.list_once(resource, params, unreadable).await {
                Err(error) if error.is_gone() && restarts < LIST_RESTARTS_MAX => restarts += 1,
                result => return result,
            }
        }
    }

    async fn list_once<K: Object>(
        &self,
        resource: ResourcePath,
        params: &ListParams,
        unreadable: Unreadable,
    ) -> Result<List<K>> {
        let metadata_only = K::URL_PATH_SEGMENT.is_empty();
        let failed = |source| Error::Decode { what: format!("list of {resource}"), source };
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let query = Query {
                params,
                limit: LIST_PAGE,
                continue_token: &token,
                watch: None,
                metadata_only,
            };
            let bytes = self.answer(query.request(resource)?).await?;
            let page: Page<'_> = serde_json::from_slice(&bytes).map_err(failed)?;
            for item in page.items.iter().flatten() {
                match serde_json::from_str(item.get()) {
                    Ok(item) => items.push(item),
                    Err(error) if unreadable == Unreadable::IsSkipped => {
                        skipped(item, resource, &error)
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
            token = page.metadata.continue_.unwrap_or_default();
            if token.is_empty() {
                return Ok(List {
                    items,
                    revision: page.metadata.resource_version.unwrap_or_default(),
                });
            }
        }
    }

    pub async fn create<K: Object + Serialize>(&self, object: &K) -> Result<K> {
        let namespace = object.metadata().namespace.as_deref().unwrap_or_default();
        let path = ResourcePath::of::<K>().path(namespace, "", "");
        self.call(Method::POST, path, Some(("application/json", encode::<K>(object)?))).await
    }

    /// Creates an object given as JSON in the collection given by its path.
    pub async fn create_at<K: DeserializeOwned>(
        &self,
        resource: ResourcePath,
        object: &Value,
    ) -> Result<K> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let body = Bytes::from(object.to_string());
        self.call(Method::POST, resource.path(namespace, "", ""), Some(("application/json", body)))
            .await
    }

    /// Replaces an object given as JSON in the collection given by its path.
    pub async fn replace_at<K: DeserializeOwned>(
        &self,
        resource: ResourcePath,
        object: &Value,
    ) -> Result<K> {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let path = resource.path(text("namespace"), text("name"), "");
        let body = Bytes::from(object.to_string());
        self.call(Method::PUT, path, Some(("application/json", body))).await
    }

    /// Replaces an object; its resource version, when set, must be the current one.
    pub async fn replace<K: Object + Serialize>(&self, object: &K) -> Result<K> {
        self.put(object, "").await
    }

    pub async fn replace_status<K: Object + Serialize>(&self, object: &K) -> Result<K> {
        self.put(object, "status").await
    }

    /// Replaces a subresource that has the shape of the object itself, such as `status` or `finalize`.
    pub async fn put<K: Object + Serialize>(&self, object: &K, sub: &str) -> Result<K> {
        let meta = object.metadata();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let path =
            ResourcePath::of::<K>().path(namespace, meta.name.as_deref().unwrap_or_default(), sub);
        self.call(Method::PUT, path, Some(("application/json", encode::<K>(object)?))).await
    }

    pub async fn patch<K: Object>(&self, namespace: &str, name: &str, patch: &Patch) -> Result<K> {
        self.patch_sub(namespace, name, "", patch).await
    }

    pub async fn patch_sub<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        sub: &str,
        patch: &Patch,
    ) -> Result<K> {
        self.patch_at(ResourcePath::of::<K>(), namespace, name, sub, patch).await
    }

    /// Patches an object whose collection is given by its path.
    pub async fn patch_at<K: Object>(
        &self,
        resource: ResourcePath,
        namespace: &str,
        name: &str,
        sub: &str,
        patch: &Patch,
    ) -> Result<K> {
        let (content_type, body) = patch.parts();
        let path = resource.path(namespace, name, sub);
        self.call(Method::PATCH, path, Some((content_type, encode::<K>(body)?))).await
    }

    pub async fn delete<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<()> {
        self.delete_at(ResourcePath::of::<K>(), namespace, name, params).await.map(drop)
    }

    /// Deletes an object whose collection is given by its path; answers what the server said: the object as it is
    /// while it ends, or a Status.
    pub async fn delete_at(
        &self,
        resource: ResourcePath,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<Value> {
        let body = Bytes::from(params.body().to_string());
        self.call(
            Method::DELETE,
            resource.path(namespace, name, ""),
            Some(("application/json", body)),
        )
        .await
    }

    /// Posts to a subresource of an object, such as `binding`, `eviction` or `token`.
    pub async fn post_sub<K, B, R>(
        &self,
        namespace: &str,
        name: &str,
        sub: &str,
        body: &B,
    ) -> Result<R>
    where
        K: k8s_openapi::Resource,
        B: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let path = ResourcePath::of::<K>().path(namespace, name, sub);
        self.call(Method::POST, path, Some(("application/json", encode::<K>(body)?))).await
    }

    /// Sends any request and hands the answer on as it comes, whatever its status.
    pub async fn raw(&self, request: Request<Bytes>) -> Result<Response<Body>> {
        self.transport.send(request).await
    }

    /// Sends a request; failures of the API become errors, the body stays a stream.
    pub(crate) async fn open(&self, request: Request<Bytes>) -> Result<Response<Body>> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let answer = tokio::time::timeout(CALL_TIMEOUT, self.transport.send(request));
        let response = answer.await.map_err(|_| timed_out(&method, &path))??;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let collected =
            tokio::time::timeout(CALL_TIMEOUT, collect(response.into_body(), &method, &path));
        let bytes = collected.await.map_err(|_| timed_out(&method, &path))??;
        Err(failure(code, &path, &bytes))
    }

    async fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Option<(&str, Bytes)>,
    ) -> Result<R> {
        self.exchange(request(method, path, body)?).await
    }

    async fn exchange<R: DeserializeOwned>(&self, request: Request<Bytes>) -> Result<R> {
        let path = request.uri().path().to_owned();
        let bytes = self.answer(request).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { what: path, source })
    }

    /// The whole body of a successful answer.
    async fn answer(&self, request: Request<Bytes>) -> Result<Bytes> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let whole = async {
            let response = self.open(request).await?;
            collect(response.into_body(), &method, &path).await
        };
        tokio::time::timeout(CALL_TIMEOUT, whole).await.map_err(|_| timed_out(&method, &path))?
    }
}

/// Says which object is left out.
pub(crate) fn skipped(object: &RawValue, resource: ResourcePath, error: &serde_json::Error) {
    let meta = serde_json::from_str::<PartialObject>(object.get()).unwrap_or_default();
    let (namespace, name) = key_of(&meta);
    tracing::warn!(%resource, namespace, name, %error, "object left out, it cannot be read");
}

async fn collect(mut body: Body, method: &str, path: &str) -> Result<Bytes> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| Error::Transport {
            method: method.to_owned(),
            path: path.to_owned(),
            source,
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if rest.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(Error::TooLarge { path: path.to_owned(), limit: ANSWER_BYTES_MAX });
        }
        match first.take() {
            // Nearly every answer is one frame: it is kept as it came.
            None if rest.is_empty() => first = Some(data),
            Some(head) => {
                rest.extend_from_slice(&head);
                rest.extend_from_slice(&data);
            }
            None => rest.extend_from_slice(&data),
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

fn failure(code: u16, path: &str, body: &[u8]) -> Error {
    let status = serde_json::from_slice::<api::Status>(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(512)]);
        let mut status = api::Status::internal(format!("{path}: {}", text.trim()));
        status.code = code;
        status
    });
    Error::Api(Box::new(status))
}

fn timed_out(method: &str, path: &str) -> Error {
    Error::Timeout {
        method: method.to_owned(),
        path: path.to_owned(),
        seconds: CALL_TIMEOUT.as_secs(),
    }
}

fn encode<K: k8s_openapi::Resource>(body: &(impl Serialize + ?Sized)) -> Result<Bytes> {
    let bytes = serde_json::to_vec(body)
        .map_err(|source| Error::Encode { what: K::KIND.to_owned(), source })?;
    Ok(bytes.into())
}
