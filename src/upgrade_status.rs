//! How far an update is, as people and programs see it: annotation and condition of the node, lines of the command.

use ota::{Journal, Outcome, State, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Asks for an update: where the bundle is.
pub(crate) const REQUEST: &str = "copepod.io/upgrade";
/// Set to `true`, it lets an older version be installed.
pub(crate) const DOWNGRADE: &str = "copepod.io/upgrade-allow-downgrade";
/// A [`Status`] as JSON, written by the node.
pub(crate) const STATUS: &str = "copepod.io/upgrade-status";
const CONDITION: &str = "UpgradeSucceeded";

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Phase {
    Checking,
    Writing,
    Restarting,
    Trying,
    Committed,
    FellBack,
    Refused,
    Failed,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    pub(crate) phase: Phase,
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) percent: Option<u8>,
    pub(crate) message: String,
}

impl Phase {
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Phase::Committed | Phase::FellBack | Phase::Refused | Phase::Failed)
    }

    fn word(self) -> &'static str {
        match self {
            Phase::Checking => "Checking",
            Phase::Writing => "Writing",
            Phase::Restarting => "Restarting",
            Phase::Trying => "Trying",
            Phase::Committed => "Committed",
            Phase::FellBack => "FellBack",
            Phase::Refused => "Refused",
            Phase::Failed => "Failed",
        }
    }

    /// Status of the condition.
    fn succeeded(self) -> &'static str {
        match self {
            Phase::Committed => "True",
            Phase::FellBack | Phase::Refused | Phase::Failed => "False",
            Phase::Checking | Phase::Writing | Phase::Restarting | Phase::Trying => "Unknown",
        }
    }
}

impl Status {
    pub(crate) fn of_outcome(outcome: &Outcome) -> Status {
        let phase = match outcome.verdict {
            Verdict::Committed => Phase::Committed,
            Verdict::FellBack => Phase::FellBack,
            Verdict::Refused => Phase::Refused,
            Verdict::Failed => Phase::Failed,
        };
        Status {
            phase,
            source: outcome.source.clone(),
            version: outcome.version.clone(),
            percent: None,
            message: outcome.reason.clone(),
        }
    }

    /// What the journal says when the node starts.
    pub(crate) fn of_journal(journal: &Journal) -> Option<Status> {
        let Some(update) = journal.state.update() else {
            return journal.last.as_ref().map(Status::of_outcome);
        };
        let (phase, message) = match &journal.state {
            State::Trying { .. } => {
                let text = format!("{} is on trial in slot {}", update.version, update.to);
                (Phase::Trying, text)
            }
            State::Staged(_) => (Phase::Restarting, "the machine is to restart".to_owned()),
            _ => (Phase::Writing, "going on after an interruption".to_owned()),
        };
        Some(Status {
            phase,
            source: update.source.clone(),
            version: update.version.to_string(),
            percent: None,
            message,
        })
    }

    /// What has to be said in place of this status, found on the Node when the node starts: `journal` is what the journal
    /// says, `is_asked` whether the request is still there. Nothing, if it is an end, or if what follows from the request
    /// replaces it.
    pub(crate) fn mended(self, journal: Option<&Status>, is_asked: bool) -> Option<Status> {
        if self.phase.is_end() || is_asked {
            return None;
        }
        let told = journal.filter(|told| !told.phase.is_end() || told.source == self.source);
        // Nothing is written before the journal has it.
        let lost = || Status {
            phase: Phase::Failed,
            percent: None,
            message: "the node ended before anything was written".to_owned(),
            ..self.clone()
        };
        Some(told.cloned().unwrap_or_else(lost))
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let version = if self.version.is_empty() { "" } else { " " };
        let percent = self.percent.map_or(String::new(), |percent| format!(" {percent} %"));
        format!("{}{version}{}{percent}: {}", self.phase.word(), self.version, self.message)
    }

    /// The notice from which the agent makes condition and event; an event only for what happened since the start.
    pub(crate) fn notice(&self, is_news: bool) -> Value {
        let condition = json!({
            "type": CONDITION,
            "status": self.phase.succeeded(),
            "reason": self.phase.word(),
            "message": self.message,
        });
        let kind = if self.phase.succeeded() == "False" { "Warning" } else { "Normal" };
        let event = json!({
            "type": kind,
            "reason": format!("Upgrade{}", self.phase.word()),
            "message": self.message,
        });
        json!({ "conditions": [condition], "events": if is_news { vec![event] } else { Vec::new() } })
    }
}

