//! The join token `K10<sha256 of the authority's PEM>::<user>:<password>` and its file.

use crate::{Error, constant_time_eq, files, hex, random_hex};
use std::path::Path;

const PREFIX: &str = "K10";
const PASSWORD_BYTES: usize = 16;

/// What a node needs to join: which authority to trust, and as whom to ask.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's PEM file, lower-case hex; `None` in a short token, which trusts whoever answers.
    pub authority_hash: Option<String>,
    pub user: String,
    pub password: String,
}

impl JoinToken {
    pub fn new(authority_pem: &str, user: &str, password: &str) -> Self {
        Self {
            authority_hash: Some(hash(authority_pem)),
            user: user.into(),
            password: password.into(),
        }
    }

    /// Reads a full token, or a short one that is only a password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix(PREFIX).filter(|r| r.contains("::")) else {
            return if text.is_empty() || text.contains("::") || text.contains(char::is_whitespace) {
                Err(Error::Token(
                    "it is neither a password nor of the form K10<hash>::<user>:<password>",
                ))
            } else {
                Ok(Self { authority_hash: None, user: "node".into(), password: text.into() })
            };
        };
        let (hash, credentials) = rest.split_once("::").ok_or(Error::Token("it has no ::"))?;
        if hash.len() != 64
            || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(Error::Token("its hash is not 64 lower-case hex digits"));
        }
        let (user, password) =
            credentials.split_once(':').ok_or(Error::Token("it has no password"))?;
        if user.is_empty() || password.is_empty() {
            return Err(Error::Token("its user or password is empty"));
        }
        Ok(Self { authority_hash: Some(hash.into()), user: user.into(), password: password.into() })
    }

    /// Whether this authority is the one the token names.
    pub fn trusts(&self, authority_pem: &str) -> bool {
        self.authority_hash
            .as_ref()
            .is_none_or(|h| constant_time_eq(h.as_bytes(), hash(authority_pem).as_bytes()))
    }

    /// Whether `other` carries the same password for the same user.
    pub fn admits(&self, user: &str, password: &str) -> bool {
        constant_time_eq(self.user.as_bytes(), user.as_bytes())
            & constant_time_eq(self.password.as_bytes(), password.as_bytes())
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.authority_hash {
            Some(hash) => write!(f, "{PREFIX}{hash}::{}:{}", self.user, self.password),
            None => f.write_str(&self.password),
        }
    }
}

/// The token in the file `path`, or a new one written there (mode 0600). `wanted` is the operator's own token or
/// password: it wins, and the file follows it.
pub fn ensure_token(
    path: &Path,
    authority_pem: &str,
    user: &str,
    wanted: Option<&str>,
) -> Result<JoinToken, Error> {
    let old = files::read_private(path)?.map(|text| JoinToken::parse(&text)).transpose()?;
    let password = match (wanted.map(JoinToken::parse).transpose()?, &old) {
        (Some(token), _) => token.password,
        (None, Some(token)) => token.password.clone(),
        (None, None) => random_hex(PASSWORD_BYTES)?,
    };
    let token = JoinToken::new(authority_pem, user, &password);
    if old.as_ref() != Some(&token) {
        if let Some(parent) = path.parent() {
            files::make_directory(parent)?;
        }
        files::write_private(path, format!("{token}\n").as_bytes())?;
    }
    Ok(token)
}

fn hash(authority_pem: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, authority_pem.as_bytes()).as_ref())
}
