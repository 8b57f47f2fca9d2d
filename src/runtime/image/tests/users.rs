//! Users in stacked layers.

use std::path::PathBuf;

use super::tarball::build;
use crate::image::unpack::{Limits, unpack};
use crate::image::users::lookup_user;

/// Layers, topmost first, from case lines given lowest first.
fn stack(root: &std::path::Path, layers: &[&[&str]]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (at, lines) in layers.iter().enumerate() {
        let path = root.join(at.to_string());
        std::fs::create_dir(&path).unwrap();
        unpack(&build(lines)[..], &path, Limits::default()).unwrap();
        paths.insert(0, path);
    }
    paths
}

const PASSWD: &str = "file etc/passwd text=root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\nweb:x:1000:1001::/home/web:/bin/sh";
const GROUP: &str = "file etc/group text=root:x:0:\nadm:x:4:web,nobody\nweb:x:1001:\nmail:x:8:web";

#[test]
fn names_and_numbers_are_resolved() {
    let root = tempfile::tempdir().unwrap();
    let layers = stack(root.path(), &[&[PASSWD, GROUP]]);
    for (user, uid, gid, additional) in [
        ("", 0, 0, &[][..]),
        ("root", 0, 0, &[]),
        ("web", 1000, 1001, &[4, 8]),
        ("1000", 1000, 1001, &[4, 8]),
        ("nobody", 65534, 65533, &[4]),
        ("web:adm", 1000, 4, &[4, 8]),
        ("web:77", 1000, 77, &[4, 8]),
        ("4242", 4242, 0, &[]),
        ("4242:4343", 4242, 4343, &[]),
        ("web:", 1000, 1001, &[4, 8]),
    ] {
        let found = lookup_user(&layers, user).unwrap();
        assert_eq!(
            (found.uid, found.gid, &found.additional_gids[..]),
            (uid, gid, additional),
            "{user}"
        );
    }
    assert_eq!(lookup_user(&layers, "web").unwrap().home.as_deref(), Some("/home/web"));
    let error = lookup_user(&layers, "ghost").unwrap_err().to_string();
    assert_eq!(error, "unable to find user ghost: no matching entries in passwd file");
    let error = lookup_user(&layers, "web:ghosts").unwrap_err().to_string();
    assert_eq!(
        error,
        "unable to find user web:ghosts: group ghosts: no matching entries in group file"
    );
}

#[test]
fn upper_layers_decide() {
    for (name, upper, uid) in [
        ("replaced", &["file etc/passwd text=web:x:5:5::/:/x"][..], Some(5)),
        ("kept", &["file etc/other text=1"], Some(1000)),
        ("removed", &["file etc/.wh.passwd"], None),
        ("removed with its directory", &["file .wh.etc"], None),
        ("opaque", &["dir etc", "file etc/.wh..wh..opq"], None),
        (
            "relative link",
            &["symlink etc/passwd -> ../lib/users", "file lib/users text=web:x:6:6::/:/x"],
            Some(6),
        ),
        (
            "absolute link",
            &["symlink etc/passwd -> /lib/users", "file lib/users text=web:x:7:7::/:/x"],
            Some(7),
        ),
        (
            "link that climbs out",
            &["symlink etc/passwd -> ../../../lib/users", "file lib/users text=web:x:8:8::/:/x"],
            Some(8),
        ),
        ("linked directory", &["file .wh.etc", "file conf/passwd text=web:x:9:9::/:/x"], None),
        ("circle", &["symlink etc/passwd -> passwd"], None),
        ("fifo", &["fifo etc/passwd"], None),
    ] {
        let root = tempfile::tempdir().unwrap();
        let layers = stack(root.path(), &[&[PASSWD], upper]);
        assert_eq!(lookup_user(&layers, "web").ok().map(|user| user.uid), uid, "{name}");
    }
    assert_eq!(lookup_user(&[], "12:13").unwrap().gid, 13);
}
