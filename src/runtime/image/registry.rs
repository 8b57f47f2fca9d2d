//! The distribution API of one image's registry and its mirrors: manifests, blobs, tokens, resumed downloads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::auth::{Auth, Challenge, encode_query, secret_value};
use super::digest::Digest;
use super::error::Error;
use super::http::{Answer, Call, Http, Origin, request_error};
use super::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, DOCUMENT_BYTES_MAX, Descriptor, OCI_INDEX, OCI_MANIFEST,
};
use super::reference::Reference;
use super::registries::{Endpoint, Registries};
use super::tls::TlsConfigs;

/// Broken downloads in a row, without a single new byte, before a layer is given up.
const FRUITLESS_TRIES_MAX: u32 = 5;
const RETRY_DELAY: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
const TOKEN_BYTES_MAX: u64 = 1024 * 1024;
/// Part of an error answer that is read for its message.
const ERROR_BYTES_MAX: u64 = 64 * 1024;
const CLIENT_ID: &str = "copepod";

/// The places one image can come from.
pub(super) struct Registry {
    http: Http,
    name: String,
    repository: String,
    object: String,
    endpoints: Vec<Endpoint>,
    registries: Arc<Registries>,
    auth: Option<Auth>,
    /// The `Authorization` that worked last, per endpoint.
    granted: Mutex<Vec<Option<HeaderValue>>>,
}

/// Why a download ended early.
enum Broken {
    /// Another try may go on where this one ended.
    Retry(Error),
    Final(Error),
}

impl Registry {
    pub(super) fn new(
        reference: &Reference,
        registries: Arc<Registries>,
        auth: Option<Auth>,
    ) -> Self {
        let endpoints = registries.endpoints(reference);
        let granted = Mutex::new(vec![None; endpoints.len()]);
        Self {
            http: Http::new(TlsConfigs::new(registries.clone())),
            name: reference.to_string(),
            repository: reference.repository().to_owned(),
            object: reference.object().to_owned(),
            endpoints,
            registries,
            auth,
            granted,
        }
    }

    /// The document the reference names, its digest checked if the reference or the registry states one.
    pub(super) async fn resolve(&self) -> Result<(Bytes, Digest), Error> {
        let expected = Digest::parse(&self.object).ok();
        self.manifest(&self.object, expected).await
    }

    /// A manifest out of an index.
    pub(super) async fn manifest_by(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let (bytes, _) =
            self.manifest(descriptor.digest.as_str(), Some(descriptor.digest.clone())).await?;
        Ok(bytes)
    }

