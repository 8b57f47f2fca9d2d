//! What a node keeps of its membership below DATA/agent, so that it starts again without its server.

use std::path::{Path, PathBuf};

use pki::{Facts, Identity};
use serde::{Deserialize, Serialize};

use crate::{Error, Shared, wire};

/// Bytes of the number that `--with-node-id` adds to the name.
const NODE_ID_BYTES: usize = 4;

/// The files of a membership.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
}

/// Everything that makes a node a member.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) client: Identity,
    pub(crate) serving: Identity,
    pub(crate) server_ca: String,
    pub(crate) client_ca: String,
    pub(crate) shared: Shared,
    /// How long certificates of this cluster live.
    pub(crate) life: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    certificate_seconds: i64,
    #[serde(flatten)]
    shared: Shared,
}

/// Which of the node's two keys and certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Serving,
}

impl Role {
    fn stem(self) -> &'static str {
        match self {
            Role::Client => "client-kubelet",
            Role::Serving => "serving-kubelet",
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Role::Client => wire::CLIENT_CERTIFICATE,
            Role::Serving => wire::SERVING_CERTIFICATE,
        }
    }
}

impl Files {
    pub(crate) fn new(folder: &Path) -> Result<Files, Error> {
        pki::make_directory(folder)?;
        pki::make_directory(&folder.join("etc"))?;
        Ok(Files { folder: folder.to_owned() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn servers(&self) -> PathBuf {
        self.folder.join("etc/servers.json")
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("etc/cluster.json")
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(pki::read_private(&self.folder.join(name))?)
    }

    /// The membership, if all of it is there and fits together.
    pub(crate) fn load(&self) -> Result<Option<Membership>, Error> {
        let (Some(client), Some(serving)) =
            (self.identity(Role::Client)?, self.identity(Role::Serving)?)
        else {
            return Ok(None);
        };
        let (Some(server_ca), Some(client_ca)) =
            (self.read("server-ca.crt")?, self.read("client-ca.crt")?)
        else {
            return Ok(None);
        };
        let Some(text) = pki::read_private(&self.settings())? else { return Ok(None) };
        let Ok(settings) = serde_json::from_str::<Settings>(&text) else {
            tracing::warn!(file = %self.settings().display(), "unreadable, the node joins again");
            return Ok(None);
        };
        let (shared, life) = (settings.shared, settings.certificate_seconds);
        Ok(Some(Membership { client, serving, server_ca, client_ca, shared, life }))
    }

    /// A certificate with its key; `None` if one is missing or they do not belong together.
    fn identity(&self, role: Role) -> Result<Option<Identity>, Error> {
        let stem = role.stem();
        let pair = (self.read(&format!("{stem}.crt"))?, self.read(&format!("{stem}.key"))?);
        let (Some(certificate), Some(key)) = pair else { return Ok(None) };
        let fits =
            pki::signing_request(&key).and_then(|csr| pki::requested_key(&csr)).is_ok_and(|own| {
                Facts::of_pem(&certificate).is_ok_and(|facts| facts.public_key.ends_with(&own))
            });
        Ok(fits.then_some(Identity { certificate, key }))
    }

    /// The node's own key, made once.
    pub(crate) fn key(&self, role: Role) -> Result<String, Error> {
        let path = self.folder.join(format!("{}.key", role.stem()));
        match pki::read_private(&path)? {
            Some(key) if pki::signing_request(&key).is_ok() => Ok(key),
            _ => {
                let key = pki::new_key()?;
                pki::write_private(&path, key.as_bytes())?;
                Ok(key)
            }
        }
    }

    /// The node's password, made once.
    pub(crate) fn password(&self) -> Result<String, Error> {
        let path = self.folder.join("node-password");
        match pki::read_private(&path)? {
            Some(text) if text.trim().len() >= 2 * wire::NODE_PASSWORD_BYTES => {
                Ok(text.trim().to_owned())
            }
            _ => {
                let password = pki::random_hex(wire::NODE_PASSWORD_BYTES)?;
                pki::write_private(&path, format!("{password}\n").as_bytes())?;
                Ok(password)
            }
        }
    }

    pub(crate) fn save_certificate(&self, role: Role, identity: &Identity) -> Result<(), Error> {
        let path = self.folder.join(format!("{}.crt", role.stem()));
        Ok(pki::write_public(&path, identity.certificate.as_bytes())?)
    }

    pub(crate) fn save_settings(&self, shared: &Shared, life: i64) -> Result<(), Error> {
        let settings = Settings { certificate_seconds: life, shared: shared.clone() };
        // A struct of strings, numbers and addresses always has a JSON form.
        let json = serde_json::to_vec_pretty(&settings).unwrap_or_default();
        Ok(pki::write_private(&self.settings(), &json)?)
    }

    /// Writes everything; the settings come last, since they say that the rest is complete.
    pub(crate) fn save(&self, membership: &Membership) -> Result<(), Error> {
        self.save_certificate(Role::Client, &membership.client)?;
        self.save_certificate(Role::Serving, &membership.serving)?;
        for (name, pem) in
            [("server-ca.crt", &membership.server_ca), ("client-ca.crt", &membership.client_ca)]
        {
            pki::write_public(&self.folder.join(name), pem.as_bytes())?;
        }
        self.save_settings(&membership.shared, membership.life)
    }
}

/// The name of a node: `base`, with `--with-node-id` followed by a number that is made once and kept in `folder`.
pub fn node_name(folder: &Path, base: &str, with_node_id: bool) -> Result<String, Error> {
    if !with_node_id {
        return Ok(base.to_owned());
    }
    pki::make_directory(folder)?;
    let path = folder.join("node-id");
    let id = match pki::read_private(&path)? {
        Some(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => {
            let id = pki::random_hex(NODE_ID_BYTES)?;
            pki::write_private(&path, format!("{id}\n").as_bytes())?;
            id
        }
    };
    Ok(format!("{base}-{id}"))
}
