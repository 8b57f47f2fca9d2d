//! Pulls from a registry that misbehaves on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use super::fake::{Fake, Reply, noise, plain_registry, range};
use super::fixture::{Fixture, host_platform, index};
use super::tarball::{gzip, layer};
use crate::image::digest::Digest;
use crate::image::registries::Registries;
use crate::image::{Auth, Image, ImageStore, PullOptions};

fn big() -> Fixture {
    Fixture::new(&[layer(&[("big", &noise(400_000))]), layer(&[("small", "2")])], gzip)
}

pub(super) fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    (directory, store)
}

fn options(text: &str, auth: Option<Auth>) -> PullOptions {
    PullOptions { auth, registries: Arc::new(Registries::parse(text).unwrap()), platform: None }
}

fn basic() -> Option<Auth> {
    Some(Auth::Basic { username: "u".into(), password: "p:w".into() })
}

/// What a failed pull had begun is removed by its worker, a moment later.
async fn wait_until_empty(path: &std::path::Path) {
    for _ in 0..200 {
        if fs::read_dir(path).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} still holds something", path.display());
}

fn assert_big(image: &Image) {
    assert_eq!(fs::read_to_string(image.layers[1].join("big")).unwrap().len(), 400_000);
    assert_eq!(fs::read_to_string(image.layers[0].join("small")).unwrap(), "2");
}

#[tokio::test]
async fn broken_downloads_are_resumed() {
    for honours_range in [true, false] {
        let image = big();
        let (inner, times) = (plain_registry(&image), Mutex::new(0));
        let fake = Fake::start(move |seen| {
            let mut seen = seen.clone();
            if !honours_range {
                seen.headers.remove("range");
            }
            let mut reply = inner(&seen);
            if reply.body.len() > 10_000 {
                let mut times = times.lock().unwrap();
                *times += 1;
                let sent = if honours_range { 100_000 } else { 100_000 * *times };
                reply.cut = Some(sent).filter(|cut| *cut < reply.body.len());
            }
            reply
        })
        .await;
        let (_directory, store) = store();
        let pulled = store.pull(&fake.image("app:1"), PullOptions::default()).await.unwrap();
        assert_big(&pulled);
        let ranges: Vec<_> = fake.seen().iter().filter_map(range).collect();
        assert!(ranges.len() >= 3 && ranges.is_sorted(), "{ranges:?}");
    }
}

#[tokio::test]
async fn a_download_that_never_gets_on_is_given_up() {
    let image = big();
    let inner = plain_registry(&image);
    let fake = Fake::start(move |seen| {
        let mut reply = inner(seen);
        if reply.body.len() > 10_000 {
            reply.cut = Some(if range(seen).is_none() { 5000 } else { 0 });
        }
        reply
    })
    .await;
    let (directory, store) = store();
    let error = store.pull(&fake.image("app:1"), PullOptions::default()).await.unwrap_err();
    assert!(
        error.to_string().contains("failed to do request: Get \"http://") && error.is_unavailable(),
        "{error}"
    );
    wait_until_empty(&directory.path().join("tmp")).await;
    for name in ["images", "blobs"] {
        assert_eq!(fs::read_dir(directory.path().join(name)).unwrap().count(), 0, "{name}");
    }
    // The small layer may stay until the next collection.
    store.inner.collect().unwrap();
    assert_eq!(fs::read_dir(directory.path().join("layers")).unwrap().count(), 0);
}

#[tokio::test]
async fn equal_pulls_share_a_download() {
    let image = big();
    let fake = Fake::start(plain_registry(&image)).await;
    let (_directory, store) = store();
    let name = fake.image("app:1");
    let pulls = (0..10).map(|_| store.pull(&name, PullOptions::default()));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_big(&pulled.unwrap());
    }
    let paths: Vec<_> = fake.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    // Later ones only ask whether the tag still means the same.
    store.pull(&name, PullOptions::default()).await.unwrap();
    let later: Vec<_> = fake.seen()[4..].iter().map(|seen| seen.path.clone()).collect();
    assert!(
        !later
            .iter()
            .any(|path| image.layers.iter().any(|layer| path.ends_with(Digest::of(layer).hex()))),
        "{later:?}"
    );
}

#[tokio::test]
async fn a_pull_given_up_leaves_nothing_running() {
    let image = big();
    let fake = Fake::start(plain_registry(&image)).await;
    let (directory, store) = store();
    let name = fake.image("app:1");
    let pull = store.pull(&name, PullOptions::default());
    drop(tokio::time::timeout(std::time::Duration::from_millis(5), pull).await);
    assert_big(&store.pull(&name, PullOptions::default()).await.unwrap());
    assert_eq!(fs::read_dir(directory.path().join("layers")).unwrap().count(), 2);
}

