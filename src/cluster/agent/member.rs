//! A node that is a member: what it holds, and what goes on as long as it runs.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{Backoff, Client, TlsTransport};
use pki::{Facts, Identity, JoinToken};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::files::{Files, Membership};
use super::renewal::{RETRY_FIRST, RETRY_LIMIT, due_after_issue};
use super::requests::Node;
use super::{Balancer, keeper, servers};
use crate::{Error, Shared};

/// What a node proves itself with.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) client: Identity,
    pub(crate) serving: Identity,
    pub(crate) life: i64,
}

/// The parts that the tasks of a member share.
pub(crate) struct Member {
    node: Mutex<Node>,
    pub(crate) files: Files,
    pub(crate) token: Option<JoinToken>,
    pub(crate) balancer: Arc<Balancer>,
    pub(crate) server_ca: String,
    transport: Arc<TlsTransport>,
    credentials: Mutex<Credentials>,
    /// The server does not take the certificate.
    pub(crate) refused: Notify,
    /// Changes when the node has other addresses: connections from the old ones are dead, though nothing says so.
    pub(crate) moved: watch::Sender<u64>,
}

/// A member of a cluster; [`Joined::run`] keeps it one.
pub struct Joined {
    pub node_name: String,
    pub server_ca_pem: String,
    /// What all nodes of the cluster have in common.
    pub shared: Shared,
    member: Arc<Member>,
}

impl Joined {
    pub(crate) fn new(
        node: Node,
        membership: Membership,
        files: Files,
        balancer: Arc<Balancer>,
        token: Option<JoinToken>,
    ) -> Result<Self, Error> {
        let tls = pki::client_config(&membership.server_ca, Some(&membership.client))?;
        let transport = Arc::new(TlsTransport::over(balancer.clone(), tls));
        let Membership { client, serving, server_ca, shared, life, .. } = membership;
        Ok(Self {
            node_name: node.name.clone(),
            server_ca_pem: server_ca.clone(),
            shared,
            member: Arc::new(Member {
                node: Mutex::new(node),
                files,
                token,
                balancer,
                server_ca,
                transport,
                credentials: Mutex::new(Credentials { client, serving, life }),
                refused: Notify::new(),
                moved: watch::Sender::new(0),
            }),
        })
    }

    /// A client under the node's identity, at whatever server answers.
    pub fn client(&self) -> Client {
        Client::new(self.member.transport.clone())
    }

    /// Keeps tunnels, certificates and the list of servers until told to stop. `addresses` are the node's own, the
    /// certificate for which follows them.
    pub async fn run(
        self,
        accept: tunnel::Accept,
        addresses: watch::Receiver<Vec<IpAddr>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let client = self.client();
        let member = self.member;
        tokio::select! {
            () = keeper::keep(member.clone(), accept) => {}
            () = renewals(member.clone(), addresses) => {}
            () = servers::follow(client, member.balancer.clone()) => {}
            () = cut_when_lost(member.clone()) => {}
            // An error means that whoever would stop this is gone, which is the end as well.
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }
}

/// Ends requests to a server whose tunnel failed, so that they are asked again elsewhere or later.
async fn cut_when_lost(member: Arc<Member>) {
    let mut lost = member.balancer.lost();
    while lost.changed().await.is_ok() {
        member.transport.cut();
    }
}

async fn renewals(member: Arc<Member>, mut addresses: watch::Receiver<Vec<IpAddr>>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut at = Instant::now() + member.due(spread());
    if member.takes(&addresses.borrow_and_update()) {
        at = Instant::now();
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = member.refused.notified() => {}
            () = changed(&mut addresses) => {
                if !member.takes(&addresses.borrow_and_update()) {
                    continue;
                }
            }
        }
        at = match member.renew().await {
            Ok(()) => {
                backoff.succeeded();
                Instant::now() + due_after_issue(member.credentials().life, spread())
            }
            Err(refusal) => {
                let pause = backoff.failed_with_jitter();
                tracing::warn!(%refusal, "certificates not renewed, trying again in {pause:?}");
                Instant::now() + pause
            }
        };
    }
}

/// Waits for other addresses; for ever when nobody tells of them any more.
async fn changed(addresses: &mut watch::Receiver<Vec<IpAddr>>) {
    if addresses.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A number between 0 and 1 that differs from node to node.
fn spread() -> f64 {
    (RandomState::new().build_hasher().finish() % 1024) as f64 / 1024.0
}

impl Member {
    pub(crate) fn node(&self) -> Node {
        lock(&self.node).clone()
    }

    pub(crate) fn credentials(&self) -> Credentials {
        lock(&self.credentials).clone()
    }

    /// Notes the node's addresses; whether its certificate does not name them all.
    fn takes(&self, ips: &[IpAddr]) -> bool {
        if ips.is_empty() {
            return false;
        }
        let before = std::mem::replace(&mut lock(&self.node).ips, ips.to_vec());
        if before.iter().any(|ip| !ips.contains(ip)) {
            tracing::info!(?ips, "this node has other addresses");
            self.moved.send_modify(|count| *count += 1);
            self.transport.cut();
        }
        let names = Facts::of_pem(&lock(&self.credentials).serving.certificate)
            .map(|facts| facts.names)
            .unwrap_or_default();
        !ips.iter().all(|ip| names.contains(&ip.to_string()))
    }

    /// New connections prove themselves by these from now on.
    pub(crate) fn replace(
        &self,
        client: Identity,
        serving: Identity,
        life: i64,
    ) -> Result<(), Error> {
        let tls = pki::client_config(&self.server_ca, Some(&client))?;
        *lock(&self.credentials) = Credentials { client, serving, life };
        self.transport.replace_tls(tls);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
