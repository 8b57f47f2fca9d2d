//! The TLS configurations of both sides, and who a client certificate names.

use crate::authority::EPOCH_FLOOR;
use crate::{AnyServer, Error, Identity};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Who a verified client certificate names: the common name is the user, the organizations are the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// The time by which certificates are judged: a clock that is before every certificate of ours is not believed, since a
/// board without a battery starts in 1970.
#[derive(Debug)]
struct FlooredTime;

impl TimeProvider for FlooredTime {
    fn current_time(&self) -> Option<UnixTime> {
        let floor = Duration::from_secs(EPOCH_FLOOR.unsigned_abs());
        let now = Duration::from_secs(UnixTime::now().as_secs());
        Some(UnixTime::since_unix_epoch(now.max(floor)))
    }
}

/// The certificate a server shows; it can be replaced while connections are made.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    pub fn new(identity: &Identity) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { current: RwLock::new(Arc::new(certified(identity)?)) }))
    }

    /// New connections see this certificate from now on.
    pub fn replace(&self, identity: &Identity) -> Result<(), Error> {
        let next = Arc::new(certified(identity)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// A server configuration that asks for client certificates of `client_authority` but lets a client go without.
pub fn server_config(
    identity: &Identity,
    client_authority_pem: &str,
) -> Result<Arc<ServerConfig>, Error> {
    server_config_of(ServingCertificate::new(identity)?, client_authority_pem)
}

/// As [`server_config`], with a certificate that can be replaced.
pub fn server_config_of(
    certificate: Arc<ServingCertificate>,
    client_authority_pem: &str,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let roots = Arc::new(roots(client_authority_pem)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Malformed { what: "client authority".into(), why: e.to_string() })?;
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(FlooredTime))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client configuration that trusts `authority_pem` alone and proves itself by `identity`, if there is one. The caller
/// says which protocols it speaks in `alpn_protocols`.
pub fn client_config(
    authority_pem: &str,
    identity: Option<&Identity>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(FlooredTime))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authority_pem)?);
    match identity {
        Some(identity) => {
            Ok(builder
                .with_client_auth_cert(certificates(&identity.certificate)?, key(identity)?)?)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// A client configuration that believes any server: for fetching the authority that a token's hash then judges, and for
/// asking only whether a server answers.
pub fn unverified_client_config() -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(AnyServer(provider.clone()));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(Error::Malformed {
            what: "authority".into(),
            why: "it holds no certificate".into(),
        });
    }
    Ok(roots)
}

fn key(identity: &Identity) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|e| Error::Malformed { what: "private key".into(), why: e.to_string() })
}

fn certified(identity: &Identity) -> Result<CertifiedKey, Error> {
    let chain = certificates(&identity.certificate)?;
    Ok(CertifiedKey::from_der(chain, key(identity)?, &provider())?)
}

/// The names inside a certificate (DER) that TLS has verified already; `None` if it has no common name.
pub fn peer_identity(der: &[u8]) -> Option<PeerIdentity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some(PeerIdentity { common_name, organizations })
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::Malformed { what: "certificate".into(), why: e.to_string() })
}

pub(crate) fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| Error::Malformed { what: "certificate".into(), why: e.to_string() })
}
