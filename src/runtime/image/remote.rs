//! Reading ranges of something large that lies behind a URL or in a registry, over connections that break.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::auth::Auth;
use super::error::Error;
use super::http::{Answer, Call, Http, Origin, request_error, without_query};
use super::manifest::{Descriptor, Document};
use super::reference::Reference;
use super::registries::Registries;
use super::registry::Registry;
use super::tls::TlsConfigs;

/// Broken requests in a row, without a single new byte, before a read is given up: about five minutes of waiting.
const FRUITLESS_TRIES_MAX: u32 = 16;
const RETRY_DELAY: Duration = Duration::from_millis(200);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// A file behind a URL, or the one layer of an artifact in a registry. Every read resumes where its connection broke;
/// there is no limit for the whole of it, only for silence.
pub struct Remote {
    place: Place,
    length: Mutex<Option<u64>>,
    /// The last answer was the range asked for.
    ranges: AtomicBool,
}

enum Place {
    Url { http: Http, origin: Origin, path: String },
    Layer { registry: Box<Registry>, descriptor: Descriptor },
}

/// Why a request brought less than it should.
enum Broken {
    Retry(Error),
    Final(Error),
}

impl Remote {
    /// A file behind an http or https URL; certificates of servers are judged as those of registries.
    pub fn url(url: &str, registries: Arc<Registries>) -> Result<Remote, Error> {
        let (origin, path) =
            Origin::parse_url(url).map_err(|reason| Error::invalid("the URL", reason))?;
        let http = Http::new(TlsConfigs::new(registries));
        Ok(Remote::new(Place::Url { http, origin, path }, None))
    }

    /// The one layer of an artifact, as `oras push` makes them.
    pub async fn artifact(
        reference: &Reference,
        registries: Arc<Registries>,
        auth: Option<Auth>,
    ) -> Result<Remote, Error> {
        let registry = Registry::new(reference, registries, auth);
        let (bytes, digest) = registry.resolve().await?;
        let what = format!("manifest {digest}");
        let Document::Manifest(manifest) = Document::parse(&what, &bytes)? else {
            return Err(Error::invalid(what, "it is an index; name one artifact"));
        };
        let Ok([descriptor]) = <[Descriptor; 1]>::try_from(manifest.layers) else {
            return Err(Error::invalid(what, "an artifact with one layer was expected"));
        };
        let length = descriptor.size;
        let registry = Box::new(registry);
        Ok(Remote::new(Place::Layer { registry, descriptor }, Some(length)))
    }

    fn new(place: Place, length: Option<u64>) -> Remote {
        Remote { place, length: Mutex::new(length), ranges: AtomicBool::new(false) }
    }

    /// Bytes of all, where the server has told.
    pub fn length(&self) -> Option<u64> {
        *self.length.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server sends ranges, as far as the last answer shows.
    pub fn has_ranges(&self) -> bool {
        self.ranges.load(Ordering::Relaxed)
    }

    /// Sends the bytes of the range into `sink`; fewer when the file ends before. Ends early without an error when nobody
    /// reads any more.
    pub async fn read(&self, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Result<(), Error> {
        let (mut offset, mut fruitless) = (range.start, 0);
        while offset < range.end {
            let before = offset;
            let error = match self.read_once(&mut offset, range.end, &sink).await {
                Ok(()) => return Ok(()),
                Err(Broken::Retry(error)) => error,
                Err(Broken::Final(error)) => return Err(error),
            };
            fruitless = if offset > before { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS_TRIES_MAX {
                return Err(error);
            }
            tracing::info!(offset, %error, "download broke off, resuming");
            let delay = RETRY_DELAY * 2_u32.pow(fruitless.min(10));
            tokio::select! {
                () = tokio::time::sleep(delay.min(RETRY_DELAY_MAX)) => {}
                () = sink.closed() => return Ok(()),
            }
        }
        Ok(())
    }

    async fn read_once(
        &self,
        offset: &mut u64,
        end: u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), Broken> {
        let mut answer = self.ask(*offset, end).await?;
        let partial = answer.status() == 206;
        self.ranges.store(partial, Ordering::Relaxed);
        self.learn_length(&answer, partial);
        if partial && start_of(&answer) != Some(*offset) {
            let what = format!("the answer of {}", answer.url);
            return Err(Broken::Final(Error::invalid(what, "it is another range than asked for")));
        }
        // A server that knows no ranges starts over; what is already there is skipped.
        let mut skip = if partial { 0 } else { *offset };
        let broken = |url: &str, reason| Broken::Retry(request_error(&Method::GET, url, reason));
        loop {
            let chunk = answer.chunk().await;
            let Some(mut chunk) = chunk.map_err(|reason| broken(&answer.url, reason))? else {
                break;
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            chunk = chunk.split_off(skipped);
            chunk.truncate(usize::try_from(end - *offset).unwrap_or(usize::MAX));
            *offset += chunk.len() as u64;
            if !chunk.is_empty() && sink.send(chunk).await.is_err() {
                return Ok(());
            }
            if *offset == end {
                // What a server without ranges still sends is not waited for.
                return Ok(());
            }
        }
        match self.length() {
            Some(length) if *offset < length.min(end) => {
                let reason = format!("unexpected EOF after {offset} of {length} bytes");
                Err(broken(&answer.url, reason))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&self, offset: u64, end: u64) -> Result<Answer, Broken> {
        let range = HeaderValue::try_from(format!("bytes={offset}-{}", end.saturating_sub(1)))
            .map_err(|error| Broken::Final(Error::invalid("range", error)))?;
        let headers = [(header::RANGE, range)];
        let answer = match &self.place {
            Place::Layer { registry, descriptor } => {
                registry.get(0, &format!("/blobs/{}", descriptor.digest), &headers).await
            }
            Place::Url { http, origin, path } => get(http, origin, path, &headers).await,
        };
        answer.map_err(|error| match error.is_unavailable() {
            true => Broken::Retry(error),
            false => Broken::Final(error),
        })
    }

    fn learn_length(&self, answer: &Answer, partial: bool) {
        let value = |name: HeaderName| answer.headers().get(name)?.to_str().ok();
        let found = match partial {
            true => value(header::CONTENT_RANGE).and_then(|range| range.rsplit('/').next()),
            false => value(header::CONTENT_LENGTH),
        };
        if let Some(length) = found.and_then(|length| length.parse().ok()) {
            *self.length.lock().unwrap_or_else(PoisonError::into_inner) = Some(length);
        }
    }
}

async fn get(
    http: &Http,
    origin: &Origin,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<Answer, Error> {
    let call = Call {
        method: Method::GET,
        origin: origin.clone(),
        path: path.to_owned(),
        headers,
        authorization: None,
        body: Bytes::new(),
    };
    let answer = http.send(call).await?;
    match answer.status() {
        200 | 206 => Ok(answer),
        404 => Err(Error::NotFound { what: origin.url(without_query(path)) }),
        status => {
            let detail = answer.parts.status.canonical_reason().unwrap_or_default();
            let (url, detail) = (answer.url.clone(), format!(" {detail}"));
            Err(Error::Status { method: "GET", url, status, detail })
        }
    }
}

/// Where a partial answer begins.
fn start_of(answer: &Answer) -> Option<u64> {
    let range = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
