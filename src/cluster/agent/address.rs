//! Where a server is reached.

use std::fmt;
use std::net::Ipv6Addr;

use crate::Error;

/// The port of a server when `--server` names none.
const PORT: u16 = 6443;

/// Host (a name or an address, without brackets) and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Reads `https://HOST[:PORT]`.
    pub fn of_url(url: &str) -> Result<Self, Error> {
        let wrong = || Error::ServerUrl(url.to_owned());
        let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) || rest.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Self::read(rest, Some(PORT)).ok_or_else(wrong)
    }

    /// Reads `HOST:PORT`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::read(text, None)
    }

    fn read(text: &str, default: Option<u16>) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, port.strip_prefix(':').or((port.is_empty()).then_some(""))?)
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let named = !host.is_empty() && !host.contains(char::is_whitespace);
        let plain = text.starts_with('[') || !host.contains(':') && !port.contains(':');
        let port = match port {
            "" => default?,
            digits => digits.parse().ok().filter(|port| *port != 0)?,
        };
        (named && plain).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
