//! What the API server is told of one pod, and when: the latest status, and in the end that the pod may be deleted.
//!
//! Decided without IO; the actor makes the calls. While the server is away nothing is tried and nothing piles up: only the
//! status of the moment is sent when it is back.

use std::time::Duration;

use client::Backoff;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::status;

/// First and longest wait after the API server has refused something.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Changes on the way to a running container may wait this long, to be sent together.
const STATUS_HOLD: Duration = Duration::from_millis(100);

pub(crate) struct Telling {
    /// What the API server has from us, or what somebody else has made of it since.
    sent: PodStatus,
    /// The pod's revision with `sent`.
    revision: u64,
    sending: bool,
    send_after: Option<Duration>,
    /// The API server did not take the last status.
    failed: bool,
    /// Until when a status that is not urgent waits for company.
    hold_until: Option<Duration>,
    delete: Delete,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delete {
    NotYet,
    Due(Option<Duration>),
    Sent,
    Done,
}

/// The call to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    Status,
    Delete,
}

impl Telling {
    pub(crate) fn new(pod: &Pod) -> Telling {
        Telling {
            sent: pod.status.clone().unwrap_or_default(),
            revision: client::revision_of(pod),
            sending: false,
            send_after: None,
            failed: false,
            hold_until: None,
            delete: Delete::NotYet,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
        }
    }

    pub(crate) fn last(&self) -> &PodStatus {
        &self.sent
    }

    /// The call to make now, if any; its outcome must be told. `starting` says that more is about to change.
    pub(crate) fn next(
        &mut self,
        shown: &PodStatus,
        starting: bool,
        now: Duration,
    ) -> Option<Tell> {
        if self.sending || self.send_after.is_some_and(|at| at > now) {
            return None;
        }
        self.send_after = None;
        // A status that cannot be sent must not keep a pod that has ended.
        let given_up = self.failed && matches!(self.delete, Delete::Due(_));
        if !given_up && !status::same(shown, &self.sent) {
            if self.held(shown, starting, now) {
                return None;
            }
            self.hold_until = None;
            self.sending = true;
            return Some(Tell::Status);
        }
        self.hold_until = None;
        let Delete::Due(after) = self.delete else { return None };
        if after.is_some_and(|at| at > now) {
            return None;
        }
        self.delete = Delete::Sent;
        Some(Tell::Delete)
    }

    /// Whether a status should wait a moment: nothing in it decides anything, and more is about to come.
    fn held(&mut self, shown: &PodStatus, starting: bool, now: Duration) -> bool {
        let urgent =
            shown.phase != self.sent.phase || status::ready(shown) != status::ready(&self.sent);
        if urgent || !starting {
            return false;
        }
        *self.hold_until.get_or_insert(now + STATUS_HOLD) > now
    }

    /// The server has `status` at this revision, or did not take it. `pod` is the pod as it was last seen.
    pub(crate) fn sent(
        &mut self,
        status: PodStatus,
        result: &client::Result<u64>,
        pod: &Pod,
        now: Duration,
    ) {
        self.sending = false;
        self.failed = result.is_err();
        match result {
            Ok(revision) => {
                self.backoff.succeeded();
                self.sent = status;
                self.revision = self.revision.max(*revision);
                self.compare(pod);
            }
            // It is gone, or a namesake has taken its place: the list will say so.
            Err(error) if error.is_not_found() || error.is_conflict() => self.sent = status,
            Err(_) => {
                self.send_after = Some(now + self.backoff.failed_with_jitter());
                self.compare(pod);
            }
        }
    }

    /// Others write the status too: the node controller says that nobody is ready on a node it has not heard from.
    pub(crate) fn compare(&mut self, pod: &Pod) {
        let revision = client::revision_of(pod);
        if revision > self.revision && !self.sending {
            self.revision = revision;
            self.sent = pod.status.clone().unwrap_or_default();
        }
    }

    /// Nothing of the pod is left on the node.
    pub(crate) fn ask_to_delete(&mut self) {
        self.delete = Delete::Due(None);
    }

