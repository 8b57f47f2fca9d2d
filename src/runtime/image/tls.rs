//! TLS settings per registry: public CAs, extra CA files, client certificates, and verification switched off where the
//! configuration says so.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::http::Origin;
use super::registries::{Registries, Tls};

/// Builds configurations on first use and keeps them for the pull.
pub(super) struct TlsConfigs {
    registries: Arc<Registries>,
    known: Mutex<HashMap<Origin, Arc<ClientConfig>>>,
}

impl TlsConfigs {
    pub(super) fn new(registries: Arc<Registries>) -> Self {
        Self { registries, known: Mutex::new(HashMap::new()) }
    }

    pub(super) fn for_origin(&self, origin: &Origin) -> Result<Arc<ClientConfig>, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(origin) {
            return Ok(config.clone());
        }
        let tls = self
            .registries
            .config_for(origin)
            .and_then(|config| config.tls.clone())
            .unwrap_or_default();
        let config = Arc::new(self.make(&tls)?);
        known.insert(origin.clone(), config.clone());
        Ok(config)
    }

    fn make(&self, tls: &Tls) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = if tls.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::AnyServer(provider)))
        } else {
            builder.with_root_certificates(self.roots(tls)?)
        };
        match (&tls.cert_file, &tls.key_file) {
            (Some(cert), Some(key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("key_file {}: {error}", key.display()))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, key_der)
                    .map_err(|error| format!("cert_file {}: {error}", cert.display()))
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }

    fn roots(&self, tls: &Tls) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for path in self.registries.extra_ca_files.iter().chain(&tls.ca_file) {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("ca_file {}: {error}", path.display()))?;
            }
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |error: rustls::pki_types::pem::Error| {
        format!("certificate file {}: {error}", path.display())
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(fail)?
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    if certificates.is_empty() {
        return Err(format!("certificate file {}: it holds no certificate", path.display()));
    }
    Ok(certificates)
}