#[cfg(test)]
mod tests {
    use ota::Update;

    use super::*;

    const SOURCE: &str = "http://host/v3";

    fn shown(phase: Phase) -> Status {
        let (source, version) = (SOURCE.to_owned(), "0.3.0".to_owned());
        Status { phase, source, version, percent: Some(40), message: "so far".to_owned() }
    }

    fn ended(verdict: Verdict, source: &str) -> Journal {
        let (source, version) = (source.to_owned(), "0.3.0".to_owned());
        let last =
            Some(Outcome { verdict, source, version, reason: "as the journal has it".to_owned() });
        Journal { state: State::Idle, last }
    }

    fn update() -> Update {
        serde_json::from_value(json!({
            "source": SOURCE, "allow-downgrade": false, "version": "0.3.0", "before-version": "0.2.0",
            "from": "a", "to": "b", "healthy-within": 60, "before": { "server": true, "pods": {} },
        }))
        .unwrap()
    }

    /// The power went after the first status was shown on the Node and before the second was.
    #[test]
    fn a_status_that_was_overtaken_comes_to_its_end() {
        use Phase::{Checking, Committed, Failed, FellBack, Refused, Restarting, Trying, Writing};
        let other = "http://host/v2";
        let under_way = |state: State, last| Journal { state, last };
        let before = || ended(Verdict::Committed, other).last;
        let trying = State::Trying { update: update(), starts: 1 };
        let rows = [
            // It never began: neither in an empty journal nor in one that tells of an earlier update.
            (Checking, Journal::default(), false, Some(Failed)),
            (Checking, ended(Verdict::Committed, other), false, Some(Failed)),
            // It begins anew by itself.
            (Checking, Journal::default(), true, None),
            (Checking, ended(Verdict::Committed, other), true, None),
            // It ended without a status that says so.
            (Writing, ended(Verdict::Failed, SOURCE), false, Some(Failed)),
            (Checking, ended(Verdict::Refused, SOURCE), false, Some(Refused)),
            (Restarting, ended(Verdict::FellBack, SOURCE), false, Some(FellBack)),
            (Trying, ended(Verdict::Committed, SOURCE), false, Some(Committed)),
            // It goes on.
            (Checking, under_way(State::Writing(update()), before()), false, Some(Writing)),
            (Writing, under_way(State::Staged(update()), before()), false, Some(Restarting)),
            (Restarting, under_way(trying, before()), false, Some(Trying)),
            // What has ended is left alone.
            (Committed, ended(Verdict::Failed, SOURCE), false, None),
            (FellBack, Journal::default(), false, None),
        ];
        for (phase, journal, is_asked, expected) in rows {
            let folder = tempfile::tempdir().unwrap();
            journal.write(folder.path()).unwrap();
            let read = Journal::read(folder.path()).unwrap();
            let mended = shown(phase).mended(Status::of_journal(&read).as_ref(), is_asked);
            let case = format!("{phase:?}, asked {is_asked}, {journal:?}: {mended:?}");
            assert_eq!(mended.as_ref().map(|status| status.phase), expected, "{case}");
            let Some(status) = mended else { continue };
            assert_eq!((status.source.as_str(), status.percent), (SOURCE, None), "{case}");
            assert_ne!(status.message, "so far", "{case}");
        }
    }

    #[test]
    fn a_status_becomes_line_notice_and_annotation() {
        let status = Status {
            phase: Phase::FellBack,
            source: "http://host/v3".to_owned(),
            version: "0.3.0".to_owned(),
            percent: None,
            message: "the node ended 4 times".to_owned(),
        };
        assert_eq!(status.line(), "FellBack 0.3.0: the node ended 4 times");
        let notice = status.notice(true);
        assert_eq!(notice["conditions"][0]["status"], "False");
        assert_eq!(notice["events"][0]["reason"], "UpgradeFellBack");
        assert_eq!(notice["events"][0]["type"], "Warning");
        assert_eq!(status.notice(false)["events"], json!([]));
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
        let writing =
            Status { phase: Phase::Writing, percent: Some(40), message: "m".to_owned(), ..status };
        assert_eq!(writing.line(), "Writing 0.3.0 40 %: m");
        assert_eq!(writing.notice(true)["conditions"][0]["status"], "Unknown");
    }
}
