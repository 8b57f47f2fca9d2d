//! A factory reset asked for through the API: the annotation of the Node, its confirmation, the request to PID 1.

use std::io;
use std::path::Path;

use client::EventType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Asks for the reset. Its value repeats the node's name, so that none is reset by a selector or a slip.
pub(crate) const REQUEST: &str = "copepod.io/factory-reset";

/// What a request comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Reset,
    /// Why not.
    Refused(String),
}

/// Decides about a request; `is_updating` while an update is written or not decided yet.
pub(crate) fn answer(node: &str, value: &str, is_updating: bool) -> Answer {
    match (value == node, is_updating) {
        (true, false) => Answer::Reset,
        (true, true) => Answer::Refused("an update is under way".to_owned()),
        (false, _) => Answer::Refused(format!(
            "annotation {REQUEST}: expected the node's name {node:?} as confirmation, found {value:?}"
        )),
    }
}

impl Answer {
    /// Type, reason and message of the event.
    pub(crate) fn event(&self) -> (EventType, &'static str, String) {
        match self {
            Answer::Reset => {
                let text = "the data partition is made anew at the restart that follows";
                (EventType::Normal, "FactoryReset", text.to_owned())
            }
            Answer::Refused(why) => (EventType::Warning, "FactoryResetRefused", why.clone()),
        }
    }
}

/// Has PID 1 end the machine in order and make the data partition anew at the next start.
pub(crate) fn begin() -> io::Result<()> {
    sys::replace_file(Path::new(init::FACTORY_RESET_FILE), b"", 0o600)?;
    Ok(kill(Pid::from_raw(1), Signal::SIGINT)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_own_name_resets_it() {
        assert_eq!(answer("kitchen", "kitchen", false), Answer::Reset);
        for (value, is_updating) in
            [("true", false), ("", false), ("Kitchen", false), ("cellar", true), ("kitchen", true)]
        {
            let answer = answer("kitchen", value, is_updating);
            assert!(matches!(answer, Answer::Refused(_)), "{value}");
            assert_eq!(answer.event().1, "FactoryResetRefused");
        }
    }
}
