//! The bill of materials of an image, as SPDX 2.3 in JSON, and the licence texts that have to go along.
//!
//! It lists the Debian packages that files were taken from, the crates linked into our programs, and what comes with
//! the compiler. The same inputs give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::board::Board;
use crate::crates::{self, Crate};
use crate::lock::Entry;
use crate::packages::{file_sha256, sha256};

pub(crate) const FILE: &str = "sbom.spdx.json";
/// Where the root has it.
const PLACE: &str = "usr/share/copepod/sbom.spdx.json";
const CRATE_LICENCES: &str = "usr/share/doc/copepod/licences.txt";
const SUPPLIER: &str = "Organization: Debian";
const UNKNOWN: &str = "NOASSERTION";
/// The compiler writes this into every program.
const COMPILER_MARK: &[u8] = b"rustc version ";
const VERSION_LENGTH_MAX: usize = 32;
/// Who holds the rights in what comes with the compiler.
const HOLDERS: [(&str, &str); 3] = [
    ("rust-std", "The Rust Project Developers"),
    ("musl", "Copyright 2005-2020 Rich Felker, et al."),
    ("sqlite", "in the public domain"),
];

/// A Debian package that something in the image comes from.
#[derive(Clone, Debug)]
pub(crate) struct Shipped {
    pub(crate) entry: Entry,
    /// Its files.
    pub(crate) unpacked: PathBuf,
}

pub(crate) struct Parts<'parts> {
    pub(crate) board: &'parts Board,
    /// The project's root.
    pub(crate) root: &'parts Path,
    pub(crate) programs: [&'parts Path; 2],
    pub(crate) packages: &'parts [Shipped],
    pub(crate) epoch: u64,
}

/// The bill, and the files for the root: itself and all licence texts, by path.
pub(crate) struct Bill {
    pub(crate) text: String,
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// One row of the bill.
#[derive(Debug, Default)]
struct Item {
    name: String,
    version: Option<String>,
    licence: Option<String>,
    sha256: Option<String>,
    purl: Option<String>,
    supplier: Option<&'static str>,
    download: Option<String>,
    /// Where the root has the text of its licence.
    licence_file: Option<String>,
    /// `OPERATING-SYSTEM`, `APPLICATION`, `LIBRARY`, …
    purpose: &'static str,
}

pub(crate) fn build(parts: &Parts<'_>) -> Result<Bill> {
    let crates = crates::linked(parts.root, &parts.board.cross)?;
    let mut items = programs(parts)?;
    for shipped in parts.packages {
        items.push(debian(shipped));
    }
    items.extend(crates.iter().filter(|krate| !krate.is_ours()).map(cargo));
    let linked_in = from_the_compiler(parts, &crates)?;
    let licences = licences(&crates, &linked_in)?.into_bytes();
    items.extend(linked_in);
    let text = document(parts, &items)?;
    let mut files =
        vec![(PLACE.to_owned(), text.clone().into_bytes()), (CRATE_LICENCES.to_owned(), licences)];
    for shipped in parts.packages {
        let name = copyright(&shipped.entry.name);
        let path = shipped.unpacked.join(&name);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        files.push((name, text));
    }
    Ok(Bill { text, files })
}

fn programs(parts: &Parts<'_>) -> Result<Vec<Item>> {
    let item = |(name, path): (&str, &Path)| {
        Ok(Item {
            name: name.to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            licence: Some("Apache-2.0".to_owned()),
            sha256: Some(file_sha256(path)?),
            purpose: "APPLICATION",
            ..Item::default()
        })
    };
    ["copepod", "stage1"].into_iter().zip(parts.programs).map(item).collect()
}

fn debian(shipped: &Shipped) -> Item {
    let Entry { suite, name, version, arch, sha256, .. } = &shipped.entry;
    let purl_version = version.replace(':', "%3A").replace('+', "%2B");
    Item {
        purl: Some(format!("pkg:deb/debian/{name}@{purl_version}?arch={arch}&distro={suite}")),
        name: name.clone(),
        version: Some(version.clone()),
        sha256: Some(sha256.clone()),
        supplier: Some(SUPPLIER),
        licence_file: Some(copyright(name)),
        purpose: if name.starts_with("linux-") { "OPERATING-SYSTEM" } else { "LIBRARY" },
        ..Item::default()
    }
}

fn copyright(package: &str) -> String {
    format!("usr/share/doc/{package}/copyright")
}

fn cargo(krate: &Crate) -> Item {
    let Crate { name, version, licence, checksum, .. } = krate;
    Item {
        purl: Some(format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))),
        download: Some(format!("https://crates.io/api/v1/crates/{name}/{version}/download")),
        name: name.clone(),
        version: Some(version.clone()),
        licence: licence.clone(),
        sha256: checksum.clone(),
        licence_file: Some(CRATE_LICENCES.to_owned()),
        purpose: "LIBRARY",
        ..Item::default()
    }
}

