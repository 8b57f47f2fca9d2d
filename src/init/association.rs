//! Which wireless network the board is in, and why in none: read from what wpa_supplicant prints.
//!
//! It names networks by their number in its configuration, so nothing that strangers send is repeated here.

use std::time::{Duration, Instant};

/// An event of this reason says why there is no connection.
pub(crate) const REASON: &str = "WifiNotConnected";
/// Without a connection for this long, the owner is told.
const SEARCH_LIMIT: Duration = Duration::from_secs(60);
const JOINED: &str = "CTRL-EVENT-CONNECTED ";
const LEFT: &str = "CTRL-EVENT-DISCONNECTED ";
const REFUSED: &str = "CTRL-EVENT-SSID-TEMP-DISABLED ";
const WRONG_KEY: &str = "WRONG_KEY";

/// What has changed, and what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Joined(String),
    Left(String),
    /// The owner has to do something.
    Trouble(String),
}

#[derive(Debug, Default)]
pub(crate) struct Association {
    /// Names of the networks, by number.
    networks: Vec<String>,
    joined: Option<usize>,
    /// Those that refused the password since they were last joined.
    refusing: Vec<usize>,
    /// When to say that there is no connection.
    search_ends: Option<Instant>,
    troubles: Vec<String>,
}

impl Association {
    pub(crate) fn new(networks: Vec<String>, now: Instant) -> Association {
        let search_ends = (!networks.is_empty()).then(|| now + SEARCH_LIMIT);
        Association { networks, search_ends, ..Association::default() }
    }

    /// Takes a line of the supplicant's.
    pub(crate) fn hear(&mut self, line: &str, now: Instant) -> Option<News> {
        let (_, event) = line.split_once(": ")?;
        if let Some(rest) = event.strip_prefix(JOINED) {
            let number = number(rest.split_once("[id=")?.1)?;
            self.joined = Some(number);
            self.search_ends = None;
            self.refusing.retain(|refusing| *refusing != number);
            self.troubles.clear();
            return Some(News::Joined(format!("connected to {:?}", self.network(number)?)));
        }
        if event.starts_with(LEFT) {
            return self.leave(now);
        }
        let rest = event.strip_prefix(REFUSED)?.strip_prefix("id=")?;
        let (_, reason) = rest.rsplit_once(" reason=")?;
        if reason == WRONG_KEY { self.refused(number(rest)?) } else { None }
    }

    /// The connection has ended, as it has with the supplicant itself.
    pub(crate) fn leave(&mut self, now: Instant) -> Option<News> {
        let number = self.joined.take()?;
        self.search_ends = Some(now + SEARCH_LIMIT);
        Some(News::Left(format!("the connection to {:?} is lost", self.network(number)?)))
    }

    /// Says once that there is no connection; to be called now and then.
    pub(crate) fn look(&mut self, now: Instant) -> Option<News> {
        self.search_ends.take_if(|end| *end <= now)?;
        if !self.refusing.is_empty() {
            return None;
        }
        let names: Vec<String> = self.networks.iter().map(|name| format!("{name:?}")).collect();
        let (seconds, names) = (SEARCH_LIMIT.as_secs(), names.join(", "));
        Some(self.trouble(format!(
            "for {seconds} s not connected to any network of copepod.yaml: {names}"
        )))
    }

    /// What keeps the board out of its networks.
    pub(crate) fn troubles(&self) -> &[String] {
        &self.troubles
    }

    fn refused(&mut self, number: usize) -> Option<News> {
        let name = self.network(number)?.to_owned();
        if self.refusing.contains(&number) {
            return None;
        }
        self.refusing.push(number);
        let text = format!(
            "the network {name:?} does not accept the password that copepod.yaml has for it"
        );
        Some(self.trouble(text))
    }

    fn trouble(&mut self, text: String) -> News {
        self.troubles.push(text.clone());
        News::Trouble(text)
    }

    fn network(&self, number: usize) -> Option<&str> {
        self.networks.get(number).map(String::as_str)
    }
}

/// The number a text begins with.
fn number(text: &str) -> Option<usize> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str =
        "wlan0: SME: Trying to authenticate with 02:00:00:00:01:00 (SSID='home' freq=2437 MHz)";
    const JOIN: &str =
        "wlan0: CTRL-EVENT-CONNECTED - Connection to 02:00:00:00:01:00 completed [id=1 id_str=]";
    const LEAVE: &str = "wlan0: CTRL-EVENT-DISCONNECTED bssid=02:00:00:00:01:00 reason=4";
    const REFUSE: &str = "wlan0: CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"work\" auth_failures=1 duration=10 reason=WRONG_KEY";

    fn association(now: Instant) -> Association {
        Association::new(["work", "ho\"me"].map(str::to_owned).into(), now)
    }

    #[test]
    fn lines_become_news() {
        let joined = News::Joined("connected to \"ho\\\"me\"".to_owned());
        let left = News::Left("the connection to \"ho\\\"me\" is lost".to_owned());
        let refused =
            "the network \"work\" does not accept the password that copepod.yaml has for it";
        let refused = News::Trouble(refused.to_owned());
        let busy = REFUSE.replace("WRONG_KEY", "CONN_FAILED");
        let named = busy.replace("work", "x reason=WRONG_KEY");
        let rows = [
            (BEGIN, None),
            (LEAVE, None),
            (REFUSE, Some(refused.clone())),
            (REFUSE, None),
            (LEAVE, None),
            (JOIN, Some(joined)),
            (LEAVE, Some(left)),
            (busy.as_str(), None),
            (&JOIN.replace("id=1", "id=7"), None),
            (&JOIN.replace("id=1", "id="), None),
            ("wlan0", None),
            ("", None),
        ];
        let now = Instant::now();
        let mut association = association(now);
        for (line, news) in rows {
            assert_eq!(association.hear(line, now), news, "{line}");
        }
        let mut association = Association::new(vec!["work".to_owned()], now);
        assert_eq!(association.hear(&named, now), None);
    }

    #[test]
    fn a_network_that_was_joined_may_refuse_again() {
        let now = Instant::now();
        let mut association = association(now);
        let refuse = REFUSE.replace("id=0", "id=1");
        assert!(association.hear(&refuse, now).is_some());
        assert_eq!(association.troubles().len(), 1);
        assert!(association.hear(JOIN, now).is_some());
        assert!(association.troubles().is_empty());
        assert!(association.hear(&refuse, now).is_some());
    }

    #[test]
    fn having_no_connection_is_said_once_and_only_without_a_better_reason() {
        let now = Instant::now();
        let text = "for 60 s not connected to any network of copepod.yaml: \"work\", \"ho\\\"me\"";
        let trouble = Some(News::Trouble(text.to_owned()));
        let rows: [(&[&str], u64, Option<News>); 5] = [
            (&[], 59, None),
            (&[], 60, trouble.clone()),
            (&[REFUSE], 60, None),
            (&[JOIN], 60, None),
            (&[JOIN, LEAVE], 60, trouble),
        ];
        for (lines, seconds, news) in rows {
            let mut association = association(now);
            for line in lines {
                association.hear(line, now);
            }
            let then = now + Duration::from_secs(seconds);
            assert_eq!(association.look(then), news, "{lines:?} {seconds}");
            assert!(seconds < 60 || association.look(then).is_none());
        }
        let mut none = Association::new(Vec::new(), now);
        assert_eq!(none.look(now + SEARCH_LIMIT), None);
    }
}
