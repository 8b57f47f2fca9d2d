//! References, digests, platforms, challenges and `registries.yaml`.

use crate::image::auth::Challenge;
use crate::image::error::Error;
use crate::image::manifest::{Document, Index};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::image::registries::Registries;

#[test]
fn references_are_completed_or_refused() {
    for line in
        include_str!("../cases/references.txt").lines().filter(|line| !line.starts_with('#'))
    {
        let (text, expected) = line.split_once("=> ").expect("case has an arrow");
        let text = text.strip_suffix(' ').unwrap_or(text);
        match (Reference::parse(text), expected.strip_prefix("! ")) {
            (Ok(reference), None) => {
                assert_eq!(reference.to_string(), expected, "{text}");
                assert_eq!(Reference::parse(expected).unwrap(), reference, "{text} is stable");
            }
            (Err(error), Some(reason)) => {
                assert!(error.to_string().contains(reason), "{text}: {error}")
            }
            (result, _) => panic!("{text}: expected {expected}, got {result:?}"),
        }
    }
    let long = "a".repeat(260);
    assert!(Reference::parse(&long).unwrap_err().is_invalid_name());
}

#[test]
fn the_best_platform_is_chosen() {
    let index = |entries: &[&str]| {
        let manifests: Vec<String> = entries
            .iter()
            .enumerate()
            .map(|(at, entry)| {
                format!(r#"{{"digest":"sha256:{:064x}","size":1,"platform":{entry}}}"#, at)
            })
            .collect();
        let text = format!(r#"{{"manifests":[{}]}}"#, manifests.join(","));
        match Document::parse("index", text.as_bytes()).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("not an index"),
        }
    };
    let chosen = |index: &Index, platform: (&str, Option<&str>)| {
        let platform = Platform {
            os: "linux".into(),
            architecture: platform.0.into(),
            variant: platform.1.map(Into::into),
        };
        index
            .choose(&platform)
            .map(|entry| entry.digest.hex().trim_start_matches('0').to_owned())
            .map_err(|error| error.to_string())
    };
    let many = index(&[
        r#"{"os":"windows","architecture":"amd64"}"#,
        r#"{"os":"linux","architecture":"amd64"}"#,
        r#"{"os":"linux","architecture":"arm","variant":"v5"}"#,
        r#"{"os":"linux","architecture":"arm","variant":"v6"}"#,
        r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#,
        r#"{"os":"unknown","architecture":"unknown"}"#,
    ]);
    assert_eq!(chosen(&many, ("amd64", None)).unwrap(), "1");
    assert_eq!(chosen(&many, ("arm", Some("v7"))).unwrap(), "3", "the newest that still runs");
    assert_eq!(chosen(&many, ("arm", Some("v5"))).unwrap(), "2");
    assert_eq!(chosen(&many, ("arm64", Some("v8"))).unwrap(), "4");
    assert_eq!(
        chosen(&many, ("riscv64", None)).unwrap_err(),
        "no match for platform linux/riscv64 in manifest: not found"
    );
    let newer = index(&[
        r#"{"os":"linux","architecture":"arm","variant":"v8"}"#,
        r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#,
    ]);
    assert!(chosen(&newer, ("arm", Some("v7"))).is_err());
    assert!(chosen(&newer, ("amd64", None)).is_err());
}

#[test]
fn documents_are_told_apart() {
    let fails = |text: &str| Document::parse("it", text.as_bytes()).unwrap_err().to_string();
    assert!(fails("{").starts_with("it is invalid: "));
    assert!(fails(r#"{"schemaVersion":1,"fsLayers":[]}"#).contains("schema version 1"));
    assert!(fails(r#"{"manifests":[],"layers":[]}"#).contains("both"));
    assert!(fails(r#"{"schemaVersion":2}"#).contains("neither"));
    assert!(
        fails(r#"{"schemaVersion":2,"config":{"digest":"sha512:00","size":1},"layers":[]}"#)
            .contains("only sha256")
    );
}

#[test]
fn challenges_are_read() {
    let parsed = Challenge::parse_all(
        r#"Bearer realm="https://auth.x/token",service="reg, \"istry\"",scope="repository:a/b:pull,push", Basic realm="x""#,
    );
    assert_eq!(
        parsed,
        [
            Challenge::Bearer {
                realm: "https://auth.x/token".into(),
                service: Some("reg, \"istry\"".into()),
                scope: Some("repository:a/b:pull,push".into()),
                error: None
            },
            Challenge::Basic
        ]
    );
    assert_eq!(Challenge::parse_all("Negotiate, basic realm=x"), [Challenge::Basic]);
    assert!(Challenge::parse_all("Bearer service=\"no realm\"").is_empty());
    assert!(Challenge::parse_all("\"\"\"===,,,").is_empty());
}

fn urls(registries: &Registries, image: &str) -> Vec<String> {
    let reference = Reference::parse(image).unwrap();
    registries
        .endpoints(&reference)
        .iter()
        .map(|endpoint| endpoint.origin.url(&endpoint.root))
        .collect()
}

#[test]
fn registries_have_endpoints() {
    let text = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.lan:5000", "http://plain.lan/proxy/v2"]
  "*":
    endpoint: ["https://all.lan"]
  registry.lan: {}
configs:
  "mirror.lan:5000":
    auth: {username: u, password: p}
    tls: {ca_file: /ca.pem, insecure_skip_verify: false}
  "localhost:5001":
    tls: {insecure_skip_verify: true}
"#;
    let registries = Registries::parse(text).unwrap();
    let hub = [
        "https://mirror.lan:5000/v2",
        "http://plain.lan/proxy/v2",
        "https://registry-1.docker.io/v2",
    ];
    assert_eq!(urls(&registries, "busybox"), hub);
    assert_eq!(urls(&registries, "ghcr.io/a/b"), ["https://all.lan/v2", "https://ghcr.io/v2"]);
    assert_eq!(urls(&registries, "registry.lan/a"), ["https://registry.lan/v2"]);
    let plain = Registries::parse("# nothing\n").unwrap();
    for (image, url) in [
        ("localhost:5000/a", "http://localhost:5000/v2"),
        ("127.9.9.9:5000/a", "http://127.9.9.9:5000/v2"),
        ("[::1]:5000/a", "http://[::1]:5000/v2"),
        ("localhost:443/a", "https://localhost/v2"),
        ("10.0.0.1:5000/a", "https://10.0.0.1:5000/v2"),
        ("registry.lan:80/a", "https://registry.lan:80/v2"),
    ] {
        assert_eq!(urls(&plain, image), [url], "{image}");
    }
    assert_eq!(urls(&registries, "localhost:5001/a").last().unwrap(), "https://localhost:5001/v2");
}

#[test]
fn broken_registries_are_explained() {
    for (text, expected) in [
        (
            "mirrors: {a: {endpoint: [\"ftp://x\"]}}",
            "registries: mirrors.a.endpoint[0]: \"ftp://x\" is not an http or https URL",
        ),
        (
            "mirrors: {a: {endpoint: [\"https://u:p@x\"]}}",
            "registries: mirrors.a.endpoint[0]: \"https://u:p@x\" has no valid host",
        ),
        (
            "mirrors: {a: {rewrite: {\"^x\": y}}}",
            "registries: mirrors.a.rewrite: rewriting image names is not supported",
        ),
        (
            "configs: {a: {auth: {username: u}}}",
            "registries: configs.a.auth: username and password must be set together",
        ),
        (
            "configs: {a: {auth: {auth: \"???\"}}}",
            "registries: configs.a.auth: auth is not base64 of username:password",
        ),
        (
            "configs: {a: {tls: {cert_file: /x}}}",
            "registries: configs.a.tls: cert_file and key_file must be set together",
        ),
        ("configs: {a: {tsl: {}}}", "registries: yaml: "),
        ("mirrors: [", "registries: yaml: "),
    ] {
        let error = Registries::parse(text).unwrap_err();
        assert!(matches!(error, Error::Registries { .. }));
        assert!(error.to_string().starts_with(expected), "{text}: {error}");
    }
}
