//! The server itself: its parts, its bounds, its tasks, its end.

use crate::answer::Result;
use crate::expiry::Expiry;
use crate::follow::Follower;
use crate::nodes::Pods;
use crate::openapi::OpenApi;
use crate::rbac::Policy;
use crate::strategies::ServiceNetwork;
use crate::{Body, Config, Error, answer, bootstrap, nodes, rbac};
use api::{Resource, Status, Strategy};
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

const KIB: usize = 1024;
/// Smaller answers are not counted.
const LARGE_ANSWER_KIB: usize = 64;

/// Bytes that count until the connection has written them.
struct Held {
    bytes: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An API server over one store. Dropping the last reference ends its tasks.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) network: ServiceNetwork,
    pub(crate) openapi: OpenApi,
    pub(crate) policy: Follower<Policy>,
    pub(crate) pods: Follower<Pods>,
    /// Held while addresses or ports of a Service are chosen.
    pub(crate) allocations: Arc<tokio::sync::Mutex<()>>,
    pub(crate) requests: Semaphore,
    /// In KiB.
    answers: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    events: Arc<Expiry>,
    tasks: Mutex<JoinSet<()>>,
    closing: watch::Sender<bool>,
    advertised: Mutex<SocketAddr>,
}

impl ApiServer {
    /// Makes a server and what every cluster has: the system namespaces, the Service `kubernetes`, and
    /// the roles.
    pub async fn new(config: Config) -> std::result::Result<Arc<Self>, Error> {
        let network = ServiceNetwork::parse(&config.service_cidr)
            .ok_or_else(|| Error::ServiceNetwork(config.service_cidr.clone()))?;
        let server = Arc::new(Self {
            network,
            openapi: OpenApi::new(),
            policy: Follower::new(config.store.clone(), rbac::RANGE.to_owned()),
            pods: Follower::new(config.store.clone(), nodes::RANGE.to_owned()),
            allocations: Arc::default(),
            requests: Semaphore::new(config.limits.requests),
            answers: Arc::new(Semaphore::new(config.limits.answer_bytes / KIB)),
            watches: Arc::new(Semaphore::new(config.limits.watches)),
            streams: Arc::new(Semaphore::new(config.limits.streams)),
            events: Arc::default(),
            tasks: Mutex::default(),
            closing: watch::Sender::new(false),
            advertised: Mutex::new(config.advertise),
            config,
        });
        server.spawn(server.events.clone().run(server.config.store.clone()));
        bootstrap::run(&server).await?;
        rbac::reconcile(&server).await?;
        server.spawn(rbac::aggregate(Arc::downgrade(&server), server.config.store.clone()));
        Ok(server)
    }

    /// Publishes another address as that of this server: the endpoint of the Service `kubernetes`.
    pub async fn advertise(
        self: &Arc<Self>,
        address: SocketAddr,
    ) -> std::result::Result<(), Error> {
        *self.advertised.lock().unwrap_or_else(PoisonError::into_inner) = address;
        bootstrap::ensure(self).await
    }

    /// Where clients outside the process reach this server.
    pub(crate) fn advertised(&self) -> SocketAddr {
        *self.advertised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends watches and streams, so that connections can close. [`ApiServer::serve`] does it on shutdown.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Runs a task that ends with the server at the latest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(crate) fn watch_permit(&self) -> Result<OwnedSemaphorePermit> {
        permit(&self.watches, "watches", self.config.limits.watches)
    }

    pub(crate) fn stream_permit(&self) -> Result<OwnedSemaphorePermit> {
        permit(&self.streams, "streams", self.config.limits.streams)
    }

    /// Counts a large answer until the client has taken it, and refuses it when too much waits already: a slow reader
    /// of large lists would hold their memory.
    pub(crate) fn hold(&self, response: Response<Body>) -> Response<Body> {
        let size = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        let kib = usize::try_from(size).unwrap_or(usize::MAX) / KIB;
        if kib < LARGE_ANSWER_KIB {
            return response;
        }
        // One answer alone always goes out.
        let wanted =
            u32::try_from(kib.min(self.config.limits.answer_bytes / KIB)).unwrap_or(u32::MAX);
        match self.answers.clone().try_acquire_many_owned(wanted) {
            Ok(permit) => {
                let permit = Arc::new(permit);
                let hold = move |bytes| Bytes::from_owner(Held { bytes, _permit: permit.clone() });
                response
                    .map(|body| body.map_frame(move |frame| frame.map_data(&hold)).boxed_unsync())
            }
            Err(_) => answer::status_response(&Status::too_many_requests(
                "too many large answers wait for their readers, please try again later",
                1,
            )),
        }
    }

    pub(crate) fn watches_free(&self) -> usize {
        self.watches.available_permits()
    }

    /// What follows a write: events begin to age.
    pub(crate) fn after_write(&self, res: &Resource, entry: &store::Entry) {
        if res.strategy == Strategy::Event {
            self.events.written(&entry.key, tokio::time::Instant::now());
        }
    }
}

fn permit(semaphore: &Arc<Semaphore>, what: &str, limit: usize) -> Result<OwnedSemaphorePermit> {
    semaphore.clone().try_acquire_owned().map_err(|_| {
        Status::too_many_requests(
            format!("too many {what}, the limit is {limit}; please try again later"),
            1,
        )
    })
}

/// Waits until the server closes.
pub(crate) async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is the end as well.
    let _ = closing.wait_for(|closing| *closing).await;
}