    pub(crate) fn deleted(&mut self, result: &client::Result<()>, now: Duration) {
        self.delete = match result {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                Delete::Due(Some(now + self.backoff.failed_with_jitter()))
            }
            _ => Delete::Done,
        };
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.delete == Delete::Done
    }

    /// The API server answers again: nothing has to wait.
    pub(crate) fn heard(&mut self) {
        self.backoff.succeeded();
        self.send_after = None;
        if let Delete::Due(after) = &mut self.delete {
            *after = None;
        }
    }

    pub(crate) fn wake(&self) -> Option<Duration> {
        let delete = if let Delete::Due(at) = self.delete { at } else { None };
        [self.send_after, self.hold_until, delete].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const AT: Duration = Duration::from_secs(10);

    fn pod(revision: u64, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"resourceVersion": revision.to_string()}, "status": {"phase": phase}}))
        .expect("a pod")
    }

    fn status(phase: &str) -> PodStatus {
        pod(0, phase).status.expect("a status")
    }

    fn refused() -> client::Error {
        client::Error::Config("no".into())
    }

    #[test]
    fn the_latest_status_is_sent_and_others_are_overruled() {
        let mut told = Telling::new(&pod(5, "Pending"));
        assert_eq!(told.next(&status("Running"), true, AT), Some(Tell::Status));
        assert_eq!(told.next(&status("Failed"), true, AT), None, "one call at a time");
        told.sent(status("Running"), &Ok(6), &pod(5, "Pending"), AT);
        assert_eq!(told.next(&status("Running"), false, AT), None);
        told.compare(&pod(4, "Unknown"));
        assert_eq!(told.next(&status("Running"), false, AT), None, "an old event is no news");
        told.compare(&pod(7, "Unknown"));
        assert_eq!(told.next(&status("Running"), false, AT), Some(Tell::Status));
        told.sent(status("Running"), &Ok(8), &pod(9, "Unknown"), AT);
        assert_eq!(told.next(&status("Running"), false, AT), Some(Tell::Status));
    }

    #[test]
    fn refusals_are_retried_ever_more_rarely_until_the_server_is_back() {
        let mut told = Telling::new(&pod(5, "Pending"));
        let mut now = AT;
        for wait in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(told.next(&status("Running"), false, now), Some(Tell::Status));
            told.sent(status("Running"), &Err(refused()), &pod(5, "Pending"), now);
            let due = told.wake().expect("a time") - now;
            let wait = Duration::from_secs(wait);
            assert!(due >= wait && due <= wait + wait / 4, "{due:?} is not about {wait:?}");
            assert_eq!(told.next(&status("Running"), false, now), None);
            now += due;
        }
        told.heard();
        assert_eq!(told.next(&status("Running"), false, now), Some(Tell::Status));
    }

    #[test]
    fn a_deletion_follows_the_last_status() {
        let mut told = Telling::new(&pod(5, "Running"));
        told.ask_to_delete();
        assert_eq!(told.next(&status("Succeeded"), false, AT), Some(Tell::Status));
        told.sent(status("Succeeded"), &Ok(6), &pod(5, "Running"), AT);
        assert_eq!(told.next(&status("Succeeded"), false, AT), Some(Tell::Delete));
        assert_eq!(told.next(&status("Succeeded"), false, AT), None);
        told.deleted(&Err(refused()), AT);
        assert!(told.wake().is_some() && !told.is_deleted());
        told.heard();
        assert_eq!(told.next(&status("Succeeded"), false, AT), Some(Tell::Delete));
        told.deleted(&Ok(()), AT);
        assert!(told.is_deleted());
    }

    #[test]
    fn what_decides_nothing_waits_for_company() {
        let mut told = Telling::new(&pod(5, "Pending"));
        let mut shown = status("Pending");
        shown.pod_ip = Some("10.42.0.9".into());
        assert_eq!(told.next(&shown, true, AT), None);
        assert_eq!(told.wake(), Some(AT + STATUS_HOLD));
        assert_eq!(told.next(&shown, true, AT + STATUS_HOLD), Some(Tell::Status));
    }
}
