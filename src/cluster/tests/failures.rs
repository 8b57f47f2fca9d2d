//! What errors of TLS mean, and that every refusal says what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error as Tls};

use crate::agent::{Failure, failure_of};
use crate::{Error, Refusal};

fn meaning(error: Tls) -> &'static str {
    match failure_of(&io::Error::new(io::ErrorKind::InvalidData, error)) {
        Failure::Unreachable(_) => "unreachable",
        Failure::Untrusted(_) => "untrusted",
        Failure::Clock(_) => "clock",
        Failure::OwnCertificate(_) => "own certificate",
        Failure::NotAServer(_) => "not a server",
    }
}

#[test]
fn tls_errors_have_meanings() {
    let of = |error: CertificateError| meaning(Tls::InvalidCertificate(error));
    assert_eq!(of(CertificateError::Expired), "clock");
    assert_eq!(of(CertificateError::NotValidYet), "clock");
    assert_eq!(of(CertificateError::UnknownIssuer), "untrusted");
    assert_eq!(of(CertificateError::BadSignature), "untrusted");
    assert_eq!(of(CertificateError::NotValidForName), "untrusted");
    let alert = |alert: AlertDescription| meaning(Tls::AlertReceived(alert));
    assert_eq!(alert(AlertDescription::CertificateExpired), "own certificate");
    assert_eq!(alert(AlertDescription::UnknownCA), "own certificate");
    assert_eq!(alert(AlertDescription::DecryptError), "own certificate");
    assert_eq!(alert(AlertDescription::InternalError), "unreachable");
    let garbage = Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    assert_eq!(meaning(garbage), "not a server");
    let plain = io::Error::from(io::ErrorKind::ConnectionRefused);
    assert!(matches!(failure_of(&plain), Failure::Unreachable(_)));
}

#[test]
fn every_refusal_says_what_to_do() {
    let server = || "https://s:6443".to_owned();
    let why = || "because".to_owned();
    let table = [
        (Refusal::Unreachable { server: server(), why: why() }, "check that the server runs", true),
        (
            Refusal::WrongAuthority { server: server(), found: "a".into(), wanted: "b".into() },
            "take the token from DATA/server/token of the right server",
            false,
        ),
        (Refusal::Unproven { server: server(), why: why() }, "add it there with --tls-san", false),
        (
            Refusal::Clock { server: server(), now: "1970".into(), why: why() },
            "set this machine's clock",
            false,
        ),
        (Refusal::WrongToken { server: server(), why: why() }, "copepod token create", false),
        (Refusal::NoToken, "give --token, --token-file or COPEPOD_TOKEN", false),
        (Refusal::Expired { server: server(), why: why() }, "give a token with --token", false),
        (Refusal::NotAServer { server: server(), why: why() }, "check --server", false),
        (
            Refusal::OtherCluster { found: "a".into(), wanted: "b".into(), folder: "/d".into() },
            "remove /d",
            false,
        ),
        (Refusal::Setup(Error::ServerUrl("x".into())), "expected https://HOST[:PORT]", false),
    ];
    for (refusal, advice, temporary) in table {
        let text = refusal.to_string();
        assert!(text.contains(advice), "{text}");
        assert_eq!(refusal.is_temporary(), temporary, "{text}");
    }
    let answer =
        |code: u16| Refusal::Answer { server: server(), path: "/".into(), code, message: why() };
    assert!(answer(503).is_temporary() && answer(429).is_temporary());
    assert!(!answer(400).is_temporary());
}