    async fn manifest(
        &self,
        object: &str,
        expected: Option<Digest>,
    ) -> Result<(Bytes, Digest), Error> {
        let accept = HeaderValue::try_from(
            [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST, "*/*"].join(", "),
        )
        .map_err(|error| Error::invalid("accept header", error))?;
        let headers = [(header::ACCEPT, accept)];
        let mut last = None;
        for at in 0..self.endpoints.len() {
            match self.manifest_at(at, object, &headers, expected.clone()).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    tracing::debug!(image = %self.name, endpoint = %self.endpoints[at].origin.authority(), %error, "no manifest from this endpoint");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::NotFound { what: self.name.clone() }))
    }

    async fn manifest_at(
        &self,
        at: usize,
        object: &str,
        headers: &[(HeaderName, HeaderValue)],
        expected: Option<Digest>,
    ) -> Result<(Bytes, Digest), Error> {
        let answer = self.get(at, &format!("/manifests/{object}"), headers).await?;
        let stated = answer
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| Digest::parse(text).ok());
        let what = format!("manifest {object}");
        let bytes = answer.read_all(DOCUMENT_BYTES_MAX).await?;
        let actual = Digest::of(&bytes);
        match expected.or(stated) {
            Some(expected) if expected != actual => Err(Error::Mismatch {
                what,
                expected: expected.to_string(),
                actual: actual.to_string(),
            }),
            _ => Ok((bytes, actual)),
        }
    }

    /// A small blob as a whole, checked against its descriptor.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
        let collect = async {
            let mut bytes: Vec<u8> = Vec::new();
            while let Some(chunk) = receiver.recv().await {
                bytes.extend_from_slice(&chunk);
            }
            bytes
        };
        let (downloaded, bytes) = tokio::join!(self.download(descriptor, sender), collect);
        downloaded?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            let (expected, actual) = (descriptor.digest.to_string(), actual.to_string());
            return Err(Error::Mismatch { what: "configuration".to_owned(), expected, actual });
        }
        Ok(bytes)
    }

    /// Sends a blob's bytes into `sink`, exactly as many as its descriptor says. Broken connections are resumed where
    /// they broke; the digest is the reader's to check.
    pub(super) async fn download(
        &self,
        descriptor: &Descriptor,
        sink: mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let mut offset = 0;
        let mut fruitless = 0;
        let mut at = 0;
        loop {
            let before = offset;
            let error = match self.download_from(at, descriptor, &mut offset, &sink).await {
                Ok(()) => return Ok(()),
                Err(Broken::Retry(error)) => error,
                Err(Broken::Final(error)) if at + 1 < self.endpoints.len() && offset == 0 => {
                    tracing::debug!(image = %self.name, %error, "trying the next endpoint");
                    at += 1;
                    continue;
                }
                Err(Broken::Final(error)) => return Err(error),
            };
            fruitless = if offset > before { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS_TRIES_MAX {
                return Err(error);
            }
            // A place that brings nothing twice in a row is left for the next.
            if fruitless >= 2 {
                at = (at + 1) % self.endpoints.len();
            }
            tracing::info!(image = %self.name, blob = %descriptor.digest, offset, %error, "download broke off, resuming");
            tokio::time::sleep((RETRY_DELAY * 2_u32.pow(fruitless)).min(RETRY_DELAY_MAX)).await;
        }
    }

    async fn download_from(
        &self,
        at: usize,
        descriptor: &Descriptor,
        offset: &mut u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), Broken> {
        let range = HeaderValue::try_from(format!("bytes={offset}-"))
            .map_err(|error| Broken::Final(Error::invalid("range", error)))?;
        let headers = [(header::RANGE, range)];
        let wanted = if *offset > 0 { &headers[..] } else { &[] };
        let mut answer = match self.get(at, &format!("/blobs/{}", descriptor.digest), wanted).await
        {
            Ok(answer) => answer,
            Err(error) if error.is_unavailable() => return Err(Broken::Retry(error)),
            Err(error) => return Err(Broken::Final(error)),
        };
        // A server that knows no ranges starts over; what is already there is skipped.
        let mut skip = if answer.status() == 206 { 0 } else { *offset };
        if answer.status() == 206 && !starts_at(&answer, *offset) {
            return Err(Broken::Final(Error::invalid(
                format!("the answer of {}", answer.url),
                "it is another range than asked for",
            )));
        }
        let broken =
            |url: &str, reason: String| Broken::Retry(request_error(&Method::GET, url, reason));
        while let Some(mut chunk) =
            answer.chunk().await.map_err(|reason| broken(&answer.url.clone(), reason))?
        {
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            let chunk = chunk.split_off(skipped);
            if chunk.is_empty() {
                continue;
            }
            if *offset + chunk.len() as u64 > descriptor.size {
                return Err(Broken::Final(Error::TooLarge {
                    what: format!("blob {}", descriptor.digest),
                    limit: descriptor.size,
                }));
            }
            *offset += chunk.len() as u64;
            if sink.send(chunk).await.is_err() {
                return Err(Broken::Final(Error::Worker {
                    reason: "nobody reads the download any more".to_owned(),
                }));
            }
        }
        if *offset < descriptor.size {
            return Err(broken(
                &answer.url,
                format!("unexpected EOF after {offset} of {} bytes", descriptor.size),
            ));
        }
        Ok(())
    }

    /// Asks one endpoint, authorizing as it demands.
    pub(super) async fn get(
        &self,
        at: usize,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, Error> {
        let granted = self.granted()[at].clone();
        let answer = self.http.send(self.call(at, path, headers, granted)).await?;
        if answer.status() != 401 {
            return self.check(answer).await;
        }
        let challenges: Vec<Challenge> = answer
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(Challenge::parse_all)
            .collect();
        let Some(authorization) = self.authorize(at, &challenges).await? else {
            return self.check(answer).await;
        };
        drop(answer);
        self.granted()[at] = Some(authorization.clone());
        let answer = self.http.send(self.call(at, path, headers, Some(authorization))).await?;
        self.check(answer).await
    }

    fn granted(&self) -> std::sync::MutexGuard<'_, Vec<Option<HeaderValue>>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<'a>(
        &self,
        at: usize,
        path: &str,
        headers: &'a [(HeaderName, HeaderValue)],
        authorization: Option<HeaderValue>,
    ) -> Call<'a> {
        let endpoint = &self.endpoints[at];
        let mut path = format!("{}/{}{path}", endpoint.root, self.repository);
        if let Some(registry) = &endpoint.mirror_of {
            path = format!("{path}?ns={}", encode_query(registry));
        }
        Call {
            method: Method::GET,
            origin: endpoint.origin.clone(),
            path,
            headers,
            authorization,
            body: Bytes::new(),
        }
    }

    /// Turns what is no success into an error.
    async fn check(&self, answer: Answer) -> Result<Answer, Error> {
        let (status, url) = (answer.status(), answer.url.clone());
        match status {
            200 | 206 => Ok(answer),
            404 => Err(Error::NotFound { what: self.name.clone() }),
            401 => Err(Error::Denied {
                reason: server_message(answer).await.unwrap_or_else(|| {
                    "authorization failed: no basic auth credentials".to_owned()
                }),
            }),
            _ => {
                let reason = answer.parts.status.canonical_reason().unwrap_or_default();
                let detail = format!(
                    " {reason}{}",
                    server_message(answer)
                        .await
                        .map(|text| format!(": {text}"))
                        .unwrap_or_default()
                );
                Err(Error::Status { method: "GET", url, status, detail })
            }
        }
    }

    /// Credentials for one endpoint: those given with the pull are for the image's own registry only.
    fn credentials(&self, endpoint: &Endpoint) -> Option<Auth> {
        let given = self.auth.clone().filter(|_| endpoint.mirror_of.is_none());
        given.or_else(|| {
            self.registries.config_for(&endpoint.origin).and_then(|config| config.auth.clone())
        })
    }

    /// Answers the challenges with an `Authorization` value, if anything can be answered.
    async fn authorize(
        &self,
        at: usize,
        challenges: &[Challenge],
    ) -> Result<Option<HeaderValue>, Error> {
        let endpoint = &self.endpoints[at];
        let auth = self.credentials(endpoint);
        if let Some(Auth::RegistryToken(token)) = &auth {
            return Ok(secret_value(&format!("Bearer {token}")));
        }
        let bearer =
            challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match bearer {
            Some(Challenge::Bearer { realm, service, scope, .. }) => {
                let default = format!("repository:{}:pull", self.repository);
                let scope = scope.as_deref().unwrap_or(&default);
                self.token(&endpoint.origin, realm, service.as_deref(), scope, auth.as_ref())
                    .await
                    .map(Some)
            }
            _ if challenges.contains(&Challenge::Basic) => Ok(auth.as_ref().and_then(Auth::basic)),
            _ => Ok(None),
        }
    }

    async fn token(
        &self,
        registry: &Origin,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        auth: Option<&Auth>,
    ) -> Result<HeaderValue, Error> {
        let fail = |reason: String| Error::Authorize { reason };
        let (origin, mut path) =
            Origin::parse_url(realm).map_err(|reason| fail(format!("token realm: {reason}")))?;
        // A registry reached over TLS cannot send the password elsewhere in clear.
        if !origin.https && registry.https {
            return Err(fail(format!("token realm {realm:?} is not https")));
        }
        let query = service
            .map(|service| format!("service={}&", encode_query(service)))
            .unwrap_or_default();
        let query = format!("{query}scope={}", encode_query(scope));
        let form =
            [(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))];
        let call = match auth {
            Some(Auth::IdentityToken(token)) => {
                let body = format!(
                    "grant_type=refresh_token&client_id={CLIENT_ID}&refresh_token={}&{query}",
                    encode_query(token)
                );
                Call {
                    method: Method::POST,
                    origin,
                    path,
                    headers: &form,
                    authorization: None,
                    body: body.into(),
                }
            }
            _ => {
                path = format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' });
                Call {
                    method: Method::GET,
                    origin,
                    path,
                    headers: &[],
                    authorization: auth.and_then(Auth::basic),
                    body: Bytes::new(),
                }
            }
        };
        let answer = self
            .http
            .send(call)
            .await
            .map_err(|error| fail(format!("failed to fetch token: {error}")))?;
        read_token(answer).await
    }
}

