//! What a certificate says, and whether an authority said it.

use crate::{Error, tls};
use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;

/// The content of a certificate, without any judgement of its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// Alternative names, sorted; addresses as text.
    pub names: Vec<String>,
    /// Seconds since 1970 at which it ends.
    pub not_after: i64,
    /// The subject's public key as DER.
    pub public_key: Vec<u8>,
    der: Vec<u8>,
}

impl Facts {
    /// Reads the first certificate of a PEM text.
    pub fn of_pem(pem: &str) -> Result<Self, Error> {
        Self::of_der(&tls::first_certificate(pem)?)
    }

    pub fn of_der(der: &[u8]) -> Result<Self, Error> {
        let broken = |why: String| Error::Malformed { what: "certificate".into(), why };
        let (_, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|e| broken(e.to_string()))?;
        let peer =
            tls::peer_identity(der).ok_or_else(|| broken("it has no common name".to_owned()))?;
        Ok(Self {
            common_name: peer.common_name,
            organizations: peer.organizations,
            names: names_of(&parsed),
            not_after: parsed.validity().not_after.timestamp(),
            public_key: parsed.public_key().raw.to_vec(),
            der: der.to_vec(),
        })
    }

    /// Whether the authority signed this certificate. Its time is not looked at.
    pub fn issued_by(&self, authority_pem: &str) -> bool {
        let Ok(authority) = tls::first_certificate(authority_pem) else { return false };
        let (Ok((_, leaf)), Ok((_, authority))) = (
            x509_parser::parse_x509_certificate(&self.der),
            x509_parser::parse_x509_certificate(&authority),
        ) else {
            return false;
        };
        leaf.issuer().as_raw() == authority.subject().as_raw() && signed_by(&leaf, &authority)
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let names = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = names
        .iter()
        .flat_map(|e| &e.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(|ip| ip.to_string()),
            _ => None,
        })
        .collect();
    names.sort();
    names
}

/// Checks an ECDSA P-256 signature with ring; x509-parser's own check would need a second crypto feature.
fn signed_by(certificate: &X509Certificate<'_>, authority: &X509Certificate<'_>) -> bool {
    let key = &authority.public_key().subject_public_key.data;
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, key)
        .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .is_ok()
}
