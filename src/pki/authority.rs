//! A certificate authority: made or loaded, it issues server and client certificates and signs requests.

use crate::{Error, files};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateSigningRequestDer;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Boards without a battery start in 1970. Certificates begin here and never "expire before" it, whatever the clock says.
pub(crate) const EPOCH_FLOOR: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

pub(crate) const DAY: i64 = 24 * 3600;
const AUTHORITY_SECONDS: i64 = 3650 * DAY;

/// A certificate chain and its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// Who a certificate is for.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    pub common_name: String,
    /// One at most: upstream reads it as the group, and the certificates made here need a single one.
    pub organization: Option<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
}

/// What to issue: the subject, what it may be used for, and for how long.
#[derive(Clone, Debug)]
pub struct Request {
    pub subject: Subject,
    pub server: bool,
    pub client: bool,
    /// How long the certificate lives.
    pub seconds: i64,
}

/// A P-256 authority with its private key.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new self-signed authority.
    pub fn create(common_name: &str, now: i64) -> Result<Self, Error> {
        let key = generate()?;
        let mut params = params(
            &Subject { common_name: common_name.into(), ..Default::default() },
            now,
            AUTHORITY_SECONDS,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let certificate =
            params.self_signed(&key).map_err(failed("make the authority's certificate"))?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Takes an authority from its certificate and key in PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let pair = KeyPair::from_pem(key).map_err(failed("read the authority's key"))?;
        let spki = certificate_key(certificate)?;
        if !spki.ends_with(pair.public_key_raw()) {
            return Err(Error::Malformed {
                what: "authority".into(),
                why: "certificate and key do not belong together".into(),
            });
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, pair)
            .map_err(failed("read the authority's certificate"))?;
        Ok(Self { certificate: certificate.into(), key: key.into(), issuer })
    }

    /// Loads `<name>.crt` and `<name>.key` below `dir`, or makes and writes them. A lone or broken half is an error:
    /// replacing it would silently cut off every node that trusts the authority.
    pub fn ensure(dir: &Path, name: &str, common_name: &str, now: i64) -> Result<Self, Error> {
        let (crt, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        match (files::read_private(&crt)?, files::read_private(&key)?) {
            (Some(c), Some(k)) => Self::from_pem(&c, &k).map_err(|e| Error::Malformed {
                what: format!("{} with its key", crt.display()),
                why: e.to_string(),
            }),
            (Some(_), None) => Err(Error::Malformed {
                what: key.display().to_string(),
                why: "the key is missing though its certificate exists".into(),
            }),
            // The key is written first, so a key without certificate is a first start that was cut off.
            (None, _) => {
                let made = Self::create(common_name, now)?;
                files::write_private(&key, made.key.as_bytes())?;
                files::write_public(&crt, made.certificate.as_bytes())?;
                Ok(made)
            }
        }
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// Issues a certificate for a fresh key.
    pub fn issue(&self, request: &Request, now: i64) -> Result<Identity, Error> {
        let key = generate()?;
        let certificate = leaf_params(request, now)?
            .signed_by(&key, &self.issuer)
            .map_err(failed("issue a certificate"))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs the public key of a certificate signing request (DER), whose own signature is checked. Everything else in
    /// the certificate comes from `request`: a node must not choose its own name or rights.
    pub fn sign(&self, csr: &[u8], request: &Request, now: i64) -> Result<String, Error> {
        let mut csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(failed("read the signing request"))?;
        csr.params = leaf_params(request, now)?;
        Ok(csr.signed_by(&self.issuer).map_err(failed("sign the request"))?.pem())
    }
}

/// A new P-256 key as PKCS#8 PEM.
pub fn new_key() -> Result<String, Error> {
    Ok(generate()?.serialize_pem())
}

/// A certificate signing request (DER) for a key in PEM, without a wish for any name: the signer decides.
pub fn signing_request(key_pem: &str) -> Result<Vec<u8>, Error> {
    let key = KeyPair::from_pem(key_pem).map_err(failed("read the key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed("make a signing request"))?;
    Ok(request.der().to_vec())
}

/// The public key a signing request is for, after its signature was checked.
pub fn requested_key(csr: &[u8]) -> Result<Vec<u8>, Error> {
    use rcgen::PublicKeyData;
    let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
        .map_err(failed("read the signing request"))?;
    Ok(csr.public_key.der_bytes().to_vec())
}

fn leaf_params(request: &Request, now: i64) -> Result<CertificateParams, Error> {
    let mut params = params(&request.subject, now, request.seconds)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if request.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if request.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn generate() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a key"))
}

fn failed(doing: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |source| Error::Certificate { doing, source }
}

fn params(subject: &Subject, now: i64, lifetime: i64) -> Result<CertificateParams, Error> {
    let mut params =
        CertificateParams::new(subject.dns_names.clone()).map_err(failed("use the dns names"))?;
    params.subject_alt_names.extend(subject.ips.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = &subject.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, subject.common_name.as_str());
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    params.not_before = at(EPOCH_FLOOR);
    params.not_after = at(now.max(EPOCH_FLOOR) + lifetime);
    Ok(params)
}

fn certificate_key(pem: &str) -> Result<Vec<u8>, Error> {
    let der = crate::tls::first_certificate(pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|e| Error::Malformed { what: "certificate".into(), why: e.to_string() })?;
    Ok(parsed.public_key().raw.to_vec())
}
