//! The tokens with which nodes join: `K10<sha256 of the authority's PEM>::<user>:<password>`, or with a bootstrap token
//! `<id>.<secret>` in place of user and password; and the files that hold them.

use crate::{Error, constant_time_eq, files, random_hex, sha256_hex};
use std::path::Path;

const PREFIX: &str = "K10";
const PASSWORD_BYTES: usize = 16;
const ID_CHARS: usize = 6;
const SECRET_CHARS: usize = 16;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// What a node needs to join: which authority to trust, and as whom to ask.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's PEM file, lower-case hex; `None` in a short token, which trusts whoever answers.
    pub authority_hash: Option<String>,
    pub secret: JoinSecret,
}

/// As whom a token lets ask.
#[derive(Clone, PartialEq, Eq)]
pub enum JoinSecret {
    Basic { user: String, password: String },
    Bootstrap(BootstrapToken),
}

/// A bootstrap token `<id>.<secret>` as upstream's.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    pub id: String,
    pub secret: String,
}

impl BootstrapToken {
    /// A token of random characters.
    pub fn random() -> Result<Self, Error> {
        Ok(Self { id: random_text(ID_CHARS)?, secret: random_text(SECRET_CHARS)? })
    }

    /// Reads `[a-z0-9]{6}.[a-z0-9]{16}`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let fits = |part: &str, chars: usize| {
            part.len() == chars && part.bytes().all(|b| ALPHABET.contains(&b))
        };
        (fits(id, ID_CHARS) && fits(secret, SECRET_CHARS))
            .then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }
}

impl std::fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

/// Random characters of the alphabet; bytes that would favour some are left out.
fn random_text(chars: usize) -> Result<String, Error> {
    use ring::rand::SecureRandom;
    let random = ring::rand::SystemRandom::new();
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        let mut bytes = [0u8; 32];
        random.fill(&mut bytes).map_err(|_| Error::Random)?;
        let fair = 256 - 256 % ALPHABET.len();
        let fitting = bytes.iter().map(|b| usize::from(*b)).filter(|b| *b < fair);
        text.extend(
            fitting.take(chars - text.len()).map(|b| char::from(ALPHABET[b % ALPHABET.len()])),
        );
    }
    Ok(text)
}

impl JoinToken {
    pub fn new(authority_pem: &str, user: &str, password: &str) -> Self {
        let secret = JoinSecret::Basic { user: user.into(), password: password.into() };
        Self { authority_hash: Some(sha256_hex(authority_pem.as_bytes())), secret }
    }

    pub fn bootstrap(authority_pem: &str, token: BootstrapToken) -> Self {
        let secret = JoinSecret::Bootstrap(token);
        Self { authority_hash: Some(sha256_hex(authority_pem.as_bytes())), secret }
    }

    /// Reads a full token, or a short one that is only a password or a bootstrap token.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix(PREFIX).filter(|r| r.contains("::")) else {
            return Self::parse_short(text);
        };
        let (hash, credentials) = rest.split_once("::").ok_or(Error::Token("it has no ::"))?;
        if hash.len() != 64
            || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(Error::Token("its hash is not 64 lower-case hex digits"));
        }
        let authority_hash = Some(hash.to_owned());
        if let Some(token) = BootstrapToken::parse(credentials) {
            return Ok(Self { authority_hash, secret: JoinSecret::Bootstrap(token) });
        }
        let (user, password) =
            credentials.split_once(':').ok_or(Error::Token("it has no password"))?;
        if user.is_empty() || password.is_empty() {
            return Err(Error::Token("its user or password is empty"));
        }
        let secret = JoinSecret::Basic { user: user.into(), password: password.into() };
        Ok(Self { authority_hash, secret })
    }

    fn parse_short(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text.contains("::") || text.contains(char::is_whitespace) {
            return Err(Error::Token(
                "it is neither a password nor of the form K10<hash>::<user>:<password>",
            ));
        }
        let secret = match BootstrapToken::parse(text) {
            Some(token) => JoinSecret::Bootstrap(token),
            None => JoinSecret::Basic { user: "node".into(), password: text.into() },
        };
        Ok(Self { authority_hash: None, secret })
    }

    /// The password, unless it is a bootstrap token.
    pub fn password(&self) -> Option<&str> {
        match &self.secret {
            JoinSecret::Basic { password, .. } => Some(password),
            JoinSecret::Bootstrap(_) => None,
        }
    }

    /// Whether this authority is the one the token names.
    pub fn trusts(&self, authority_pem: &str) -> bool {
        self.authority_hash.as_ref().is_none_or(|h| {
            constant_time_eq(h.as_bytes(), sha256_hex(authority_pem.as_bytes()).as_bytes())
        })
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(hash) = &self.authority_hash {
            write!(f, "{PREFIX}{hash}::")?;
        }
        match (&self.secret, &self.authority_hash) {
            (JoinSecret::Basic { user, password }, Some(_)) => write!(f, "{user}:{password}"),
            (JoinSecret::Basic { password, .. }, None) => f.write_str(password),
            (JoinSecret::Bootstrap(token), _) => write!(f, "{token}"),
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
    let bootstrap = Error::Token("a bootstrap token cannot be the cluster's own token");
    let password = match (wanted.map(JoinToken::parse).transpose()?, &old) {
        (Some(token), _) => token.password().ok_or(bootstrap)?.to_owned(),
        (None, Some(token)) => token.password().ok_or(bootstrap)?.to_owned(),
        (None, None) => random_hex(PASSWORD_BYTES)?,
    };
    let token = JoinToken::new(authority_pem, user, &password);
    if old.as_ref() != Some(&token) {
        write_token(path, &token)?;
    }
    Ok(token)
}

/// Writes a token's file (mode 0600).
pub fn write_token(path: &Path, token: &JoinToken) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        files::make_directory(parent)?;
    }
    files::write_private(path, format!("{token}\n").as_bytes())
}