/// The `Authorization` value that a token service's answer grants.
async fn read_token(answer: Answer) -> Result<HeaderValue, Error> {
    let fail = |reason: String| Error::Authorize { reason };
    let (status, url) = (answer.status(), answer.url.clone());
    if matches!(status, 401 | 403) {
        let message =
            server_message(answer).await.unwrap_or_else(|| "authorization failed".to_owned());
        return Err(Error::Denied { reason: message });
    }
    if status != 200 {
        return Err(fail(format!("failed to fetch token: unexpected status from {url}: {status}")));
    }
    let body = answer.read_all(TOKEN_BYTES_MAX).await?;
    let granted: Granted =
        serde_json::from_slice(&body).map_err(|_| fail(format!("{url} answered with no token")))?;
    let token = granted
        .token
        .or(granted.access_token)
        .ok_or_else(|| fail(format!("{url} answered with no token")))?;
    secret_value(&format!("Bearer {token}"))
        .ok_or_else(|| fail(format!("{url} answered with a broken token")))
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Failures {
    errors: Vec<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The message of a registry's error document.
async fn server_message(answer: Answer) -> Option<String> {
    let body = answer.read_all(ERROR_BYTES_MAX).await.ok()?;
    let failures: Failures = serde_json::from_slice(&body).ok()?;
    let first = failures.errors.into_iter().next()?;
    Some(format!("server message: {}: {}", first.code.to_ascii_lowercase(), first.message))
}

/// Whether a partial answer begins where it was asked to.
fn starts_at(answer: &Answer, offset: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split('-').next())
        .and_then(|start| start.parse().ok())
        == Some(offset)
}
