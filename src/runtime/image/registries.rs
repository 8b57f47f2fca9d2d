//! `registries.yaml` in the format of K3s: mirrors, credentials and TLS per registry, as text in and a checked value out.
//! Files it names (CAs, client certificates) are read when a registry is first contacted, so they may come later.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use serde::Deserialize;

use super::auth::Auth;
use super::error::Error;
use super::http::Origin;
use super::reference::Reference;

/// Endpoints tried for one registry.
const ENDPOINTS_MAX: usize = 32;
/// Largest `registries.yaml`.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
const WILDCARD: &str = "*";
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
const API_ROOT: &str = "/v2";

/// How registries are reached. The default knows no mirrors and trusts the public CAs.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Vec<Endpoint>>,
    configs: BTreeMap<String, HostConfig>,
    /// Certificate files trusted for every registry, beside the public CAs.
    pub extra_ca_files: Vec<PathBuf>,
    /// With this, a registry that has mirrors is not asked itself (K3s: `disable-default-registry-endpoint`).
    pub disable_default_endpoint: bool,
}

/// One place where a registry's API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) origin: Origin,
    /// Path of the API, `/v2` unless configured.
    pub(super) root: String,
    /// The name of the registry this is a mirror of.
    pub(super) mirror_of: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct HostConfig {
    pub(super) auth: Option<Auth>,
    pub(super) tls: Option<Tls>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) cert_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) key_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) insecure_skip_verify: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegistries {
    #[serde(default)]
    mirrors: Option<BTreeMap<String, Option<RawMirror>>>,
    #[serde(default)]
    configs: Option<BTreeMap<String, Option<RawConfig>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMirror {
    #[serde(default, alias = "endpoints")]
    endpoint: Option<Vec<String>>,
    #[serde(default)]
    rewrite: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    auth: Option<RawAuth>,
    #[serde(default)]
    tls: Option<Tls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    /// base64 of `username:password`.
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    identity_token: Option<String>,
}

impl Registries {
    /// Parses the text of a `registries.yaml`; an empty one is the default.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(fail("file", format!("larger than {TEXT_BYTES_MAX} bytes")));
        }
        let empty = text.lines().all(|line| {
            line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "---"
        });
        if empty {
            return Ok(Self::default());
        }
        let raw: RawRegistries =
            serde_saphyr::from_str(text).map_err(|error| fail("yaml", error.to_string()))?;
        let mut registries = Self::default();
        for (name, mirror) in raw.mirrors.unwrap_or_default() {
            let endpoints = mirror.map_or_else(|| Ok(Vec::new()), |mirror| mirror.check(&name))?;
            registries.mirrors.insert(name, endpoints);
        }
        for (host, config) in raw.configs.unwrap_or_default() {
            if let Some(config) = config {
                registries.configs.insert(host_key(&host).to_owned(), config.check(&host)?);
            }
        }
        Ok(registries)
    }

    /// Where to look for an image, in order: mirrors first, the registry itself last.
    pub(super) fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let registry = reference.registry();
        let mirrors = self.mirrors.get(registry).or_else(|| self.mirrors.get(WILDCARD));
        let own = self.own_endpoint(registry);
        let mut endpoints: Vec<Endpoint> = mirrors
            .into_iter()
            .flatten()
            .map(|endpoint| {
                let same = endpoint.origin.host == own.origin.host
                    && endpoint.origin.port == own.origin.port;
                Endpoint { mirror_of: (!same).then(|| registry.to_owned()), ..endpoint.clone() }
            })
            .collect();
        let listed = endpoints.iter().any(|endpoint| endpoint.mirror_of.is_none());
        if endpoints.is_empty() || !(listed || self.disable_default_endpoint) {
            endpoints.push(own);
        }
        endpoints
    }

    fn own_endpoint(&self, registry: &str) -> Endpoint {
        let host = if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry };
        let has_tls = self.config(registry).is_some_and(|config| config.tls.is_some());
        let mut origin = Origin::parse_authority(host, true);
        // The only hosts asked in clear without being told so are this machine's own.
        if origin.is_loopback() && !has_tls && origin.port != 443 {
            origin = Origin::parse_authority(host, false);
        }
        Endpoint { origin, root: API_ROOT.to_owned(), mirror_of: None }
    }

    /// The configuration for `host` or `host:port`; Docker Hub's goes by either of its names.
    pub(super) fn config(&self, authority: &str) -> Option<&HostConfig> {
        let found = self.configs.get(authority);
        match authority {
            DOCKER_HUB_HOST => found.or_else(|| self.configs.get(DOCKER_HUB)),
            DOCKER_HUB => found.or_else(|| self.configs.get(DOCKER_HUB_HOST)),
            _ => found,
        }
    }

    /// The configuration for a host as it is dialled.
    pub(super) fn config_for(&self, origin: &Origin) -> Option<&HostConfig> {
        self.config(&origin.authority())
            .or_else(|| self.config(&format!("{}:{}", origin.host, origin.port)))
    }
}