/// What no package manager knows of: the standard library, the C library, and C code inside of crates.
fn from_the_compiler(parts: &Parts<'_>, crates: &[Crate]) -> Result<Vec<Item>> {
    let library = |name: &str, version: Option<String>, licence: &str| Item {
        purl: Some(match &version {
            Some(version) => format!("pkg:generic/{name}@{version}"),
            None => format!("pkg:generic/{name}"),
        }),
        name: name.to_owned(),
        version,
        licence: Some(licence.to_owned()),
        licence_file: Some(CRATE_LICENCES.to_owned()),
        purpose: "LIBRARY",
        ..Item::default()
    };
    let [program, _] = parts.programs;
    let program = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let mut items = vec![
        library("rust-std", compiler(&program), "MIT OR Apache-2.0"),
        library("musl", None, "MIT"),
    ];
    if let Some(krate) = crates.iter().find(|krate| krate.name == "libsqlite3-sys") {
        let header = krate.source.join("sqlite3/sqlite3.h");
        let header =
            fs::read_to_string(&header).with_context(|| format!("read {}", header.display()))?;
        items.push(library("sqlite", defined(&header, "SQLITE_VERSION"), "blessing"));
    }
    Ok(items)
}

/// The version of the compiler (and its standard library) that made a program.
fn compiler(program: &[u8]) -> Option<String> {
    let start = program.windows(COMPILER_MARK.len()).position(|part| part == COMPILER_MARK)?;
    let rest = program.get(start + COMPILER_MARK.len()..)?;
    let version = rest.iter().take(VERSION_LENGTH_MAX).take_while(|byte| byte.is_ascii_graphic());
    Some(version.map(|byte| char::from(*byte)).collect())
}

/// The text a C header defines a name as.
fn defined(header: &str, name: &str) -> Option<String> {
    let line = header.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name));
    line.map(|value| value.trim().trim_matches('"').to_owned())
}

