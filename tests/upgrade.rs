//! `copepod upgrade` on a machine that its PID 1 says is a board: the local socket, and a bundle from Debian's docker-registry.
//! The bundle is written into a file that stands for the other slot; nothing restarts.

use std::fs;
use std::io::Cursor;

use minisign::KeyPair;
use ota::{Compression, FORMAT, INDEX, Manifest, Part, ROOT, Sha256, encode_head, hex, index_of};
use serde_json::json;
use testkit::{Machine, binary};

use crate::registry::{REGISTRY, registry};

const BLOCK: usize = 4096;
const BLOCKS: usize = 16;
/// Places of a board that this machine's own files must not be seen or changed at.
const PLACES: &str = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /boot && mount -t tmpfs tmpfs /var/lib \
    && mkdir -p /run/copepod /boot/a /boot/b /var/lib/copepod /run/etc/changed /run/etc/work \
    && mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/changed,workdir=/run/etc/work /etc \
    && mkdir -p /etc/copepod/update-keys && cp \"$0/one.pub\" /etc/copepod/update-keys \
    && cp \"$0/release.json\" /etc/copepod && cp \"$0/boot.json\" /run/copepod";
/// Pushes a file as the one layer of an artifact, as `oras push` does: $0 the file, $1 the repository, $2 the tag.
const PUSH: &str = r#"set -e
digest() { sha256sum "$1" | cut -d ' ' -f 1; }
blob() {
  place=$(curl -fsS -X POST -D - -o "$0.body" "$1/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "$place&digest=sha256:$(digest "$2")"
}
describe() { echo "{\"mediaType\":\"$1\",\"digest\":\"sha256:$(digest "$2")\",\"size\":$(stat -c %s "$2")}"; }
printf '{}' >"$0.config"
blob "$1" "$0.config"
blob "$1" "$0"
kind=application/vnd.oci.image.manifest.v1+json
echo "{\"schemaVersion\":2,\"mediaType\":\"$kind\",\"config\":$(describe application/vnd.oci.empty.v1+json "$0.config"),
  \"layers\":[$(describe application/octet-stream "$0")]}" >"$0.manifest"
curl -fsS -X PUT -H "Content-Type: $kind" --data-binary "@$0.manifest" "$1/manifests/$2""#;

/// A root of blocks of which none are the same.
fn root() -> Vec<u8> {
    (1..=BLOCKS).flat_map(|number| vec![number as u8; BLOCK]).collect()
}

/// A signed bundle for a board.
fn bundle(board: &str, key: &KeyPair) -> Vec<u8> {
    let root = root();
    let index = index_of(root.as_slice()).expect("index");
    let mut payload: Vec<u8> = Vec::new();
    let mut parts = Vec::new();
    for (name, bytes) in [(INDEX, index.as_slice()), (ROOT, &root), ("kernel", b"a kernel")] {
        let (size, offset) = (bytes.len() as u64, payload.len() as u64);
        let (name, sha256) = (name.to_owned(), hex(&Sha256::of(bytes)));
        let compression = Compression::None;
        parts.push(Part { name, size, sha256, offset, stored: size, compression });
        payload.extend_from_slice(bytes);
    }
    let manifest = Manifest {
        format: FORMAT,
        board: board.to_owned(),
        version: "1.1.0".parse().expect("version"),
        build: 200,
        minimum: None,
        healthy_within: 60,
        parts,
    };
    let manifest = manifest.encode().expect("manifest");
    let signature = minisign::sign(None, &key.sk, Cursor::new(&manifest), None, None);
    let signature = signature.expect("signature").into_string();
    [encode_head(&manifest, signature.as_bytes()), payload].concat()
}

/// What PID 1 of a board in slot a tells.
fn facts(m: &Machine, confirmed: bool) -> String {
    let facts = json!({"slot": "a", "confirmed": confirmed, "disk": 1, "settled": false, "trial": false,
        "root-a": m.path("root-a"), "root-b": m.path("root-b")});
    facts.to_string()
}

/// A server on a machine that looks like a board, whose slot may be confirmed.
fn board(key: &KeyPair, confirmed: bool) -> Machine {
    let mut m = Machine::bare();
    let file = |name: &str, content: &[u8]| fs::write(m.path(name), content).expect("file");
    let public = key.pk.to_box().expect("public key").into_string();
    file("one.pub", public.as_bytes());
    let release = json!({"board": "toaster", "version": "1.0.0", "build": 100});
    file("release.json", release.to_string().as_bytes());
    file("boot.json", facts(&m, confirmed).as_bytes());
    for name in ["root-a", "root-b"] {
        file(name, &vec![0; (BLOCKS + 4) * BLOCK]);
    }
    let mut places = m.enter(&["--mount"]);
    let status = places.args(["sh", "-c", PLACES]).arg(m.path("")).status().expect("nsenter");
    assert!(status.success(), "the places of a board: {status}");
    m.start(&[]);
    m.wait_node_ready();
    m
}

/// Runs `copepod upgrade SOURCE` on the board, as this user: whether it went well, and what it printed.
fn upgrade(m: &Machine, user: &str, source: &str) -> (bool, String) {
    let mut command = m.enter(&["--mount", "--net", "--pid"]);
    command.args(["setpriv", "--reuid", user, "--clear-groups"]).arg(binary());
    let output = command.args(["upgrade", source]).output().expect("nsenter");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_board_takes_an_update_from_its_socket_and_a_registry() {
    let key = KeyPair::generate_unencrypted_keypair().expect("key");
    let m = board(&key, true);
    let mut registry = registry(&m);
    let good = m.path("good.bundle");
    fs::write(&good, bundle("toaster", &key)).expect("bundle");
    fs::write(m.path("other.bundle"), bundle("kettle", &key)).expect("bundle");

    let name = good.display().to_string();
    let (worked, text) = upgrade(&m, "65534", &name);
    assert!(!worked && text.contains("/run/copepod/upgrade.sock"), "only root may: {text}");
    assert!(text.contains("Permission denied"), "only root may: {text}");
    let other = m.path("other.bundle").display().to_string();
    let refusals = [
        (other.as_str(), "is for board kettle"),
        ("oci://127.0.0.1:5000/boards/nothing:v1", "nothing"),
        ("ftp://host/x", "expected an http or https URL"),
    ];
    for (source, reason) in refusals {
        let (worked, text) = upgrade(&m, "0", source);
        assert!(!worked && text.contains(reason), "{source}: {text}");
    }
    assert!(fs::read(m.path("root-b")).expect("slot").iter().all(|byte| *byte == 0));

    let repository = format!("http://{REGISTRY}/v2/boards/toaster");
    let push = ["-c", PUSH, name.as_str(), repository.as_str(), "v1"];
    m.wait("the registry takes the bundle", |m| m.run("sh", &push).is_ok());
    let source = format!("oci://{REGISTRY}/boards/toaster:v1");
    let (worked, text) = upgrade(&m, "0", &source);
    assert!(worked && text.contains("Restarting 1.1.0"), "{text}");
    assert_eq!(fs::read(m.path("root-b")).expect("slot")[..BLOCKS * BLOCK], root());
    let journal = "cat /var/lib/copepod/upgrade/journal.json /boot/b/kernel";
    let output = m.enter(&["--mount"]).args(["sh", "-c", journal]).output().expect("nsenter");
    let written = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(written.contains("\"state\":\"staged\"") && written.ends_with("a kernel"), "{written}");
    let (worked, text) = upgrade(&m, "0", &source);
    assert!(!worked && text.contains("waits for the restart"), "{text}");
    registry.kill().expect("kill");
    registry.wait().expect("wait");
}

#[test]
fn a_request_waits_until_the_slot_is_confirmed() {
    let key = KeyPair::generate_unencrypted_keypair().expect("key");
    let m = board(&key, false);
    let good = m.path("good.bundle");
    fs::write(&good, bundle("toaster", &key)).expect("bundle");
    let source = good.display().to_string();
    let request = format!("copepod.io/upgrade={source}");
    m.ok(&["annotate", "node", m.name(), &request]);
    // Who asks here is there to ask again.
    let other = m.path("other.bundle");
    fs::copy(&good, &other).expect("bundle");
    let (worked, text) = upgrade(&m, "0", &other.display().to_string());
    assert!(!worked && text.contains("slot a has not been confirmed"), "{text}");
    fs::write(m.path("boot.json"), facts(&m, true)).expect("file");
    let confirm = "cp \"$0\" /run/copepod/new && mv /run/copepod/new /run/copepod/boot.json";
    let mut places = m.enter(&["--mount"]);
    places.args(["sh", "-c", confirm]).arg(m.path("boot.json"));
    assert!(places.status().expect("nsenter").success());
    let status = "jsonpath={.metadata.annotations}";
    m.wait("the board restarts into the other slot", |m| {
        let annotations = m.ok(&["get", "node", m.name(), "-o", status]);
        annotations.contains("Restarting") && !annotations.contains("\"copepod.io/upgrade\"")
    });
    assert_eq!(fs::read(m.path("root-b")).expect("slot")[..BLOCKS * BLOCK], root());
}