#[tokio::test]
async fn credentials_stay_with_their_registry() {
    let image = big();
    let blobs = plain_registry(&image);
    let elsewhere = Fake::start(blobs).await;
    let target = elsewhere.address;
    let inner = plain_registry(&image);
    let fake = Fake::start(move |seen| match seen.header("authorization") {
        None => Reply::status(401).with("www-authenticate", "Basic realm=\"x\""),
        Some("Basic dTpwOnc=") if seen.path.contains("/blobs/") => {
            Reply::status(307).with("location", format!("http://{target}{}", seen.path))
        }
        Some("Basic dTpwOnc=") => inner(seen),
        Some(_) => Reply::status(403),
    })
    .await;
    let (_directory, store) = store();
    assert_big(&store.pull(&fake.image("app:1"), options("", basic())).await.unwrap());
    assert!(
        !elsewhere.seen().is_empty()
            && elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none())
    );

    let error =
        store.pull(&fake.image("app:1"), PullOptions::default()).await.unwrap_err().to_string();
    let name = fake.image("app:1");
    assert_eq!(
        error,
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials"
        )
    );
}

#[tokio::test]
async fn tokens_are_fetched_and_renewed() {
    for (auth, expected) in [(None, None), (basic(), Some("Basic dTpwOnc="))] {
        let issued = Arc::new(Mutex::new(0));
        let count = issued.clone();
        let service = Fake::start(move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            Reply::ok(format!(r#"{{"token":"t{count}","expires_in":60}}"#).as_bytes())
        })
        .await;
        let image = big();
        let (inner, realm, uses) =
            (plain_registry(&image), service.address, Mutex::new(BTreeMap::new()));
        // Every token is good for two requests.
        let fake = Fake::start(move |seen| {
            let mut uses = uses.lock().unwrap();
            if let Some(token) = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer t")) {
                let used = uses.entry(token.to_owned()).or_insert(0);
                *used += 1;
                if *used <= 2 {
                    return inner(seen);
                }
            }
            let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"my registry\",scope=\"repository:app:pull\"");
            Reply::status(401).with("www-authenticate", challenge)
        })
        .await;
        let (_directory, store) = store();
        assert_big(&store.pull(&fake.image("app:1"), options("", auth)).await.unwrap());
        let asked = service.seen();
        assert!(asked.len() >= 2);
        assert!(
            asked
                .iter()
                .all(|seen| seen.path == "/token?service=my%20registry&scope=repository:app:pull"),
            "{asked:?}"
        );
        assert!(asked.iter().all(|seen| seen.header("authorization") == expected));
    }
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let service = Fake::start(|_| Reply::ok(br#"{"access_token":"granted"}"#)).await;
    let image = big();
    let (inner, realm) = (plain_registry(&image), service.address);
    let fake = Fake::start(move |seen| match seen.header("authorization") {
        Some("Bearer granted") => inner(seen),
        _ => Reply::status(401)
            .with("www-authenticate", format!("Bearer realm=\"http://{realm}/t\",service=\"s\"")),
    })
    .await;
    let (_directory, store) = store();
    store
        .pull(&fake.image("app:1"), options("", Some(Auth::IdentityToken("re&fresh".into()))))
        .await
        .unwrap();
    let asked = &service.seen()[0];
    assert_eq!(
        (
            asked.method.as_str(),
            asked.body.contains("refresh_token=re%26fresh&service=s&scope=repository:app:pull")
        ),
        ("POST", true)
    );
}

#[tokio::test]
async fn mirrors_come_first_and_get_no_foreign_credentials() {
    let image = big();
    let mirror = Fake::start(plain_registry(&image)).await;
    let (_directory, store) = store();
    let text = format!(
        "mirrors: {{registry.lan: {{endpoint: [\"http://127.0.0.1:1\", \"http://{}\"]}}}}",
        mirror.address
    );
    let pulled = store.pull("registry.lan/app:1", options(&text, basic())).await.unwrap();
    assert_big(&pulled);
    assert_eq!(pulled.references, ["registry.lan/app:1"]);
    assert!(
        mirror.seen().iter().all(|seen| seen.header("authorization").is_none()
            && seen.path.ends_with("?ns=registry.lan"))
    );
}

#[tokio::test]
async fn failures_read_as_in_containerd() {
    let image = big();
    let fake = Fake::start(move |seen| match seen.path.as_str() {
        "/v2/denied/manifests/1" => Reply::status(403),
        "/v2/broken/manifests/1" => Reply {
            body: br#"{"errors":[{"code":"UNAVAILABLE","message":"on fire"}]}"#.to_vec(),
            ..Reply::status(503)
        },
        "/v2/nonsense/manifests/1" => Reply::ok(b"<html>"),
        "/v2/foreign/manifests/1" => Reply::ok(&index(&[
            image.entry(Some(serde_json::json!({"os": "linux", "architecture": "vax"})), None)
        ])),
        "/v2/huge/manifests/1" => Reply::ok(&vec![b' '; 5 << 20]),
        "/v2/loop/manifests/1" => Reply::status(302).with("location", "/v2/loop/manifests/1"),
        "/v2/lies/manifests/1" => {
            Reply::ok(b"{}").with("docker-content-digest", Digest::of(b"other").to_string())
        }
        _ => Reply::status(404),
    })
    .await;
    let host = fake.address.to_string();
    let (_directory, store) = store();
    for (name, expected, not_found) in [
        ("missing", "HOST/missing:1: not found", true),
        (
            "denied",
            "unexpected status from GET request to http://HOST/v2/denied/manifests/1: 403 Forbidden",
            false,
        ),
        ("broken", "503 Service Unavailable: server message: unavailable: on fire", false),
        ("nonsense", "is invalid: expected value at line 1 column 1", false),
        ("foreign", "no match for platform linux/", true),
        ("huge", "is larger than its limit of 4194304 bytes", false),
        ("loop", "stopped after 5 redirects", false),
        ("lies", "manifest 1: expected digest sha256:", false),
    ] {
        let error =
            store.pull(&format!("{host}/{name}:1"), PullOptions::default()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("failed to pull and unpack image \"{host}/{name}:1\": ")),
            "{text}"
        );
        assert!(text.contains(&expected.replace("HOST", &host)), "{name}: {text}");
        assert_eq!(error.is_not_found(), not_found, "{name}");
    }
    let error = store.pull("127.0.0.1:1/a:1", PullOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("failed to do request: Get \"http://127.0.0.1:1/v2/a/manifests/1\": dial tcp 127.0.0.1:1: connect: connection refused"), "{error}");
    assert!(error.is_unavailable());
    assert!(store.pull("Not A Name", PullOptions::default()).await.unwrap_err().is_invalid_name());
}

