//! A container image made from Debian's busybox-static, as `docker save` would write it.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The names the image is known by: two, so that an update from one to the other is a real rollout.
pub const NAMES: [&str; 2] = ["docker.io/library/busybox:1.0", "docker.io/library/busybox:2.0"];

const APPLETS: &[&str] = &[
    "cat", "chmod", "date", "dd", "df", "echo", "env", "false", "grep", "head", "hostname",
    "httpd", "id", "ip", "kill", "ls", "mkdir", "mount", "nc", "nslookup", "ps", "pwd", "rm",
    "seq", "sh", "sleep", "stat", "stty", "tail", "test", "touch", "tr", "true", "tty", "usleep",
    "wc", "wget", "yes",
];

/// Writes the archive to `path`.
pub fn busybox_archive(path: &Path) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().join("root");
    for name in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(name)).expect("folder");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("/bin/busybox of Debian's busybox-static");
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )
    .expect("passwd");
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").expect("group");
    let layer = folder.path().join("layer.tar");
    tar(&[
        "-C",
        text(&root),
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--mtime=@0",
        "-cf",
        text(&layer),
        ".",
    ]);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
    });
    fs::write(folder.path().join("config.json"), config.to_string()).expect("config");
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": NAMES, "Layers": ["layer.tar"]}]);
    fs::write(folder.path().join("manifest.json"), manifest.to_string()).expect("manifest");
    tar(&[
        "-C",
        text(folder.path()),
        "-cf",
        text(path),
        "manifest.json",
        "config.json",
        "layer.tar",
    ]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("path in UTF-8")
}

fn tar(args: &[&str]) {
    assert!(Command::new("tar").args(args).status().expect("tar").success(), "tar {args:?}");
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout).split(' ').next().expect("digest").to_owned()
}
