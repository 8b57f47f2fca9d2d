//! What the files hold, when they are kept, and which tokens are refused.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const NOW: i64 = 1_795_000_000;

fn names() -> ServerNames {
    ServerNames {
        node_name: "board-1".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: [10, 43, 0, 1].into(),
        ips: vec![[192, 168, 1, 5].into()],
        extra: vec!["copepod.example".into(), "203.0.113.9".into()],
        leaf_seconds: LEAF_SECONDS,
    }
}

fn scratch(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("copepod-pki-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

fn claims(keys: &ServiceAccountKeys) -> Claims {
    Claims {
        aud: vec![keys.issuer().into()],
        exp: NOW + 3600,
        iat: NOW,
        nbf: NOW,
        iss: keys.issuer().into(),
        jti: "1".into(),
        kubernetes: KubernetesClaims {
            namespace: "default".into(),
            node: None,
            pod: Some(Bound { name: "p".into(), uid: "u".into() }),
            secret: None,
            serviceaccount: Bound { name: "builder".into(), uid: "x".into() },
            warnafter: None,
        },
        sub: "system:serviceaccount:default:builder".into(),
    }
}

#[test]
fn files_are_private_kept_and_renewed() {
    let dir = scratch("ensure");
    let first = ensure(&dir, &names(), NOW).expect("first start");
    for entry in std::fs::read_dir(&dir).expect("list") {
        let path = entry.expect("entry").path();
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
        let wanted = if path.extension().is_some_and(|e| e == "key") { 0o600 } else { 0o644 };
        assert_eq!(mode, wanted, "{}", path.display());
    }
    let again = ensure(&dir, &names(), NOW + 1000).expect("second start");
    assert_eq!(first.server.certificate, again.server.certificate);
    assert_eq!(first.admin.key, again.admin.key);

    let mut moved = names();
    moved.ips = vec![[192, 168, 1, 77].into()];
    let after_move = ensure(&dir, &moved, NOW).expect("start with another address");
    assert_ne!(first.server.certificate, after_move.server.certificate);
    assert_eq!(first.admin.certificate, after_move.admin.certificate);
    assert_eq!(
        first.server_authority.certificate_pem(),
        after_move.server_authority.certificate_pem()
    );

    let old = ensure(&dir, &moved, NOW + 300 * 24 * 3600).expect("start after 300 days");
    assert_ne!(after_move.admin.certificate, old.admin.certificate);
    std::fs::remove_dir_all(&dir).expect("clean up");
}

#[test]
fn a_lone_authority_certificate_is_refused() {
    let dir = scratch("lone");
    ensure(&dir, &names(), NOW).expect("first start");
    std::fs::remove_file(dir.join("client-ca.key")).expect("remove");
    let error = ensure(&dir, &names(), NOW).err().expect("must fail").to_string();
    assert!(error.contains("client-ca.key is not usable: the key is missing"), "{error}");
    std::fs::remove_dir_all(&dir).expect("clean up");
}

#[test]
fn client_certificates_name_user_and_group() {
    let dir = scratch("names");
    let pki = ensure(&dir, &names(), NOW).expect("start");
    let peer = |identity: &Identity| {
        peer_identity(&tls::first_certificate(&identity.certificate).expect("pem")).expect("names")
    };
    assert_eq!(peer(&pki.admin).common_name, "system:admin");
    assert_eq!(peer(&pki.admin).organizations, ["system:masters"]);
    assert_eq!(peer(&pki.kubelet).common_name, "system:node:board-1");
    assert_eq!(peer(&pki.kubelet).organizations, ["system:nodes"]);
    assert!(peer(&pki.scheduler).organizations.is_empty());
    server_config(&pki.server, pki.client_authority.certificate_pem()).expect("tls configuration");
    std::fs::remove_dir_all(&dir).expect("clean up");
}

#[test]
fn signing_requests_give_no_rights() {
    let authority = Authority::create("ca", NOW).expect("authority");
    let key = rcgen::KeyPair::generate().expect("key");
    let mut wish = rcgen::CertificateParams::new(vec!["evil.example".into()]).expect("params");
    wish.distinguished_name.push(rcgen::DnType::CommonName, "system:admin");
    let csr = wish.serialize_request(&key).expect("csr").der().to_vec();
    let subject = Subject { common_name: "system:node:a".into(), ..Default::default() };
    let request = Request { subject, server: false, client: true, seconds: 86400 };
    let signed = authority.sign(&csr, &request, NOW).expect("signed");
    let peer = peer_identity(&tls::first_certificate(&signed).expect("pem")).expect("names");
    assert_eq!(peer.common_name, "system:node:a");
    assert!(authority.sign(b"nonsense", &request, NOW).is_err());
}

#[test]
fn service_account_tokens() {
    let dir = scratch("tokens");
    let pki = ensure(&dir, &names(), NOW).expect("start");
    let keys = &pki.service_account;
    let token = keys.issue(&claims(keys)).expect("token");
    assert_eq!(keys.verify(&token, &[], NOW).expect("valid"), claims(keys));
    let refused = |token: &str, audiences: &[String], now: i64| {
        keys.verify(token, audiences, now).expect_err("must be refused").to_string()
    };
    assert_eq!(refused(&token, &[], NOW + 3600), "token refused: it has expired");
    assert_eq!(refused(&token, &[], NOW - 1000), "token refused: it is not valid yet");
    assert_eq!(
        refused(&token, &["vault".into()], NOW),
        "token refused: it is meant for another audience"
    );
    let other = ensure(&scratch("other"), &names(), NOW).expect("other cluster");
    let foreign = other.service_account.issue(&claims(keys)).expect("token");
    assert_eq!(refused(&foreign, &[], NOW), "token refused: it was signed with another key");
    let mut parts: Vec<&str> = token.split('.').collect();
    let forged = serde_json::to_vec(&Claims {
        sub: "system:serviceaccount:kube-system:root".into(),
        ..claims(keys)
    });
    let forged = base64::Engine::encode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        forged.expect("json"),
    );
    parts[1] = &forged;
    assert_eq!(refused(&parts.join("."), &[], NOW), "token refused: its signature is wrong");
    for nonsense in ["", ".", "..", "a.b.c", "\u{0}.é.x", &"a".repeat(100_000)] {
        assert!(keys.verify(nonsense, &[], NOW).is_err(), "{nonsense:?}");
    }
    assert_eq!(keys.jwks()["keys"][0]["crv"], "P-256");
    std::fs::remove_dir_all(&dir).expect("clean up");
    std::fs::remove_dir_all(&other.directory).expect("clean up");
}

#[test]
fn join_tokens() {
    let token = JoinToken::new("pem", "server", "pa:ss");
    let text = token.to_string();
    assert!(text.starts_with("K10") && text.ends_with("::server:pa:ss"), "{text}");
    let parsed = JoinToken::parse(&text).expect("own token");
    assert!(parsed == token && parsed.trusts("pem") && !parsed.trusts("other"));
    let short = JoinToken::parse("secret\n").expect("short token");
    assert!(short.password() == Some("secret") && short.trusts("anything"));
    let made = BootstrapToken::random().expect("random");
    let full = JoinToken::bootstrap("pem", made.clone()).to_string();
    assert!(JoinToken::parse(&full).expect("full").secret == JoinSecret::Bootstrap(made.clone()));
    let short = JoinToken::parse(&made.to_string()).expect("short");
    assert!(short.secret == JoinSecret::Bootstrap(made) && short.authority_hash.is_none());
    for broken in ["", "K10zz::a:b", "K10::", "a::b", "two words"] {
        assert!(JoinToken::parse(broken).is_err(), "{broken:?}");
    }
    let path = scratch("join").join("token");
    let made = ensure_token(&path, "pem", "server", None).expect("made");
    assert!(ensure_token(&path, "pem", "server", None).expect("kept") == made);
    let own = ensure_token(&path, "pem", "server", Some("mine")).expect("own");
    assert_eq!(own.password(), Some("mine"));
    assert!(ensure_token(&path, "pem", "server", Some("abcdef.0123456789abcdef")).is_err());
    std::fs::remove_dir_all(path.parent().expect("parent")).expect("clean up");
}

#[test]
fn kubeconfig_text() {
    let text = kubeconfig("https://127.0.0.1:6443", "PEM", &Credentials::Token("abc"));
    assert!(text.contains(
        "certificate-authority-data: UEVN\n    server: https://127.0.0.1:6443\n  name: default\n"
    ));
    assert!(text.ends_with("users:\n- name: default\n  user:\n    token: abc\n"), "{text}");
    let path = scratch("kubeconfig").join("sub/config.yaml");
    write_kubeconfig(&path, "https://x", "PEM", &Credentials::Token("abc"), 0o600)
        .expect("written");
    assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
    std::fs::remove_dir_all(path.parent().and_then(Path::parent).expect("parent"))
        .expect("clean up");
}

#[test]
fn passwords_are_kept_as_slow_hashes() {
    let kept = hash_password("0123").expect("hash");
    assert!(kept.starts_with("$2:") && !kept.contains("0123:"), "{kept}");
    assert!(password_matches("0123", &kept) && !password_matches("0124", &kept));
    assert_ne!(kept, hash_password("0123").expect("hash"));
    for broken in ["", "$2:a:b:c", "$2:a:0:AAAA", "$2:a:4000000000:AAAA", "$1:a:1:AAAA"] {
        assert!(!password_matches("0123", broken), "{broken}");
    }
}

#[test]
fn a_signing_request_is_for_its_key() {
    let authority = Authority::create("ca", NOW).expect("authority");
    let other = Authority::create("ca", NOW).expect("authority");
    let key = new_key().expect("key");
    let csr = signing_request(&key).expect("csr");
    let subject = Subject { common_name: "system:node:a".into(), ..Default::default() };
    let request = Request { subject, server: false, client: true, seconds: 60 };
    let facts =
        Facts::of_pem(&authority.sign(&csr, &request, NOW).expect("signed")).expect("facts");
    assert_eq!((facts.common_name.as_str(), facts.not_after), ("system:node:a", NOW + 60));
    assert!(facts.public_key.ends_with(&requested_key(&csr).expect("key")));
    assert!(
        facts.issued_by(authority.certificate_pem()) && !facts.issued_by(other.certificate_pem())
    );
    let mut forged = csr;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(requested_key(&forged).is_err());
}
