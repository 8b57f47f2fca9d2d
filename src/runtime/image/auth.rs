//! Credentials, and the challenges registries answer with when they want some.

use std::fmt;

use base64::Engine;
use http::HeaderValue;

/// Challenges read from one answer.
const CHALLENGES_MAX: usize = 8;

/// What a registry is shown. Its text form never contains the secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    Basic {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the registry's token service.
    IdentityToken(String),
    /// A bearer token sent as it is.
    RegistryToken(String),
}

impl Auth {
    /// Decodes the `auth` field of a Docker configuration: base64 of `username:password`.
    pub fn from_docker_config(encoded: &str) -> Option<Self> {
        super::registries::decode_basic(encoded)
    }

    /// The `Authorization: Basic` value, if this has a user and a password.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let Self::Basic { username, password } = self else { return None };
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        secret_value(&format!("Basic {encoded}"))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
            Self::RegistryToken(_) => "RegistryToken(..)",
        })
    }
}

/// A header value that is not printed.
pub(super) fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One demand of a `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String>, error: Option<String> },
}

impl Challenge {
    /// Reads all challenges of a header value; schemes that are not known are left out.
    pub(super) fn parse_all(header: &str) -> Vec<Self> {
        let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
        let mut rest = header.trim_start_matches([' ', ',']);
        while !rest.is_empty() && found.len() <= CHALLENGES_MAX {
            let (word, after) = token(rest);
            if word.is_empty() {
                break;
            }
            if let Some(value) = after.strip_prefix('=') {
                let (value, after) = parameter_value(value);
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            } else {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
            rest = rest.trim_start_matches([' ', ',', '\t']);
        }
        found
            .into_iter()
            .filter_map(|(scheme, parameters)| Self::from_parts(&scheme, parameters))
            .collect()
    }

    fn from_parts(scheme: &str, parameters: Vec<(String, String)>) -> Option<Self> {
        let get = |name: &str| {
            parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        };
        match scheme {
            "basic" => Some(Self::Basic),
            "bearer" => Some(Self::Bearer {
                realm: get("realm")?,
                service: get("service"),
                scope: get("scope"),
                error: get("error"),
            }),
            _ => None,
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | '"'))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// A string for the query of a URL.
pub(super) fn encode_query(text: &str) -> String {
    use fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
