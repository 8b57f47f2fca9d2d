//! Renews the server's own certificates while it runs: in time, and when its addresses change. A new address is also
//! published to the cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use apiserver::ApiServer;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::server::{self, Settings};

/// How often the certificates are looked at: the wall clock may jump at any time, and only looking notices.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
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
            () = tokio::time::sleep(pause) => false,
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
