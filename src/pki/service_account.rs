//! Service-account tokens: JWTs signed with ES256, in the claims upstream's bound tokens carry.

use crate::{Error, files};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Longer bearer tokens are refused unread.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Clocks of small boards drift; a token is taken this many seconds before its time.
const NOT_BEFORE_LEEWAY: i64 = 300;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default)]
    pub aud: Vec<String>,
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

/// What a token is bound to: it dies with any of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    pub serviceaccount: Bound,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

/// The key pair that signs and checks service-account tokens.
pub struct ServiceAccountKeys {
    pair: EcdsaKeyPair,
    key_id: String,
    issuer: String,
    random: SystemRandom,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl ServiceAccountKeys {
    /// Takes a P-256 key in PKCS#8 PEM; `issuer` is the URL in `iss`, which is the default audience too.
    pub fn from_pem(pem: &str, issuer: &str) -> Result<Self, Error> {
        let broken = |why: String| Error::Malformed { what: "service-account key".into(), why };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| broken(e.to_string()))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            der.secret_pkcs8_der(),
            &random,
        )
        .map_err(|e| broken(e.to_string()))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(Self { key_id: B64.encode(digest), pair, issuer: issuer.into(), random })
    }

    pub(crate) fn ensure(path: &Path, issuer: &str) -> Result<Self, Error> {
        if let Some(pem) = files::read_private(path)? {
            return Self::from_pem(&pem, issuer);
        }
        let key =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|source| {
                Error::Certificate { doing: "make the service-account key", source }
            })?;
        let pem = key.serialize_pem();
        files::write_private(path, pem.as_bytes())?;
        Self::from_pem(&pem, issuer)
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn issue(&self, claims: &Claims) -> Result<String, Error> {
        let header = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, self.key_id);
        let body = serde_json::to_vec(claims)
            .map_err(|e| Error::Malformed { what: "claims".into(), why: e.to_string() })?;
        let mut token = format!("{}.{}", B64.encode(header), B64.encode(body));
        let signature =
            self.pair.sign(&self.random, token.as_bytes()).map_err(|_| Error::Random)?;
        token.push('.');
        token.push_str(&B64.encode(signature));
        Ok(token)
    }

    /// Checks signature, issuer, times and audience; an empty `audiences` takes the issuer's own. Whether the account
    /// still exists is the caller's to ask.
    pub fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Claims, Error> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::Token("it is too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::Token("it is not a jwt"))?;
        let (header, body) = signed.split_once('.').ok_or(Error::Token("it is not a jwt"))?;
        let header: Header = part(header)?;
        if header.alg != "ES256" || header.kid != self.key_id {
            return Err(Error::Token("it was signed with another key"));
        }
        let signature =
            B64.decode(signature).map_err(|_| Error::Token("its signature is not base64"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Error::Token("its signature is wrong"))?;
        let claims: Claims = part(body)?;
        if claims.iss != self.issuer {
            return Err(Error::Token("another issuer made it"));
        }
        if claims.exp <= now {
            return Err(Error::Token("it has expired"));
        }
        if claims.nbf > now + NOT_BEFORE_LEEWAY {
            return Err(Error::Token("it is not valid yet"));
        }
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        if !claims.aud.iter().any(|a| wanted.contains(a)) {
            return Err(Error::Token("it is meant for another audience"));
        }
        Ok(claims)
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks(&self) -> serde_json::Value {
        // An uncompressed P-256 point is 0x04, x, y with 32 bytes each.
        let point = self.pair.public_key().as_ref();
        let half = |from: usize| B64.encode(point.get(from..from + 32).unwrap_or_default());
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": half(1), "y": half(33),
        }]})
    }
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
    let bytes = B64.decode(text).map_err(|_| Error::Token("it is not base64"))?;
    serde_json::from_slice(&bytes).map_err(|_| Error::Token("its content is not as expected"))
}