#[tokio::test]
async fn wrong_content_is_refused() {
    let image = big();
    let other = gzip(&layer(&[("big", &noise(400_001))]));
    for (name, change) in [("other content", 0), ("shorter", 1), ("longer", 2)] {
        let (inner, size, other) = (plain_registry(&image), image.layers[0].len(), other.clone());
        let hex = Digest::of(&image.layers[0]).hex().to_owned();
        let fake = Fake::start(move |seen| {
            let mut reply = inner(seen);
            if seen.path.ends_with(&hex) {
                match change {
                    0 => {
                        reply.body =
                            other.iter().copied().chain(std::iter::repeat(0)).take(size).collect()
                    }
                    1 => reply.body.truncate(reply.body.len() - 10),
                    _ => reply.body.push(0),
                }
            }
            reply
        })
        .await;
        let (directory, store) = store();
        let error =
            store.pull(&fake.image("app:1"), PullOptions::default()).await.unwrap_err().to_string();
        let expected = ["", "unexpected EOF", "is larger than its limit"][change];
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(store.list().len(), 0, "{name}");
        wait_until_empty(&directory.path().join("tmp")).await;
    }
}

#[tokio::test]
async fn https_needs_a_known_authority() {
    let key =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![key.cert.der().clone()],
        rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
    )
    .unwrap();
    let image = big();
    let fake = Fake::start_tls(Some(Arc::new(config)), plain_registry(&image)).await;
    let (directory, store) = store();
    let ca = directory.path().join("ca.pem");
    fs::write(&ca, key.cert.pem()).unwrap();
    let name = fake.image("app:1");
    let error = store
        .pull(&name, options(&format!("configs: {{\"{}\": {{tls: {{}}}}}}", fake.address), None))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("tls: invalid peer certificate: UnknownIssuer"), "{error}");
    let error = store
        .pull(
            &name,
            options(
                &format!("configs: {{\"{}\": {{tls: {{ca_file: /no/ca.pem}}}}}}", fake.address),
                None,
            ),
        )
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate file /no/ca.pem"), "{error}");
    for tls in [format!("ca_file: {}", ca.display()), "insecure_skip_verify: true".to_owned()] {
        let text = format!("configs: {{\"{}\": {{tls: {{{tls}}}}}}}", fake.address);
        assert_big(&store.pull(&name, options(&text, None)).await.unwrap());
    }
    let mut registries = Registries::parse(&format!(
        "mirrors: {{lan.local: {{endpoint: [\"https://{}\"]}}}}",
        fake.address
    ))
    .unwrap();
    registries.extra_ca_files.push(ca);
    let options = PullOptions { registries: Arc::new(registries), ..PullOptions::default() };
    assert_big(&store.pull("lan.local/app:1", options).await.unwrap());
    assert!(host_platform().is_object());
}
