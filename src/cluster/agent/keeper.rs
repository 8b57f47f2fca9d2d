//! Keeps a tunnel to every server of the cluster, through all that ends one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::Backoff;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::Address;
use super::balancer::connect;
use super::exchange::{Failure, encrypt};
use super::member::Member;
use crate::wire;

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// A tunnel that lasted so long was a good one: its end is answered at once.
const LASTED: Duration = Duration::from_secs(10);

/// Holds the tunnels as long as it is polled.
pub(crate) async fn keep(member: Arc<Member>, accept: tunnel::Accept) {
    let mut targets = member.balancer.targets();
    let mut tasks = JoinSet::new();
    let mut held: BTreeMap<Address, AbortHandle> = BTreeMap::new();
    loop {
        let wanted = targets.borrow_and_update().clone();
        held.retain(|server, task| {
            let stays = wanted.contains(server);
            if !stays {
                task.abort();
            }
            stays
        });
        for server in wanted {
            held.entry(server.clone())
                .or_insert_with(|| tasks.spawn(hold(member.clone(), server, accept.clone())));
        }
        while tasks.try_join_next().is_some() {}
        if targets.changed().await.is_err() {
            return;
        }
    }
}

/// Holds the tunnel to one server.
async fn hold(member: Arc<Member>, server: Address, accept: tunnel::Accept) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut told = false;
    loop {
        match open(&member, &server, accept.clone()).await {
            Ok((session, server)) => {
                let since = Instant::now();
                member.balancer.tunnel(&server, true);
                tracing::info!(%server, "tunnel is up");
                told = false;
                let mut moved = member.moved.subscribe();
                let why = tokio::select! {
                    why = ended(session) => why.to_string(),
                    _ = moved.changed() => "this node has another address".to_owned(),
                };
                member.balancer.tunnel(&server, false);
                tracing::warn!(%server, why, "tunnel is down");
                if since.elapsed() > LASTED {
                    backoff.succeeded();
                }
            }
            Err(why) => {
                member.balancer.tunnel(&server, false);
                if matches!(why, Failure::OwnCertificate(_)) {
                    member.refused.notify_one();
                }
                // Once is enough: a server may be away for weeks.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%server, ?why, "no tunnel, trying on");
                }
            }
        }
        tokio::time::sleep(backoff.failed_with_jitter()).await;
    }
}

/// Waits for the end of a session; one that nobody waits for any more is closed.
async fn ended(session: tunnel::Session) -> tunnel::Error {
    struct Close(tunnel::Session);
    impl Drop for Close {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let guard = Close(session);
    guard.0.closed().await
}

/// Opens a tunnel to the server, or through the address this node joined by when the server does not answer at the
/// address the cluster names; answers which it was.
async fn open(
    member: &Member,
    server: &Address,
    accept: tunnel::Accept,
) -> Result<(tunnel::Session, Address), Failure> {
    let (dialed, server) = match connect(server).await {
        Ok(dialed) => (dialed, server.clone()),
        Err(error) => {
            let join = member.balancer.join_server();
            let failure = Failure::Unreachable(error.to_string());
            if join == *server {
                return Err(failure);
            }
            (connect(&join).await.map_err(|_| failure)?, join)
        }
    };
    let tls = pki::client_config(&member.server_ca, Some(&member.credentials().client))
        .map_err(|error| Failure::Unreachable(error.to_string()))?;
    let stream = encrypt(dialed, tls).await?;
    let name = member.node().name;
    let headers = [(wire::NODE_NAME, name.as_str())];
    let (host, limits) = (server.to_string(), tunnel::Limits::default());
    tunnel::connect(Box::new(stream), &host, wire::CONNECT, &headers, accept, limits)
        .await
        .map(|session| (session, server))
        .map_err(|error| refused(&error))
}

/// After the handshake the server's complaint about a certificate arrives in words only.
fn refused(error: &tunnel::Error) -> Failure {
    let text = error.to_string();
    let own =
        ["CertificateExpired", "CertificateUnknown", "UnknownCA", "BadCertificate", "DecryptError"];
    let unauthorized = matches!(error, tunnel::Error::Refused { status: 401 | 403, .. });
    match unauthorized || own.iter().any(|alert| text.contains(alert)) {
        true => Failure::OwnCertificate(text),
        false => Failure::Unreachable(text),
    }
}