impl RawMirror {
    fn check(self, name: &str) -> Result<Vec<Endpoint>, Error> {
        if self.rewrite.is_some_and(|rewrite| !rewrite.is_empty()) {
            return Err(fail(
                format!("mirrors.{name}.rewrite"),
                "rewriting image names is not supported",
            ));
        }
        let endpoints = self.endpoint.unwrap_or_default();
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(fail(
                format!("mirrors.{name}.endpoint"),
                format!("more than {ENDPOINTS_MAX} endpoints"),
            ));
        }
        let field = |at: usize| format!("mirrors.{name}.endpoint[{at}]");
        endpoints
            .iter()
            .enumerate()
            .map(|(at, url)| parse_endpoint(url).map_err(|reason| fail(field(at), reason)))
            .collect()
    }
}

impl RawConfig {
    fn check(self, host: &str) -> Result<HostConfig, Error> {
        let field = |name: &str| format!("configs.{host}.{name}");
        let auth = match self.auth {
            Some(auth) => auth.check().map_err(|reason| fail(field("auth"), reason))?,
            None => None,
        };
        if let Some(tls) = &self.tls
            && tls.cert_file.is_some() != tls.key_file.is_some()
        {
            return Err(fail(field("tls"), "cert_file and key_file must be set together"));
        }
        Ok(HostConfig { auth, tls: self.tls })
    }
}

impl RawAuth {
    fn check(self) -> Result<Option<Auth>, &'static str> {
        if let Some(token) = self.identity_token.filter(|token| !token.is_empty()) {
            return Ok(Some(Auth::IdentityToken(token)));
        }
        if let Some(encoded) = self.auth.filter(|auth| !auth.is_empty()) {
            return decode_basic(&encoded)
                .map(Some)
                .ok_or("auth is not base64 of username:password");
        }
        match (self.username, self.password) {
            (None, None) => Ok(None),
            (Some(username), Some(password)) => Ok(Some(Auth::Basic { username, password })),
            _ => Err("username and password must be set together"),
        }
    }
}

/// Splits base64 of `username:password`, as Docker's configuration has it.
pub(super) fn decode_basic(encoded: &str) -> Option<Auth> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Auth::Basic {
        username: username.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
    })
}

fn parse_endpoint(url: &str) -> Result<Endpoint, String> {
    let (origin, path) = Origin::parse_url(url)?;
    if path.contains(['?', '#']) {
        return Err(format!("{url:?} must not have a query"));
    }
    let root = match path.trim_end_matches('/') {
        "" => API_ROOT.to_owned(),
        path => path.to_owned(),
    };
    Ok(Endpoint { origin, root, mirror_of: None })
}

/// Keys may be written as a URL.
fn host_key(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

fn fail(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Registries { field: field.into(), reason: reason.into() }
}
