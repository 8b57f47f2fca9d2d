//! The WebSocket handshake on a request that hyper has parsed.

use http::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Answer, Refusal};

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The largest message a client may send, and what is buffered of ours.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Refuses what is no WebSocket; SPDY clients are told what to use instead.
pub(super) fn check(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let says = |name: http::HeaderName, word: &str| {
        let values = headers.get_all(name);
        values.iter().filter_map(|v| v.to_str().ok()).any(|v| v.to_lowercase().contains(word))
    };
    let bad = |text: &str| Refusal(StatusCode::BAD_REQUEST, text.to_owned());
    if says(UPGRADE, "spdy") {
        return Err(bad(
            "unable to upgrade: SPDY is not supported, use WebSockets (kubectl 1.31 or newer)",
        ));
    }
    if !says(UPGRADE, "websocket") || !says(CONNECTION, "upgrade") {
        return Err(bad("unable to upgrade: missing upgrade headers in request"));
    }
    headers
        .get(SEC_WEBSOCKET_KEY)
        .cloned()
        .ok_or_else(|| bad("unable to upgrade: missing Sec-WebSocket-Key"))
}

/// What the client offers as sub-protocols.
pub(super) fn offered(headers: &HeaderMap) -> String {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    values.iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",")
}

pub(super) fn accept(key: &HeaderValue, protocol: &'static str) -> Answer {
    let accept = derive_accept_key(key.as_bytes());
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .header(SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
        .map_err(super::internal)
}

pub(super) async fn socket(upgrade: OnUpgrade) -> Option<Socket> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "upgrade did not happen");
            return None;
        }
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
}
