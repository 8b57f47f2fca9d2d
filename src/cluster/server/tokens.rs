//! The cluster's own tokens: one with which servers and agents join, and one for agents alone.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::{Error, Shared};

/// The passwords behind the users `server` and `node`; the first can be replaced while the server runs.
pub struct Tokens {
    file: PathBuf,
    authority_pem: String,
    passwords: RwLock<Passwords>,
}

struct Passwords {
    server: String,
    /// `None`: agents join with the server's.
    agent: Option<String>,
}

/// Which of the two tokens someone proved to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Server,
    Agent,
}

impl Tokens {
    /// Loads or makes the tokens below `folder` (DATA/server): `token`, and `agent-token`, which says the same in the name of
    /// agents unless `agent` is given.
    pub fn ensure(
        folder: &Path,
        authority_pem: &str,
        server: Option<&str>,
        agent: Option<&str>,
    ) -> Result<Self, Error> {
        let file = folder.join("token");
        let token = pki::ensure_token(&file, authority_pem, "server", server)?;
        let password = token.password().unwrap_or_default().to_owned();
        let agent_file = folder.join("agent-token");
        let agent_password = match agent {
            Some(_) => {
                let made = pki::ensure_token(&agent_file, authority_pem, "node", agent)?;
                made.password().map(str::to_owned)
            }
            None => {
                pki::ensure_token(&agent_file, authority_pem, "node", Some(&password))?;
                None
            }
        };
        Ok(Self {
            file,
            authority_pem: authority_pem.to_owned(),
            passwords: RwLock::new(Passwords { server: password, agent: agent_password }),
        })
    }

    /// Whom a user and password prove.
    pub(crate) fn check(&self, user: &str, password: &str) -> Option<Holder> {
        let passwords = self.passwords.read().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &str| pki::constant_time_eq(known.as_bytes(), password.as_bytes());
        let server = same(&passwords.server);
        let agent = match &passwords.agent {
            Some(agent) => same(agent),
            None => server,
        };
        match user {
            "server" if server => Some(Holder::Server),
            "node" if agent => Some(Holder::Agent),
            _ => None,
        }
    }

    /// Replaces the server's token by one with this password. Who joined already is not concerned.
    pub(crate) fn rotate(&self, password: &str) -> Result<(), Error> {
        let token = pki::JoinToken::new(&self.authority_pem, "server", password);
        let mut passwords = self.passwords.write().unwrap_or_else(PoisonError::into_inner);
        pki::write_token(&self.file, &token)?;
        if passwords.agent.is_none() {
            let same = pki::JoinToken::new(&self.authority_pem, "node", password);
            pki::write_token(&self.file.with_file_name("agent-token"), &same)?;
        }
        passwords.server = password.to_owned();
        Ok(())
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // A struct of strings, numbers and addresses always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