fn document(parts: &Parts<'_>, items: &[Item]) -> Result<String> {
    let name = format!("copepod-image-{}", parts.board.id);
    let image = Item {
        name: name.clone(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        purpose: "OPERATING-SYSTEM",
        ..Item::default()
    };
    let ids: Vec<String> = items.iter().map(identifier).collect();
    let packages: Vec<Value> = std::iter::once(&image).chain(items).map(package).collect();
    let related = |of: &str, kind: &str, to: &str| json!({"spdxElementId": of, "relationshipType": kind, "relatedSpdxElement": to});
    let image_id = identifier(&image);
    let mut relations = vec![related("SPDXRef-DOCUMENT", "DESCRIBES", &image_id)];
    relations.extend(ids.iter().map(|id| related(&image_id, "CONTAINS", id)));
    // A namespace has to differ whenever the content does.
    let digest = sha256(serde_json::to_string(&packages)?.as_bytes());
    let created = Timestamp::from_second(i64::try_from(parts.epoch)?)?.to_string();
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/{name}-{digest}"),
        "creationInfo": {"created": created, "creators": [format!("Tool: mkimage-{}", env!("CARGO_PKG_VERSION"))]},
        "packages": packages,
        "relationships": relations,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn package(item: &Item) -> Value {
    let unknown = || UNKNOWN.to_owned();
    let mut package = json!({
        "SPDXID": identifier(item),
        "name": item.name,
        "downloadLocation": item.download.clone().unwrap_or_else(unknown),
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": item.licence.clone().unwrap_or_else(unknown),
        "copyrightText": UNKNOWN,
        "primaryPackagePurpose": item.purpose,
    });
    let optional = [
        ("versionInfo", item.version.clone().map(Value::from)),
        ("supplier", item.supplier.map(Value::from)),
        ("licenseComments", item.licence_file.as_ref().map(|path| format!("text: /{path} in the root").into())),
        ("checksums", item.sha256.as_ref().map(|sum| json!([{"algorithm": "SHA256", "checksumValue": sum}]))),
        (
            "externalRefs",
            item.purl.as_ref().map(|purl| {
                json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}])
            }),
        ),
    ];
    if let Some(fields) = package.as_object_mut() {
        fields.extend(
            optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))),
        );
    }
    package
}

/// Letters, digits, dots and hyphens are all that an identifier may have.
fn identifier(item: &Item) -> String {
    let kind = item.purl.as_deref().and_then(|purl| purl.strip_prefix("pkg:")?.split('/').next());
    let text = format!(
        "{}-{}-{}",
        kind.unwrap_or("own"),
        item.name,
        item.version.as_deref().unwrap_or("")
    );
    let allowed = |char: char| if char.is_ascii_alphanumeric() || char == '.' { char } else { '-' };
    format!("SPDXRef-{}", text.trim_end_matches('-').chars().map(allowed).collect::<String>())
}

/// All licence texts of crates and of what is linked in beside them, each once, with those it is for. Where a package
/// brings none, those of the SPDX list that its licence names.
fn licences(crates: &[Crate], linked_in: &[Item]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |text: &str, user: String| {
        texts.entry(text.trim().to_owned()).or_default().push(user);
    };
    for krate in crates.iter().filter(|krate| !krate.is_ours()) {
        let own = krate.licence_texts()?;
        for (name, text) in &own {
            add(text, format!("{} {} ({name})", krate.name, krate.version));
        }
        if own.is_empty() {
            let authors = match krate.authors.as_slice() {
                [] => "its authors".to_owned(),
                authors => authors.join(", "),
            };
            for (id, text) in standard_texts(krate.licence.as_deref().unwrap_or_default())? {
                add(text, format!("{} {} ({id}; by {authors})", krate.name, krate.version));
            }
        }
    }
    for Item { name, licence, .. } in linked_in {
        let holder = HOLDERS.iter().find(|(of, _)| of == name).map_or("", |(_, holder)| holder);
        for (id, text) in standard_texts(licence.as_deref().unwrap_or_default())? {
            add(text, format!("{name} ({id}; {holder})"));
        }
    }
    let mut rows: Vec<(String, String)> =
        texts.into_iter().map(|(text, users)| (users.join(", "), text)).collect();
    rows.sort();
    let line = "-".repeat(80);
    Ok(rows.iter().map(|(users, text)| format!("{line}\n{users}\n{line}\n{text}\n\n")).collect())
}

