//! Whether the API server is there: every request of the agent goes through here, and tells by its answer.
//!
//! Nobody asks for the sake of asking. The lease is renewed every few seconds anyway, so a server that is back is noticed
//! soon; whoever waits for it watches the [`Link`] and does nothing meanwhile.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::{Body, Client, Transport};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

/// A server that has answered nothing for this long, although it was asked, is away.
const SILENCE: Duration = Duration::from_secs(10);
/// A request may fail for reasons of its own; a server that answered another one so lately is there.
const RECENT: Duration = Duration::from_secs(3);

/// What is known of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// It has not been heard since the agent started.
    Unknown,
    Heard,
    Away,
}

/// A client that says by its requests whether the server is there.
pub(crate) fn listening(client: Client) -> (Client, watch::Receiver<Link>) {
    let (state, seen) = watch::channel(Link::Unknown);
    let heard = Mutex::new(None);
    (Client::new(std::sync::Arc::new(Listening { inner: client, state, heard })), seen)
}

/// Ends when the server is known to be away.
pub(crate) async fn away(mut link: watch::Receiver<Link>) {
    if link.wait_for(|l| *l == Link::Away).await.is_err() {
        std::future::pending().await
    }
}

struct Listening {
    inner: Client,
    state: watch::Sender<Link>,
    heard: Mutex<Option<Instant>>,
}

impl Transport for Listening {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, client::Result<Response<Body>>> {
        Box::pin(async move {
            let asked = Instant::now();
            let mut answer = pin!(self.inner.raw(request));
            let answer = match tokio::time::timeout(SILENCE, &mut answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    if self.last_heard().is_none_or(|at| at <= asked) {
                        self.note(Link::Away);
                    }
                    answer.await
                }
            };
            if answers(&answer) {
                self.note(Link::Heard);
            } else if self.last_heard().is_none_or(|at| at.elapsed() >= RECENT) {
                self.note(Link::Away);
            }
            answer
        })
    }
}

impl Listening {
    fn last_heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, now: Link) {
        if now == Link::Heard {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        let changed = self.state.send_if_modified(|state| std::mem::replace(state, now) != now);
        match now {
            Link::Away if changed => tracing::warn!("the API server does not answer; pods run on"),
            Link::Heard if changed => tracing::info!("the API server answers"),
            _ => {}
        }
    }
}

/// Somebody in front of the server may say that it is not there.
fn answers(answer: &client::Result<Response<Body>>) -> bool {
    let absent =
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    answer.as_ref().is_ok_and(|response| !absent.contains(&response.status()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    /// Answers with a status; 0 is a broken connection, 1 silence.
    #[derive(Default)]
    struct Fake(Arc<AtomicU16>);

    impl Transport for Fake {
        fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, client::Result<Response<Body>>> {
            let code = self.0.load(Ordering::Relaxed);
            Box::pin(async move {
                match code {
                    0 => Err(client::Error::Config("refused".into())),
                    1 => std::future::pending().await,
                    code => Ok(Response::builder()
                        .status(code)
                        .body(client::full("{}"))
                        .expect("a response")),
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_tell_whether_the_server_is_there() {
        let code = Arc::new(AtomicU16::new(0));
        let (client, link) = listening(Client::new(Arc::new(Fake(Arc::clone(&code)))));
        assert_eq!(*link.borrow(), Link::Unknown);
        let cases = [
            (0, Link::Away),
            (200, Link::Heard),
            (1, Link::Away),
            (404, Link::Heard),
            (503, Link::Away),
            (401, Link::Heard),
        ];
        for (answer, wanted) in cases {
            tokio::time::sleep(RECENT).await;
            code.store(answer, Ordering::Relaxed);
            let ask = client.raw(Request::new(Bytes::new()));
            drop(tokio::time::timeout(Duration::from_secs(60), ask).await);
            assert_eq!(*link.borrow(), wanted, "{answer}");
        }
        code.store(0, Ordering::Relaxed);
        drop(client.raw(Request::new(Bytes::new())).await);
        assert_eq!(*link.borrow(), Link::Heard, "one failure is no absence");
    }
}
