//! Renews the server's own certificates while it runs: in time, and when its addresses change. A new address is also
//! published to the cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use apiserver::ApiServer;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::server::{self, Settings};

/// How often the certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// How often the wall clock is looked at, and by how much it must have run away from the monotonic one to have been set: a
/// board without a clock of its own may learn long after its start that its certificates have lapsed.
const CLOCK_EVERY: Duration = Duration::from_secs(30);
const CLOCK_SET: Duration = Duration::from_secs(60);
/// The shortest time between two looks, for certificates that live very short.
const LOOK_SOONEST: Duration = Duration::from_secs(1);

/// Runs until told to stop. `addresses` are those of the server's node, if it has one.
pub(crate) async fn run(
    settings: Arc<Settings>,
    api: Arc<ApiServer>,
    shown: Arc<pki::ServingCertificate>,
    addresses: Option<watch::Receiver<Vec<IpAddr>>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut addresses = addresses.unwrap_or_else(|| watch::channel(vec![settings.node_ip]).1);
    let (mut current, mut written) = (settings.node_ip, String::new());
    // Certificates have a quarter of their life left when they are made again; a look every eighth is in time.
    let eighth = u64::try_from(settings.flags.certificate_seconds / 8).unwrap_or(0);
    let pause = Duration::from_secs(eighth).clamp(LOOK_SOONEST, LOOK_EVERY);
    loop {
        let moved = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = due(pause) => false,
            () = changed(&mut addresses) => true,
        };
        if moved {
            current = addresses.borrow_and_update().first().copied().unwrap_or(current);
            info!(address = %current, "address of this server");
            if let Err(error) = api.advertise(settings.advertise(current)).await {
                warn!(%error, "the server's new address was not published");
            }
        }
        match renew(&settings, &shown, current, &written) {
            Ok(administrator) => written = administrator,
            Err(error) => warn!("the server's certificates were not renewed: {error:#}"),
        }
    }
}

/// Waits until `pause` has passed or the wall clock was set.
async fn due(pause: Duration) {
    let (begin, wall) = (Instant::now(), SystemTime::now());
    loop {
        let left = pause.saturating_sub(begin.elapsed());
        if left.is_zero() || was_set(wall, begin.elapsed(), SystemTime::now()) {
            return;
        }
        tokio::time::sleep(left.min(CLOCK_EVERY)).await;
    }
}

/// Whether a clock that showed `before` was set, now that it shows `now` after `elapsed`.
fn was_set(before: SystemTime, elapsed: Duration, now: SystemTime) -> bool {
    let expected = before + elapsed;
    let off = now.duration_since(expected).unwrap_or_else(|error| error.duration());
    off >= CLOCK_SET
}

/// Waits for other addresses; for ever when nobody tells of them.
async fn changed(addresses: &mut watch::Receiver<Vec<IpAddr>>) {
    if addresses.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Makes what is due, shows it, and writes the kubeconfig unless it holds this administrator's certificate already;
/// answers that certificate.
fn renew(
    settings: &Settings,
    shown: &pki::ServingCertificate,
    address: IpAddr,
    written: &str,
) -> Result<String> {
    let made = server::credentials(settings, address)?;
    shown.replace(&made.server)?;
    if made.admin.certificate != written {
        server::write_kubeconfig(settings, &made)?;
    }
    Ok(made.admin.certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (before, elapsed, now, expected) in [
            (1000, 30, 1030, false),
            (1000, 30, 1031, false),
            (1000, 30, 1089, false),
            (1000, 30, 1090, true),
            (1000, 0, 90_000_000, true),
            (1000, 30, 500, true),
        ] {
            assert_eq!(
                was_set(at(before), Duration::from_secs(elapsed), at(now)),
                expected,
                "{now}"
            );
        }
    }
}