/// The licences that an expression names, with their texts in the SPDX list.
fn standard_texts(expression: &str) -> Result<Vec<(&'static str, &'static str)>> {
    let expression = spdx::Expression::parse(expression)
        .with_context(|| format!("the licence {expression:?}"))?;
    let ids = expression.requirements().filter_map(|required| required.req.license.id());
    Ok(ids.map(|id| (id.name, id.text())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn bill(dir: &Path) -> Bill {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let board = Board::read(&root, "qemu-arm64").unwrap();
        let program = dir.join("program");
        fs::write(&program, b"\x7fELF..rustc version 1.95.0 (598 2026)").unwrap();
        let entry = Entry {
            suite: "bookworm".to_owned(),
            request: "busybox-static".to_owned(),
            arch: "arm64".to_owned(),
            name: "busybox-static".to_owned(),
            version: "1:1.35.0-4+deb12u1".to_owned(),
            sha256: "ab".repeat(32),
        };
        let unpacked = dir.join("unpacked");
        let doc = unpacked.join("usr/share/doc/busybox-static");
        fs::create_dir_all(&doc).unwrap();
        fs::write(doc.join("copyright"), "GPL-2").unwrap();
        let packages = [Shipped { entry, unpacked }];
        let programs = [program.as_path(), program.as_path()];
        let parts = Parts {
            board: &board,
            root: &root,
            programs,
            packages: &packages,
            epoch: 1_700_000_000,
        };
        build(&parts).unwrap()
    }

    #[test]
    fn a_bill_names_packages_crates_and_what_the_compiler_adds() {
        let dir = tempfile::tempdir().unwrap();
        let bill = bill(dir.path());
        let document: Value = serde_json::from_str(&bill.text).unwrap();
        assert_eq!(document["creationInfo"]["created"], "2023-11-14T22:13:20Z");
        let packages = document["packages"].as_array().unwrap();
        let find = |name: &str| packages.iter().find(|package| package["name"] == name).unwrap();
        let busybox = find("busybox-static");
        let purl =
            "pkg:deb/debian/busybox-static@1%3A1.35.0-4%2Bdeb12u1?arch=arm64&distro=bookworm";
        assert_eq!(busybox["externalRefs"][0]["referenceLocator"], purl);
        assert_eq!(busybox["SPDXID"], "SPDXRef-deb-busybox-static-1-1.35.0-4-deb12u1");
        assert_eq!(find("rust-std")["versionInfo"], "1.95.0");
        assert!(find("sqlite")["versionInfo"].as_str().unwrap().starts_with("3."));
        let ring = find("ring");
        assert_eq!(ring["licenseDeclared"], "Apache-2.0 AND ISC");
        assert_eq!(ring["checksums"][0]["checksumValue"].as_str().unwrap().len(), 64);
        let ids: BTreeSet<&str> = packages.iter().map(|p| p["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), packages.len(), "identifiers are unique");
        assert_eq!(document["relationships"].as_array().unwrap().len(), packages.len());
    }

    #[test]
    fn licence_texts_go_along_and_nothing_changes_between_builds() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (bill(dir.path()), bill(dir.path()));
        assert!(one.text == two.text && one.files == two.files);
        let names: Vec<&str> = one.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [PLACE, CRATE_LICENCES, "usr/share/doc/busybox-static/copyright"]);
        let (_, licences) = &one.files[1];
        let licences = String::from_utf8_lossy(licences);
        for part in
            ["tokio ", "Permission is hereby granted", "musl (MIT; Copyright 2005-2020 Rich"]
        {
            assert!(licences.contains(part), "{part}");
        }
    }

    #[test]
    fn every_row_that_points_to_the_licence_texts_is_named_there() {
        let dir = tempfile::tempdir().unwrap();
        let bill = bill(dir.path());
        let document: Value = serde_json::from_str(&bill.text).unwrap();
        let licences = String::from_utf8_lossy(&bill.files[1].1).into_owned();
        let mut rows = 0;
        for package in document["packages"].as_array().unwrap() {
            let comment = package["licenseComments"].as_str().unwrap_or_default();
            if comment.contains(CRATE_LICENCES) {
                let name = package["name"].as_str().unwrap();
                let listed = match package["versionInfo"].as_str() {
                    Some(version) if !HOLDERS.iter().any(|(other, _)| *other == name) => {
                        format!("{name} {version} (")
                    }
                    _ => format!("{name} ("),
                };
                assert!(licences.contains(&listed), "{listed} has no text");
                rows += 1;
            }
        }
        assert!(rows > 100, "{rows}");
    }
}
