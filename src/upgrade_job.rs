//! One update on its way from its source into the slot.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ota::{BootFacts, Loader, Places, Progress, Update};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::upgrade_socket::{Request, Told};
use crate::upgrade_status::{Phase, Status};
use crate::upgrades::Settings;
use crate::{upgrade_health, upgrade_source};

/// Progress is told in steps of this many percent: each is a write of the Node object.
const PERCENT_STEP: u8 = 5;

/// One update on its way into the slot.
pub(crate) struct Job {
    pub(crate) settings: Arc<Settings>,
    pub(crate) places: Places,
    pub(crate) facts: BootFacts,
    pub(crate) request: Request,
    pub(crate) told: watch::Sender<Told>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Job {
    pub(crate) async fn run(self) -> Result<Update, ota::Error> {
        let opened =
            upgrade_source::open(&self.request.source, self.settings.registries.clone()).await;
        let source = opened
            .map_err(|error| ota::Error::Source(std::io::Error::other(format!("{error:#}"))))?;
        let work = tokio::task::spawn_blocking(move || self.install(&*source));
        work.await.unwrap_or_else(|error| Err(ota::Error::Source(std::io::Error::other(error))))
    }

    fn install(&self, source: &dyn ota::Source) -> Result<Update, ota::Error> {
        let request = ota::Request {
            places: &self.places,
            facts: &self.facts,
            source,
            name: self.request.source.clone(),
            allow_downgrade: self.request.allow_downgrade,
        };
        let loader = <dyn Loader>::of(&self.places.boot);
        let (_, update) = ota::check(&request, &*loader)?;
        let Settings { client, node_name, is_server, .. } = &*self.settings;
        let handle = Handle::current();
        let mut before = || handle.block_on(upgrade_health::before(client, node_name, *is_server));
        let mut last = None;
        let mut tell = |progress: &Progress| {
            let percent = percent(progress);
            if last != Some(percent) {
                last = Some(percent);
                self.told.send_replace(Some((self.writing(&update, progress, percent), true)));
            }
            match self.stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        ota::install(&request, &*loader, &mut before, &mut tell)
    }

    fn writing(&self, update: &Update, progress: &Progress, percent: u8) -> Status {
        let kib = |bytes: u64| bytes >> 10;
        let message = format!(
            "{} of {} KiB are in slot {}, {} KiB came from the source",
            kib(progress.done),
            kib(progress.total),
            update.to,
            kib(progress.fetched)
        );
        let (source, version) = (self.request.source.clone(), update.version.to_string());
        Status { phase: Phase::Writing, source, version, percent: Some(percent), message }
    }
}

/// Progress in whole steps.
fn percent(progress: &Progress) -> u8 {
    let percent = progress.done.saturating_mul(100) / progress.total.max(1);
    u8::try_from(percent.min(100)).unwrap_or(100) / PERCENT_STEP * PERCENT_STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_steps() {
        let at = |done, total| percent(&Progress { done, total, fetched: 0 });
        for (done, total, expected) in
            [(0, 0, 0), (0, 7, 0), (3, 50, 5), (99, 100, 95), (7, 7, 100), (9, 7, 100)]
        {
            assert_eq!(at(done, total), expected, "{done} of {total}");
        }
    }
}
