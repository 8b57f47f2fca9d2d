//! Unpacking: the table of layers, and compression.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::tarball::{build, expand, gzip, layer, zstd};
use crate::image::digest::Digest;
use crate::image::unpack::{Limits, unpack};

#[test]
fn layers_become_trees_or_errors() {
    let cases = include_str!("../cases/layers.txt").split("\n== ").skip(1);
    let (mut failed, mut count) = (Vec::new(), 0);
    for case in cases {
        count += 1;
        let (name, body) = case.split_once('\n').unwrap_or((case, ""));
        if let Err(reason) = check(body) {
            failed.push(format!("{name}: {reason}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(count > 50, "only {count} cases were found");
}

fn check(body: &str) -> Result<(), String> {
    let lines: Vec<&str> = body.lines().filter(|line| !line.is_empty()).collect();
    let end = lines
        .iter()
        .position(|line| {
            line.starts_with("tree:") || line.starts_with("error:") || line.starts_with("limits:")
        })
        .ok_or("no outcome")?;
    let mut limits = Limits::default();
    for word in lines.iter().filter_map(|line| line.strip_prefix("limits: ")) {
        match word.split_once('=').ok_or("limit")? {
            ("entries", count) => limits.entries = count.parse().map_err(|_| "count")?,
            (_, count) => limits.bytes = count.parse().map_err(|_| "count")?,
        }
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("layer");
    fs::create_dir(&target).unwrap();
    let result = unpack(&build(&lines[..end])[..], &target, limits);
    let left: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    if left != ["layer"] {
        return Err(format!("wrote outside: {left:?}"));
    }
    let expected = lines.iter().find_map(|line| line.strip_prefix("error: "));
    match (result, expected) {
        (Ok(_), None) => {
            let expected: Vec<String> = lines[end + 1..].iter().map(|line| expand(line)).collect();
            let mut actual = Vec::new();
            list(&target, Path::new(""), &mut actual);
            if actual == expected {
                Ok(())
            } else {
                Err(format!("expected\n{}\ngot\n{}", expected.join("\n"), actual.join("\n")))
            }
        }
        (Err(error), Some(expected)) if error.to_string().contains(expected) => Ok(()),
        (result, expected) => Err(format!(
            "expected {expected:?}, got {:?}",
            result.map_err(|error| error.to_string())
        )),
    }
}

fn list(root: &Path, below: &Path, lines: &mut Vec<String>) {
    let mut names: Vec<_> =
        fs::read_dir(root.join(below)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = below.join(name);
        let found = fs::symlink_metadata(root.join(&path)).unwrap();
        let kind = found.file_type();
        let shown = path.display();
        let device = format!(
            "{}:{}",
            nix::sys::stat::major(found.rdev()),
            nix::sys::stat::minor(found.rdev())
        );
        let owner = format!("{:o} {}:{}", found.mode() & 0o7777, found.uid(), found.gid());
        let mut line = if kind.is_dir() {
            format!("d {owner} {shown}")
        } else if kind.is_symlink() {
            format!("l {shown} -> {}", fs::read_link(root.join(&path)).unwrap().display())
        } else if kind.is_char_device() {
            format!("c {device} {shown}")
        } else if kind.is_block_device() {
            format!("b {device} {shown}")
        } else if kind.is_fifo() {
            format!("p {shown}")
        } else {
            format!("- {owner} {shown} {:?}", fs::read_to_string(root.join(&path)).unwrap())
        };
        if !kind.is_symlink() && (kind.is_dir() || kind.is_file()) {
            assert_eq!(
                (found.mtime(), kind.is_file()),
                (if kind.is_file() { 1_000_000_000 } else { found.mtime() }, kind.is_file())
            );
            let file = fs::File::open(root.join(&path)).unwrap();
            if sys::xattr::get(&file, c"trusted.overlay.opaque").unwrap().as_deref() == Some(b"y") {
                line.push_str(" opaque");
            }
            if let Ok(Some(value)) = sys::xattr::get(&file, c"user.note") {
                line.push_str(&format!(" user.note={}", String::from_utf8_lossy(&value)));
            }
            if let Ok(Some(_)) = sys::xattr::get(&file, c"security.selinux") {
                line.push_str(" labelled");
            }
        }
        lines.push(line);
        if kind.is_dir() {
            list(root, &path, lines);
        }
    }
}

#[test]
fn directory_times_survive_what_is_put_in() {
    let target = tempfile::tempdir().unwrap();
    let archive = build(&["dir d", "file d/x text=1", "file d/y text=2"]);
    unpack(&archive[..], target.path(), Limits::default()).unwrap();
    assert_eq!(fs::metadata(target.path().join("d")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn file_capabilities_are_kept() {
    let target = tempfile::tempdir().unwrap();
    // VFS_CAP_REVISION_2, effective, cap_net_raw permitted.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut record = b"SCHILY.xattr.security.capability=".to_vec();
    record.extend_from_slice(&capability);
    let mut pax = format!("{} ", record.len() + 4).into_bytes();
    pax.extend_from_slice(&record);
    pax.push(b'\n');
    let mut archive = Vec::new();
    super::tarball::append(
        &mut archive,
        &super::tarball::Header { flag: b'x', path: "pax", ..Default::default() },
        &pax,
    );
    super::tarball::append(
        &mut archive,
        &super::tarball::Header { path: "ping", mode: 0o755, uid: 7, ..Default::default() },
        b"x",
    );
    unpack(&super::tarball::finish(archive)[..], target.path(), Limits::default()).unwrap();
    let file = fs::File::open(target.path().join("ping")).unwrap();
    assert_eq!(sys::xattr::get(&file, c"security.capability").unwrap().unwrap(), capability);
}

#[test]
fn compression_is_recognized() {
    let plain = layer(&[("a", &"text ".repeat(50_000))]);
    let mut two = gzip(&plain[..1000]);
    two.extend_from_slice(&gzip(&plain[1000..]));
    let mut frames = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    frames.extend_from_slice(&zstd(&plain[..70_000]));
    frames.extend_from_slice(&zstd(&plain[70_000..]));
    frames.extend_from_slice(&[0x5f, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9]);
    for (name, blob) in [
        ("plain", plain.clone()),
        ("gzip", gzip(&plain)),
        ("gzip members", two),
        ("zstd", zstd(&plain)),
        ("zstd frames", frames),
    ] {
        let target = tempfile::tempdir().unwrap();
        let unpacked = unpack(&blob[..], target.path(), Limits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(unpacked.diff_id, Digest::of(&plain), "{name}");
        assert_eq!(
            (unpacked.blob, unpacked.blob_bytes),
            (Digest::of(&blob), blob.len() as u64),
            "{name}"
        );
        assert_eq!(fs::read(target.path().join("a")).unwrap().len(), 250_000, "{name}");
    }
}

#[test]
fn damaged_compression_is_refused() {
    let plain = layer(&[("a", &"text ".repeat(50_000))]);
    for blob in [gzip(&plain), zstd(&plain)] {
        let target = tempfile::tempdir().unwrap();
        unpack(&blob[..blob.len() / 2], target.path(), Limits::default()).unwrap_err();
        let mut damaged = blob.clone();
        let middle = blob.len() / 2;
        damaged[middle..middle + 8].fill(0xff);
        let target = tempfile::tempdir().unwrap();
        // Damage that still decodes changes the digest, which the store compares.
        if let Ok(unpacked) = unpack(&damaged[..], target.path(), Limits::default()) {
            assert_ne!(unpacked.diff_id, Digest::of(&plain));
        }
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let target = tempfile::tempdir().unwrap();
    let bomb = gzip(&layer(&[("zeros", &"\0".repeat(20_000_000))]));
    let error =
        unpack(&bomb[..], target.path(), Limits { entries: 10, bytes: 1_000_000 }).unwrap_err();
    assert_eq!(error.to_string(), "more than 1000000 bytes when unpacked");
    let written: u64 = fs::read_dir(target.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(written <= 1_000_000, "{written}");
    assert!(target.path().as_os_str().as_bytes().len() > 1);
}

#[test]
fn random_damage_never_gets_out() {
    let lines = [
        "dir d mode=755",
        "pax path=long/name mtime=1.5 SCHILY.xattr.user.a=b",
        "file x text=some-content",
        "symlink s -> d",
        "file s/y text=2",
        "hardlink h -> d/y",
        "char dev/null device=1:3",
        "file d/.wh.gone",
        "gnu g/long/name",
        "file z text=3",
    ];
    let sound = build(&lines);
    let mut state = 7_u64;
    let mut random = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..200 {
        let mut damaged = sound.clone();
        for _ in 0..=random(6) {
            let at = random(damaged.len());
            damaged[at] = [0, b'/', b'.', b'7', 0xff, b'5'][random(6)];
        }
        if random(4) == 0 {
            damaged.truncate(random(damaged.len()));
        }
        // With sums that fit, so that the damage gets past them.
        for block in damaged.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("layer");
        fs::create_dir(&target).unwrap();
        // Either way is fine, as long as it ends and stays inside.
        drop(unpack(&damaged[..], &target, Limits { entries: 100, bytes: 1 << 20 }));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
