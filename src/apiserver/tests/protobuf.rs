//! Protobuf bodies, written here by hand, become the JSON that kubectl would have sent.

use crate::protobuf::to_json;
use serde_json::json;

/// A length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).expect("7 bits") | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).expect("7 bits"));
    out.extend_from_slice(content);
    out
}

fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn text(n: u8, value: &str) -> Vec<u8> {
    field(n, value.as_bytes())
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [text(1, api_version), text(2, kind)].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, raw), text(3, ""), text(4, "")].concat()
}

#[test]
fn a_deployment() {
    let labels = field(11, &[text(1, "app"), text(2, "web")].concat());
    let metadata = [text(1, "web"), text(2, ""), labels, field(8, &[])].concat();
    let selector = field(1, &[text(1, "app"), text(2, "web")].concat());
    let limit = field(1, &[text(1, "cpu"), field(2, &text(1, "500m"))].concat());
    let port = [text(1, ""), number(2, 0), number(3, 80)].concat();
    let container = [text(1, "c"), text(2, "nginx"), field(6, &port), field(8, &limit)].concat();
    // hostPath is a field of the inline message VolumeSource.
    let volume = [text(1, "v"), field(2, &field(1, &text(1, "/data")))].concat();
    let context = field(14, &[number(2, 0)].concat());
    let pod = [field(1, &volume), field(2, &container), number(11, 0), context].concat();
    let template = [field(1, &[]), field(2, &pod)].concat();
    let surge = field(2, &[number(1, 1), number(2, 0), text(3, "25%")].concat());
    let strategy = [text(1, ""), field(2, &surge)].concat();
    let spec =
        [number(1, 0), field(2, &selector), field(3, &template), field(4, &strategy), number(5, 0)]
            .concat();
    let raw = [field(1, &metadata), field(2, &spec), field(3, &[])].concat();
    let found = to_json(&envelope("apps/v1", "Deployment", &raw)).expect("decoded");
    assert_eq!(
        found,
        json!({
            "kind": "Deployment", "apiVersion": "apps/v1",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"rollingUpdate": {"maxSurge": "25%"}},
                "template": {"metadata": {}, "spec": {
                    "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "500m"}}}],
                    "volumes": [{"name": "v", "hostPath": {"path": "/data"}}],
                    "securityContext": {"runAsUser": 0},
                }},
            },
            "status": {},
        })
    );
}

#[test]
fn options_and_secrets() {
    let options = to_json(&envelope("policy/v1", "DeleteOptions", &number(1, 0))).expect("decoded");
    assert_eq!(
        options,
        json!({"kind": "DeleteOptions", "apiVersion": "policy/v1", "gracePeriodSeconds": 0})
    );
    let data = field(2, &[text(1, "k"), field(2, b"\x00\xff")].concat());
    let secret = to_json(&envelope("v1", "Secret", &data)).expect("decoded");
    assert_eq!(secret["data"], json!({"k": "AP8="}));
}

#[test]
fn broken_bytes_are_refused() {
    let whole = envelope("v1", "Pod", &field(1, &text(1, "p")));
    for end in 0..whole.len() {
        let _ = to_json(&whole[..end]);
    }
    let refused = |bytes: &[u8]| to_json(bytes).expect_err("must be refused").message;
    assert!(refused(b"{}").contains("expected prefix [107 56 115 0]"));
    assert!(
        refused(&envelope("v1", "Unicorn", b""))
            .contains("no kind \"Unicorn\" is registered for version \"v1\"")
    );
    assert!(
        refused(&envelope("v1", "Pod", &[0xff; 12])).contains("a number is longer than 10 bytes")
    );
    assert!(refused(&envelope("v1", "Pod", &field(1, &number(1, 5)))).contains("wrong wire type"));
    let many = field(2, &vec![field(2, &[]); 250_000].concat());
    assert!(refused(&envelope("v1", "Pod", &many)).contains("more than 200000 values"));
}
