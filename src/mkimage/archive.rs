//! The preloaded container image: busybox as an archive that `docker load` and OCI tools understand alike.

use std::io::Cursor;

use anyhow::Result;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::packages::sha256;

/// Names under which the image is found: `--image=busybox` and `--image=localhost/busybox:preloaded`.
const NAMES: [&str; 2] = ["docker.io/library/busybox:latest", "localhost/busybox:preloaded"];
const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";
const FOLDERS: [(&str, u32); 10] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
];

/// Builds the archive from the binary, the names of its applets and the build's date.
pub(crate) fn busybox(binary: &[u8], applets: &[&str], arch: &str, epoch: u64) -> Result<Vec<u8>> {
    let layer = layer(binary, applets, epoch)?;
    let layer_digest = sha256(&layer);
    let config = serde_json::to_vec(&json!({
        "architecture": arch,
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        "history": [{"created_by": "Debian busybox-static"}],
    }))?;
    let config_digest = sha256(&config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    let docker = json!([{"Config": blob(&config_digest), "RepoTags": NAMES, "Layers": [blob(&layer_digest)]}]);
    let mut out = Builder::new(Vec::new());
    for name in ["blobs/", "blobs/sha256/"] {
        add(&mut out, name, EntryType::Directory, 0o755, epoch, &[])?;
    }
    add_file(&mut out, "oci-layout", epoch, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add_file(&mut out, "index.json", epoch, &serde_json::to_vec(&index(&manifest))?)?;
    add_file(&mut out, "manifest.json", epoch, &serde_json::to_vec(&docker)?)?;
    for content in [&manifest, &config, &layer] {
        add_file(&mut out, &blob(&sha256(content)), epoch, content)?;
    }
    Ok(out.into_inner()?)
}

fn index(manifest: &[u8]) -> Value {
    let manifests = NAMES.map(|name| {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
        let tag = name.rsplit(':').next().unwrap_or("latest");
        entry["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
        entry
    });
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", sha256(content)), "size": content.len()})
}

fn layer(binary: &[u8], applets: &[&str], epoch: u64) -> Result<Vec<u8>> {
    let mut out = Builder::new(Vec::new());
    for (name, mode) in FOLDERS {
        add(&mut out, &format!("{name}/"), EntryType::Directory, mode, epoch, &[])?;
    }
    add(&mut out, "bin/busybox", EntryType::Regular, 0o755, epoch, binary)?;
    for applet in applets.iter().filter(|applet| **applet != "busybox") {
        let mut header = header(EntryType::Symlink, 0o777, epoch, 0);
        out.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    add_file(&mut out, "etc/passwd", epoch, PASSWD.as_bytes())?;
    add_file(&mut out, "etc/group", epoch, GROUP.as_bytes())?;
    Ok(out.into_inner()?)
}

fn add_file(out: &mut Builder<Vec<u8>>, name: &str, epoch: u64, content: &[u8]) -> Result<()> {
    add(out, name, EntryType::Regular, 0o644, epoch, content)
}

fn add(
    out: &mut Builder<Vec<u8>>,
    name: &str,
    kind: EntryType,
    mode: u32,
    epoch: u64,
    content: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, epoch, content.len() as u64);
    out.append_data(&mut header, name, Cursor::new(content))?;
    Ok(())
}

fn header(kind: EntryType, mode: u32, epoch: u64, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(epoch);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn entries(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let read = |mut entry: tar::Entry<'_, &[u8]>| {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), content)
        };
        archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
    }

    #[test]
    fn both_indexes_lead_to_the_same_blobs() {
        let bytes = busybox(b"binary", &["sh", "busybox", "ls"], "arm64", 1).unwrap();
        assert_eq!(bytes, busybox(b"binary", &["sh", "busybox", "ls"], "arm64", 1).unwrap());
        let files = entries(&bytes);
        let read = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let digest = |value: &Value| value.as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let index = read("index.json");
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], NAMES[0]);
        let manifest = read(&digest(&index["manifests"][1]["digest"]));
        let docker = read("manifest.json");
        assert_eq!(digest(&manifest["config"]["digest"]), docker[0]["Config"]);
        assert_eq!(digest(&manifest["layers"][0]["digest"]), docker[0]["Layers"][0]);
        let config = read(docker[0]["Config"].as_str().unwrap());
        let layer = &files[docker[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(digest(&config["rootfs"]["diff_ids"][0]), docker[0]["Layers"][0]);
        let names: Vec<String> = entries(layer).into_keys().collect();
        assert!(names.contains(&"bin/ls".to_owned()) && names.contains(&"etc/passwd".to_owned()));
    }
}
