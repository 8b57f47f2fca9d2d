//! A transport that answers from a script and writes down what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Body, BoxError, Client, Result, Transport, full};

#[derive(Clone, Default)]
pub(super) struct Script {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    answers: VecDeque<Response<Body>>,
    asked: Vec<String>,
}

impl Transport for Script {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>>> {
        let mut inner = self.inner.lock().expect("lock");
        let body = String::from_utf8_lossy(request.body()).into_owned();
        inner
            .asked
            .push(format!("{} {} {body}", request.method(), request.uri()).trim_end().to_owned());
        let answer = inner.answers.pop_front();
        Box::pin(async move {
            match answer {
                Some(answer) => Ok(answer),
                // The end of the script: whatever is asked now waits.
                None => std::future::pending().await,
            }
        })
    }
}

impl Script {
    pub(super) fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()))
    }

    pub(super) fn answer(&self, code: u16, body: Value) {
        self.push(Response::builder().status(code).body(full(body.to_string())).expect("response"));
    }

    /// A list of ConfigMaps, given as name and revision.
    pub(super) fn list(&self, revision: u64, items: &[(&str, u64)]) {
        let items: Vec<Value> =
            items.iter().map(|(name, revision)| config_map(name, *revision)).collect();
        self.answer(
            200,
            json!({"metadata": {"resourceVersion": revision.to_string()}, "items": items}),
        );
    }

    /// A watch; what is sent goes to its body, and dropping the sender ends it.
    pub(super) fn watch(&self) -> mpsc::Sender<String> {
        let (sender, receiver) = mpsc::channel::<String>(100);
        let frames = stream::unfold(receiver, |mut receiver| async {
            let text = receiver.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from(text))), receiver))
        });
        self.push(Response::new(StreamBody::new(frames).boxed_unsync()));
        sender
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.inner.lock().expect("lock").asked.clone()
    }

    fn push(&self, answer: Response<Body>) {
        self.inner.lock().expect("lock").answers.push_back(answer);
    }
}

pub(super) fn config_map(name: &str, revision: u64) -> Value {
    json!({"metadata": {
        "name": name, "namespace": "default", "uid": name, "resourceVersion": revision.to_string(),
        "managedFields": [{"manager": "m", "operation": "Update"}],
    }})
}

pub(super) fn event(kind: &str, name: &str, revision: u64) -> String {
    format!("{}\n", json!({"type": kind, "object": config_map(name, revision)}))
}

pub(super) fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": code})
}
