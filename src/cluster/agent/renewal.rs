//! When certificates are renewed, and by which proof.

use std::time::Duration;

use pki::Facts;

use super::files::Role;
use super::member::Member;
use super::requests::{Proof, Talk};
use crate::{Refusal, clock};

/// A node whose renewal fails asks again after this, doubled up to the limit.
pub(crate) const RETRY_FIRST: Duration = Duration::from_secs(5);
pub(crate) const RETRY_LIMIT: Duration = Duration::from_secs(600);

/// How long from now a certificate is to be renewed: when between a third and a quarter of its life is left, which
/// `spread` (0 to 1) chooses so that nodes do not come together. A clock that was never set knows nothing: at once.
pub(crate) fn due(now: i64, not_after: i64, life: i64, spread: f64) -> Duration {
    if !clock::plausible(now) {
        return Duration::ZERO;
    }
    let left = (not_after - now).clamp(0, life.max(0));
    let keep = life as f64 * (0.25 + spread.clamp(0.0, 1.0) * (1.0 / 3.0 - 0.25));
    Duration::from_secs_f64((left as f64 - keep).max(0.0))
}

/// As [`due`], for a certificate that was signed just now: needs no clock.
pub(crate) fn due_after_issue(life: i64, spread: f64) -> Duration {
    let kept = 0.25 + spread.clamp(0.0, 1.0) * (1.0 / 3.0 - 0.25);
    Duration::from_secs_f64((life.max(0) as f64 * (1.0 - kept)).max(1.0))
}

impl Member {
    /// Renews both certificates: by the certificate, by the key when the certificate has lapsed, by the token at last.
    pub(crate) async fn renew(&self) -> Result<(), Refusal> {
        let held = self.credentials();
        let by_certificate = self.renew_by(Proof::Certificate(&held.client)).await;
        // Not only after a refusal: a connection that ends in the middle may have been one whose words were lost.
        let Err(refusal) = by_certificate else { return Ok(()) };
        tracing::debug!(%refusal, "asking for a certificate by this node's key");
        let by_key = self.renew_by(Proof::Lapsed(&held.client)).await;
        match (&by_key, &self.token) {
            (Err(Refusal::Expired { .. } | Refusal::Forbidden { .. }), Some(token)) => {
                tracing::warn!("asking for a certificate by the token");
                self.renew_by(Proof::Token(token)).await
            }
            _ => by_key,
        }
    }

    async fn renew_by(&self, proof: Proof<'_>) -> Result<(), Refusal> {
        let node = self.node();
        let talk =
            Talk { balancer: &self.balancer, server_ca: &self.server_ca, node: &node, proof };
        let (client, life) = talk.certificate(Role::Client, &self.files.key(Role::Client)?).await?;
        // The other certificate is for another key, which only a valid certificate may ask for.
        let talk = Talk { proof: Proof::Certificate(&client), ..talk };
        let (serving, _) = talk.certificate(Role::Serving, &self.files.key(Role::Serving)?).await?;
        self.files.save_certificate(Role::Client, &client)?;
        self.files.save_certificate(Role::Serving, &serving)?;
        self.replace(client, serving, life)?;
        tracing::info!(seconds = life, "certificates of this node renewed");
        Ok(())
    }

    /// When the certificates at hand are to be renewed.
    pub(crate) fn due(&self, spread: f64) -> Duration {
        let held = self.credentials();
        let now = clock::now();
        let when = |pem: &str| {
            Facts::of_pem(pem).map_or(Duration::ZERO, |f| due(now, f.not_after, held.life, spread))
        };
        when(&held.client.certificate).min(when(&held.serving.certificate))
    }
}
