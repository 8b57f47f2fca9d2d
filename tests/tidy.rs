//! The rules of the tree that no lint knows: which crate may use which, how large a file may be, what must be documented.

use std::fs;
use std::path::{Path, PathBuf};

/// The crates of ours that each crate may depend on; the table of ARCHITECTURE.md.
const EDGES: &[(&str, &[&str])] = &[
    ("agent", &["api", "client", "pki", "runtime", "sys"]),
    ("api", &[]),
    ("apiserver", &["api", "pki", "schema", "store"]),
    ("bench", &["client", "network", "testkit", "tunnel"]),
    ("client", &["api"]),
    ("cluster", &["api", "client", "pki", "tunnel"]),
    ("controllers", &["api", "client"]),
    ("disk", &[]),
    ("init", &["api", "disk", "ota", "sys"]),
    ("manifests", &["api", "client", "schema", "sys"]),
    ("mkimage", &["disk", "init", "ota", "sys"]),
    ("network", &["api", "client", "sys"]),
    ("ota", &["disk", "sys"]),
    ("pki", &[]),
    ("runtime", &["pki", "sys"]),
    ("scheduler", &["api", "client"]),
    ("schema", &["api"]),
    ("store", &[]),
    ("sys", &[]),
    ("testkit", &[]),
    ("tunnel", &[]),
];

const FILE_LINES_MAX: usize = 800;

const BANNED_NAMES: [&str; 5] = ["util", "utils", "common", "helpers", "misc"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("tests"), &mut files);
    let name =
        |path: &Path| path.strip_prefix(root()).expect("below the root").display().to_string();
    files.into_iter().map(|p| (name(&p), fs::read_to_string(&p).expect("source"))).collect()
}

/// Names of our crates in the `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let section =
        manifest.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
    section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| EDGES.iter().any(|(ours, _)| ours == name))
        .collect()
}

#[test]
fn crates_depend_only_downwards() {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(root().join("src")).expect("src").flatten().filter(|e| e.path().is_dir())
    {
        let name = entry.file_name().into_string().expect("name");
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).expect("manifest");
        let Some((_, allowed)) = EDGES.iter().find(|(n, _)| *n == name) else {
            panic!("crate {name} is not in the table of edges");
        };
        for dependency in dependencies(&manifest) {
            assert!(allowed.contains(&dependency), "{name} must not depend on {dependency}");
        }
        found.push(name);
    }
    for (name, _) in EDGES {
        assert!(
            found.iter().any(|f| f == name),
            "the table of edges names {name}, which is no crate"
        );
    }
}

#[test]
fn files_are_documented_and_of_one_subject() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines, more than {FILE_LINES_MAX}");
        let docs = text.lines().filter(|l| l.starts_with("//!")).count();
        let wanted = if name.ends_with("/lib.rs") { 3 } else { 1 };
        assert!(
            docs >= wanted,
            "{name} opens with {docs} lines of module documentation, {wanted} are wanted"
        );
        let path = Path::new(&name);
        for part in path.with_extension("").components() {
            let part = part.as_os_str().to_str().expect("name");
            assert!(!BANNED_NAMES.contains(&part), "{name}: {part} says nothing about its content");
        }
    }
}

#[test]
fn unfinished_code_is_not_committed() {
    let marks = ["todo", "unimplemented"].map(|m| format!("{m}!("));
    for (name, text) in sources() {
        for mark in &marks {
            assert!(!text.contains(mark), "{name} contains {mark}");
        }
    }
}
