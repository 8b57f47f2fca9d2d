//! An API server in memory that can be cut off. It knows objects by their paths, lists, watches and merges patches; it
//! defaults and validates nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::{Body, BoxError, Client, Transport, full};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// What a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    Refused,
    Silent,
}

#[derive(Clone)]
pub(super) struct FakeServer {
    inner: Arc<Mutex<Inner>>,
    changes: broadcast::Sender<Change>,
}

struct Inner {
    way: Way,
    objects: BTreeMap<String, Value>,
    revision: u64,
    /// Method and path of everything that was asked, also without an answer.
    asked: Vec<String>,
}

#[derive(Clone)]
enum Change {
    /// Collection, kind of event, object.
    Event(String, &'static str, Value),
    Cut,
}

impl FakeServer {
    pub(super) fn new() -> FakeServer {
        let inner =
            Inner { way: Way::Open, objects: BTreeMap::new(), revision: 1, asked: Vec::new() };
        FakeServer { inner: Arc::new(Mutex::new(inner)), changes: broadcast::channel(256).0 }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()))
    }

    /// Cuts or opens the way; watches break when it is cut.
    pub(super) fn set(&self, way: Way) {
        self.inner.lock().expect("lock").way = way;
        if way != Way::Open {
            drop(self.changes.send(Change::Cut));
        }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.inner.lock().expect("lock").asked.clone()
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.inner.lock().expect("lock").objects.get(path).cloned()
    }

    /// All objects whose paths begin so.
    pub(super) fn below(&self, path: &str) -> Vec<Value> {
        let inner = self.inner.lock().expect("lock");
        inner.objects.iter().filter(|(k, _)| k.starts_with(path)).map(|(_, v)| v.clone()).collect()
    }

    /// Stores an object as it is, with a new revision.
    pub(super) fn put(&self, path: &str, mut object: Value) -> Value {
        let mut inner = self.inner.lock().expect("lock");
        inner.revision += 1;
        object["metadata"]["resourceVersion"] = json!(inner.revision.to_string());
        let old = inner.objects.insert(path.to_owned(), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        drop(self.changes.send(Change::Event(collection(path), kind, object.clone())));
        object
    }

    pub(super) fn remove(&self, path: &str) -> Option<Value> {
        let mut inner = self.inner.lock().expect("lock");
        inner.revision += 1;
        let mut object = inner.objects.remove(path)?;
        object["metadata"]["resourceVersion"] = json!(inner.revision.to_string());
        drop(self.changes.send(Change::Event(collection(path), "DELETED", object.clone())));
        Some(object)
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let body = || serde_json::from_slice::<Value>(request.body()).unwrap_or_default();
        let status = path.trim_end_matches("/status");
        match *request.method() {
            Method::GET if query.contains("watch=true") => self.watch(&path, &selector(query)),
            Method::GET if is_collection(&path) => self.list(&path, &selector(query)),
            Method::GET => found(self.get(&path)),
            Method::POST if path.ends_with("/token") => token(),
            Method::POST => {
                let mut object = body();
                let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
                let path = format!("{path}/{name}");
                if object["metadata"]["uid"].is_null() {
                    object["metadata"]["uid"] = json!(format!("uid-{name}-{}", self.revision()));
                }
                ok(&self.put(&path, object))
            }
            Method::PUT => match self.get(&path) {
                Some(_) => ok(&self.put(&path, body())),
                None => found(None),
            },
            Method::PATCH => match self.get(status) {
                Some(object) if other_uid(&object, &body()) => refusal(409, "Conflict"),
                Some(mut object) => {
                    merge(&mut object, body());
                    ok(&self.put(status, object))
                }
                None => found(None),
            },
            Method::DELETE => found(self.remove(&path)),
            _ => found(None),
        }
    }

    fn revision(&self) -> u64 {
        self.inner.lock().expect("lock").revision
    }

    fn list(&self, path: &str, selector: &Selector) -> Response<Body> {
        let inner = self.inner.lock().expect("lock");
        let items: Vec<&Value> = inner
            .objects
            .iter()
            .filter(|(key, object)| below(&collection(key), path) && selector.takes(object))
            .map(|(_, object)| object)
            .collect();
        let revision = inner.revision.to_string();
        ok(&json!({"metadata": {"resourceVersion": revision}, "items": items}))
    }

    fn watch(&self, path: &str, selector: &Selector) -> Response<Body> {
        let (path, selector) = (path.to_owned(), selector.clone());
        let changes = self.changes.subscribe();
        let frames = stream::unfold((changes, false), move |(mut changes, over)| {
            let (path, selector) = (path.clone(), selector.clone());
            async move {
                if over {
                    return None;
                }
                loop {
                    let lost: BoxError = "connection lost".into();
                    match changes.recv().await {
                        Ok(Change::Event(of, kind, object))
                            if below(&of, &path) && selector.takes(&object) =>
                        {
                            let line = json!({"type": kind, "object": object}).to_string() + "\n";
                            return Some((Ok(Frame::data(Bytes::from(line))), (changes, false)));
                        }
                        Ok(Change::Event(..)) => {}
                        Ok(Change::Cut) | Err(_) => return Some((Err(lost), (changes, true))),
                    }
                }
            }
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

impl Transport for FakeServer {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, client::Result<Response<Body>>> {
        let way = {
            let mut inner = self.inner.lock().expect("lock");
            inner.asked.push(format!("{} {}", request.method(), request.uri().path()));
            inner.way
        };
        Box::pin(async move {
            match way {
                Way::Open => Ok(self.answer(&request)),
                Way::Silent => std::future::pending().await,
                Way::Refused => Err(client::Error::Transport {
                    method: request.method().to_string(),
                    path: request.uri().path().to_owned(),
                    source: "connection refused".into(),
                }),
            }
        })
    }
}

#[derive(Clone, Default)]
struct Selector(Vec<(String, String)>);

impl Selector {
    fn takes(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, wanted)| {
            let pointer = format!("/{}", field.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(wanted)
        })
    }
}

fn selector(query: &str) -> Selector {
    let field = query.split('&').find_map(|p| p.strip_prefix("fieldSelector="));
    let field = field.map(|f| f.replace("%3D", "="));
    let pair = field.as_deref().and_then(|f| f.split_once('='));
    Selector(pair.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect())
}

/// Whether a path ends with a resource instead of a name: `/api/v1/pods`, `/apis/g/v/namespaces/ns/things`.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    match rest {
        ["namespaces", _, more @ ..] if !more.is_empty() => more.len() % 2 == 1,
        rest => rest.len() % 2 == 1,
    }
}

fn collection(path: &str) -> String {
    path.rsplit_once('/').map_or("", |(collection, _)| collection).to_owned()
}

/// Whether a collection is `wanted` or, for one over all namespaces, a part of it.
fn below(collection: &str, wanted: &str) -> bool {
    let bare = |path: &str| match path.split_once("/namespaces/") {
        Some((head, tail)) => {
            format!("{head}/{}", tail.split_once('/').map_or("", |(_, resource)| resource))
        }
        None => path.to_owned(),
    };
    collection == wanted || (!wanted.contains("/namespaces/") && bare(collection) == wanted)
}

/// RFC 7386, which is near enough to what the agent sends.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, mut value) in patch {
        if let Some(list) = value.as_array_mut() {
            list.retain(|item| item.get("$patch").is_none());
        }
        match (&mut target[key.as_str()], value) {
            (slot, Value::Null) => *slot = Value::Null,
            (slot, value @ Value::Object(_)) => merge(slot, value),
            (slot, value) => *slot = value,
        }
    }
}

fn token() -> Response<Body> {
    ok(&json!({"metadata": {}, "spec": {"audiences": []},
        "status": {"token": "token", "expirationTimestamp": "2100-01-01T00:00:00Z"}}))
}

fn ok(object: &Value) -> Response<Body> {
    Response::new(full(object.to_string()))
}

fn found(object: Option<Value>) -> Response<Body> {
    match object {
        Some(object) => ok(&object),
        None => refusal(404, "NotFound"),
    }
}

fn other_uid(object: &Value, patch: &Value) -> bool {
    let wanted = &patch["metadata"]["uid"];
    !wanted.is_null() && *wanted != object["metadata"]["uid"]
}

fn refusal(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    Response::builder().status(code).body(full(status.to_string())).expect("a response")
}
