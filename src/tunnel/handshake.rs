//! Both sides of the HTTP upgrade before a session.

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::error::Error;
use crate::limits::Limits;
use crate::session::{Session, client, config};
use crate::{Accept, BoxIo};

const VERSION: HeaderValue = HeaderValue::from_static("13");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADES: HeaderValue = HeaderValue::from_static("Upgrade");
/// The most of a refusal's body that is kept.
const REFUSAL_MAX: usize = 1024;

/// Asks the server behind an established (TLS) connection for a tunnel, and runs the client's side of it.
pub async fn connect(
    io: BoxIo,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    accept: Accept,
    limits: Limits,
) -> Result<Session, Error> {
    let request = request(host, path, headers)?;
    let handshake = client_async_with_config(request, io, Some(config(&limits)));
    let (socket, _response) = timeout(limits.handshake_timeout, handshake)
        .await
        .map_err(|_| Error::Handshake(format!("no answer in {:?}", limits.handshake_timeout)))?
        .map_err(failure)?;
    Ok(client(socket, accept, limits))
}

fn request(host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Request<()>, Error> {
    let bad = |what: &dyn std::fmt::Display| Error::Handshake(format!("invalid request: {what}"));
    // The authority is never sent; it stands for the connection that is there already.
    let mut request = Request::get(format!("ws://tunnel{path}"))
        .header(HOST, host)
        .header(CONNECTION, UPGRADES)
        .header(UPGRADE, WEBSOCKET)
        .header(SEC_WEBSOCKET_VERSION, VERSION)
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .body(())
        .map_err(|e| bad(&e))?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(&e))?;
        let value = HeaderValue::from_str(value).map_err(|e| bad(&e))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

fn failure(error: SocketError) -> Error {
    match error {
        SocketError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_MAX)]);
            Error::Refused { status: response.status().as_u16(), body: body.trim().to_owned() }
        }
        other => Error::Handshake(other.to_string()),
    }
}

/// The answer to a request for a tunnel; the session is then served on the upgraded connection.
pub fn handshake_response(request: &http::request::Parts) -> Result<Response<()>, Error> {
    let expect = |met: bool, what: &str| {
        met.then_some(()).ok_or_else(|| Error::Handshake(format!("request lacks {what}")))
    };
    expect(request.method == Method::GET, "the method GET")?;
    expect(has_word(&request.headers, &CONNECTION, "upgrade"), "the header Connection: Upgrade")?;
    expect(has_word(&request.headers, &UPGRADE, "websocket"), "the header Upgrade: websocket")?;
    let version = request.headers.get(SEC_WEBSOCKET_VERSION);
    expect(version == Some(&VERSION), "the header Sec-WebSocket-Version: 13")?;
    let key = request.headers.get(SEC_WEBSOCKET_KEY);
    expect(key.is_some(), "the header Sec-WebSocket-Key")?;
    let accept = derive_accept_key(key.map(HeaderValue::as_bytes).unwrap_or_default());
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, UPGRADES)
        .header(UPGRADE, WEBSOCKET)
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .body(())
        .map_err(|e| Error::Handshake(e.to_string()))
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}
