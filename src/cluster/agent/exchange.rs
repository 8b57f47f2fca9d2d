//! One request over TLS and its answer, and what its failure means.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::Dialed;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wire;

/// How long a handshake, and then an answer, may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to tell why it failed.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A question to the supervisor.
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Unreachable(String),
    /// The server's certificate is not of the trusted authority, or not for this name.
    Untrusted(String),
    /// The server's certificate does not hold at this machine's time.
    Clock(String),
    /// The server does not take this node's certificate.
    OwnCertificate(String),
    /// Something else answers there.
    NotAServer(String),
}

/// Encrypts a connection; only HTTP/1.1 is offered, which upgrades need.
pub(crate) async fn encrypt(
    dialed: Dialed,
    mut tls: ClientConfig,
) -> Result<TlsStream<tokio::net::TcpStream>, Failure> {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(dialed.host.clone())
        .map_err(|error| Failure::Unreachable(error.to_string()))?;
    let handshake = TlsConnector::from(Arc::new(tls)).connect(name, dialed.stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failure_of(&error)),
        Err(_) => Err(Failure::Unreachable(format!(
            "the TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}"
        ))),
    }
}

/// Sends the question on a connection of its own and reads the answer to its end.
pub(crate) async fn ask(
    dialed: Dialed,
    tls: ClientConfig,
    question: Question,
) -> Result<Reply, Failure> {
    let host = super::Address { host: dialed.host.clone(), port: dialed.port }.to_string();
    let stream = encrypt(dialed, tls).await?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange(stream, &host, question));
    answer
        .await
        .map_err(|_| Failure::Unreachable(format!("no answer came within {ANSWER_TIMEOUT:?}")))?
}

async fn exchange(
    stream: TlsStream<tokio::net::TcpStream>,
    host: &str,
    question: Question,
) -> Result<Reply, Failure> {
    let failed = |error: hyper::Error| failure_of(&error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut request = Request::new(Full::new(Bytes::from(question.body)));
    *request.method_mut() = question.method;
    *request.uri_mut() = http::Uri::from_static(question.path);
    *request.headers_mut() = question.headers;
    if let Ok(host) = HeaderValue::try_from(host) {
        request.headers_mut().insert(header::HOST, host);
    }
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let (parts, body) = response.into_parts();
        let limited = Limited::new(body, wire::ANSWER_BYTES_MAX);
        let collected = limited.collect().await;
        let body = collected.map_err(|error| failure_of(&*error))?.to_bytes();
        Ok(Reply { code: parts.status.as_u16(), headers: parts.headers, body })
    };
    tokio::pin!(answer, connection);
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        ended = &mut connection => match ended {
            Ok(()) => return answer.await,
            Err(error) => return Err(failed(error)),
        },
    };
    // Why a connection ended, the connection knows better than the request on it.
    if answered.is_err()
        && let Ok(Err(error)) = tokio::time::timeout(LAST_WORDS, connection).await
    {
        return Err(failed(error));
    }
    answered
}

/// What an error of TLS or HTTP means for a node.
pub(crate) fn failure_of(error: &(dyn StdError + 'static)) -> Failure {
    let mut text = error.to_string();
    if let Some(source) = error.source() {
        text = format!("{text}: {source}");
    }
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Failure::Clock(why.to_string()),
            _ => Failure::Untrusted(why.to_string()),
        },
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => Failure::OwnCertificate(format!("{alert:?}")),
            other => Failure::Unreachable(format!("TLS alert {other:?}")),
        },
        Some(rustls::Error::InvalidMessage(why)) => {
            Failure::NotAServer(format!("it does not speak TLS: {why:?}"))
        }
        Some(other) => Failure::Unreachable(other.to_string()),
        None => match error.downcast_ref::<hyper::Error>() {
            Some(hyper) if hyper.is_parse() => Failure::NotAServer(text),
            _ => Failure::Unreachable(text),
        },
    }
}

/// The error of TLS somewhere below an error.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        if let Some(found) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}
