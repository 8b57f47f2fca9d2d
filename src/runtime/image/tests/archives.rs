//! Importing archives, and what the store keeps, rebuilds and removes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::fixture::{Fixture, descriptor, host_platform, index, oci_archive};
use super::tarball::{Header, append, file, finish, gzip, layer, zstd};
use crate::image::{Error, ImageStore};

struct Place {
    directory: tempfile::TempDir,
    store: ImageStore,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    async fn import(&self, bytes: &[u8]) -> Result<Vec<crate::image::Image>, Error> {
        self.store.import(&self.write("archive.tar", bytes)).await
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn reopen(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        let store = ImageStore::open(&directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    fn count(&self, name: &str) -> usize {
        fs::read_dir(self.root().join(name)).unwrap().count()
    }
}

fn two_layers() -> Fixture {
    Fixture::new(&[layer(&[("base", "1")]), layer(&[("top", "2")])], gzip)
}

fn docker_archive(image: &Fixture, tags: &[&str], plain: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = Vec::new();
    let names: Vec<String> = (0..plain.len()).map(|at| format!("layer{at}/layer.tar")).collect();
    file(
        &mut archive,
        "manifest.json",
        json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}])
            .to_string()
            .as_bytes(),
    );
    for (name, layer) in names.iter().zip(plain) {
        file(&mut archive, name, layer);
    }
    file(&mut archive, "config.json", &image.config);
    finish(archive)
}

#[tokio::test]
async fn an_oci_layout_is_imported() {
    let image = two_layers();
    let plain = oci_archive(
        &[&image],
        &index(&[image.entry(Some(host_platform()), Some("docker.io/library/app:1"))]),
        &[],
    );
    for bytes in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let place = Place::new();
        let images = place.import(&bytes).await.unwrap();
        assert_eq!(images.len(), 1);
        let found = place.store.resolve("app:1").unwrap();
        assert_eq!(found.id, image.id());
        assert_eq!(found.references, ["docker.io/library/app:1"]);
        assert_eq!(found.digests, [format!("docker.io/library/app@{}", image.digest())]);
        assert_eq!(found.config.entrypoint, ["/bin/app"]);
        assert_eq!(
            (
                found.config.cmd.len(),
                found.config.user.as_str(),
                found.config.stop_signal.as_deref()
            ),
            (0, "web", Some("SIGQUIT"))
        );
        assert_eq!(fs::read_to_string(found.layers[0].join("top")).unwrap(), "2", "topmost first");
        assert_eq!(fs::read_to_string(found.layers[1].join("base")).unwrap(), "1");
        for name in [
            image.id(),
            image.id()[7..].to_owned(),
            format!("app@{}", image.digest()),
            "docker.io/app:1".to_owned(),
        ] {
            assert_eq!(
                place.store.resolve(&name).map(|found| found.id),
                Some(image.id()),
                "{name}"
            );
        }
        for name in ["app", "app:2", "other:1", "No Name", "sha256:12"] {
            assert!(place.store.resolve(name).is_none(), "{name}");
        }
        assert_eq!(place.count("tmp"), 0);
    }
}

#[tokio::test]
async fn the_platform_of_an_index_is_chosen() {
    let (mine, other) = (two_layers(), Fixture::new(&[layer(&[("x", "other")])], gzip));
    let inner = index(&[
        other.entry(Some(json!({"os": "linux", "architecture": "s390x"})), None),
        mine.entry(Some(host_platform()), None),
    ]);
    let mut top = descriptor("application/vnd.oci.image.index.v1+json", &inner);
    top["annotations"] = json!({"org.opencontainers.image.ref.name": "registry.lan/app:2"});
    let place = Place::new();
    // The other platform's blobs are missing, as in an archive made for one platform.
    let images = place.import(&oci_archive(&[&mine], &index(&[top]), &[&inner])).await.unwrap();
    assert_eq!(images[0].id, mine.id());
    assert_eq!(images[0].references, ["registry.lan/app:2"]);

    let only = index(&[other.entry(Some(json!({"os": "linux", "architecture": "s390x"})), None)]);
    let error = place.import(&oci_archive(&[&other], &only, &[])).await.unwrap_err().to_string();
    assert!(error.contains("no match for platform linux/"), "{error}");
}

#[tokio::test]
async fn docker_save_output_is_imported() {
    let plain = [layer(&[("base", "1")]), layer(&[("top", "2")])];
    let image = Fixture::docker(&plain, gzip);
    let place = Place::new();
    let images = place
        .import(&docker_archive(&image, &["app:1", "lan.local:5000/app:latest"], &plain))
        .await
        .unwrap();
    assert_eq!(images[0].id, image.id());
    assert_eq!(images[0].references, ["docker.io/library/app:1", "lan.local:5000/app:latest"]);
    assert_eq!(fs::read_to_string(images[0].layers[0].join("top")).unwrap(), "2");
}

#[tokio::test]
async fn equal_layers_may_be_links_and_are_mounted_once() {
    let one = layer(&[("base", "1")]);
    let image = Fixture::docker(&[one.clone(), one.clone()], gzip);
    let mut archive = Vec::new();
    let manifest =
        json!([{"Config": "c.json", "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    file(&mut archive, "a/layer.tar", &one);
    append(
        &mut archive,
        &Header { flag: b'2', path: "b/layer.tar", link: "../a/layer.tar", ..Header::default() },
        b"",
    );
    file(&mut archive, "c.json", &image.config);
    file(&mut archive, "manifest.json", manifest.to_string().as_bytes());
    let place = Place::new();
    let images = place.import(&finish(archive)).await.unwrap();
    assert_eq!((images[0].layers.len(), images[0].references.len()), (1, 0));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn broken_archives_are_explained() {
    let image = two_layers();
    let good = oci_archive(&[&image], &index(&[image.entry(None, Some("app:1"))]), &[]);
    let plain = [layer(&[("base", "1")])];
    let docker = Fixture::docker(&plain, gzip);
    let mut wrong_blob = image.clone();
    wrong_blob.layers[1] = gzip(&layer(&[("top", "changed")]));
    let mut renamed = Vec::new();
    for (digest, bytes) in image.blobs() {
        let bytes = if bytes == image.layers[1] { &wrong_blob.layers[1] } else { &bytes };
        let padded: Vec<u8> = bytes
            .iter()
            .copied()
            .chain(std::iter::repeat(0))
            .take(image.blobs()[&digest].len())
            .collect();
        file(&mut renamed, &format!("blobs/sha256/{}", &digest[7..]), &padded);
    }
    file(&mut renamed, "index.json", &index(&[image.entry(None, None)]));
    let missing_config = {
        let mut archive = Vec::new();
        file(
            &mut archive,
            "manifest.json",
            br#"[{"Config":"gone.json","RepoTags":[],"Layers":[]}]"#,
        );
        finish(archive)
    };
    let zstd_cut = {
        let z = zstd(&good);
        z[..z.len() / 2].to_vec()
    };
    let gzip_cut = {
        let z = gzip(&good);
        z[..z.len() / 2].to_vec()
    };
    for (name, bytes, reason) in [
        ("text", b"hello, this is no archive at all".repeat(40), "bad header checksum"),
        (
            "empty",
            Vec::new(),
            "it has neither index.json (OCI layout) nor manifest.json (docker save)",
        ),
        ("cut", good[..good.len() / 2].to_vec(), "truncated"),
        ("cut gzip", gzip_cut, "truncated"),
        ("cut zstd", zstd_cut, "compressed data is invalid"),
        ("other tar", layer(&[("a", "1")]), "it has neither index.json"),
        ("wrong layer", finish(renamed), "layer"),
        ("missing blobs", oci_archive(&[], &index(&[image.entry(None, None)]), &[]), "not found"),
        ("missing config", missing_config, "gone.json in the archive: not found"),
        (
            "bad name",
            oci_archive(&[&image], &index(&[image.entry(None, Some("Bad Name"))]), &[]),
            "couldn't parse image name",
        ),
        (
            "broken json",
            {
                let mut a = Vec::new();
                file(&mut a, "index.json", b"{");
                finish(a)
            },
            "index.json is invalid",
        ),
        (
            "wrong layer count",
            docker_archive(&docker, &[], &[plain[0].clone(), plain[0].clone()]),
            "it names 1 layers, the manifest 2",
        ),
        (
            "wrong diff id",
            docker_archive(&docker, &[], &[layer(&[("base", "2")])]),
            "unpacked layer: expected digest",
        ),
        (
            "hostile layer",
            {
                let p = [layer(&[("../x", "1")])];
                docker_archive(&Fixture::docker(&p, gzip), &[], &p)
            },
            "entry \"../x\": its path contains \"..\"",
        ),
    ] {
        let place = Place::new();
        let error = place.import(&bytes).await.unwrap_err().to_string();
        let prefix = format!(
            "failed to import archive {}: ",
            place.directory.path().join("archive.tar").display()
        );
        assert!(error.starts_with(&prefix) && error.contains(reason), "{name}: {error}");
        assert_eq!(place.store.list().len(), 0, "{name}");
        assert_eq!((place.count("tmp"), place.count("images")), (0, 0), "{name}");
    }
    let place = Place::new();
    let error = place.store.import(Path::new("/no/such/file.tar")).await.unwrap_err().to_string();
    assert!(
        error.starts_with("failed to import archive /no/such/file.tar: failed to open"),
        "{error}"
    );
}

#[tokio::test]
async fn images_survive_reopening_and_lost_records() {
    let image = two_layers();
    let mut place = Place::new();
    place
        .import(&oci_archive(&[&image], &index(&[image.entry(None, Some("app:1"))]), &[]))
        .await
        .unwrap();
    fs::create_dir(place.root().join("tmp/layer-7")).unwrap();
    fs::write(place.root().join("blobs/.half.1"), "x").unwrap();
    place = place.reopen();
    assert_eq!(place.store.resolve("app:1").unwrap().id, image.id());
    assert_eq!((place.count("tmp"), place.count("blobs"), place.count("layers")), (0, 2, 2));

    fs::remove_dir_all(place.root().join("images")).unwrap();
    place = place.reopen();
    assert!(place.store.resolve("app:1").is_none(), "tags are lost with the record");
    assert_eq!(place.store.resolve(&image.id()).unwrap().layers.len(), 2, "but the image is not");

    fs::write(place.root().join("images").join(format!("{}.json", &image.id()[7..])), "{").unwrap();
    place = place.reopen();
    assert_eq!(place.store.list().len(), 1);

    let lost = place.store.list()[0].layers[0].clone();
    fs::remove_dir_all(lost).unwrap();
    place = place.reopen();
    assert_eq!(
        (place.store.list().len(), place.count("layers"), place.count("blobs")),
        (0, 0, 0),
        "an incomplete image is dropped"
    );
}

#[tokio::test]
async fn removal_keeps_what_others_need() {
    let (base, one, two) =
        (layer(&[("base", "1")]), layer(&[("one", "1")]), layer(&[("two", "2")]));
    let first = Fixture::new(&[base.clone(), one], gzip);
    let second = Fixture::new(&[base, two], gzip);
    let place = Place::new();
    place
        .import(&oci_archive(
            &[&first, &second],
            &index(&[first.entry(None, Some("a:1")), second.entry(None, Some("b:1"))]),
            &[],
        ))
        .await
        .unwrap();
    assert_eq!((place.count("layers"), place.count("blobs")), (3, 4));
    let shared = place.store.resolve("b:1").unwrap().layers[1].clone();
    place.store.remove("a:1").await.unwrap();
    assert!(place.store.resolve(&first.id()).is_none() && shared.join("base").exists());
    assert_eq!((place.count("layers"), place.count("blobs"), place.count("images")), (2, 2, 1));
    place.store.remove("a:1").await.unwrap();
    place.store.remove(&second.id()).await.unwrap();
    assert_eq!((place.count("layers"), place.count("blobs"), place.count("tmp")), (0, 0, 0));
}

#[tokio::test]
async fn a_tag_moves_to_the_newer_image() {
    let (old, new) = (two_layers(), Fixture::new(&[layer(&[("new", "1")])], gzip));
    let mut place = Place::new();
    place
        .import(&oci_archive(
            &[&old],
            &index(&[old.entry(None, Some("app:1")), old.entry(None, Some("app:old"))]),
            &[],
        ))
        .await
        .unwrap();
    place
        .import(&oci_archive(&[&new], &index(&[new.entry(None, Some("app:1"))]), &[]))
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(place.store.resolve("app:1").unwrap().id, new.id());
        assert_eq!(
            place.store.resolve("app:old").unwrap().references,
            ["docker.io/library/app:old"]
        );
        place = place.reopen();
    }
}

#[tokio::test]
async fn an_archive_is_imported_once() {
    let (old, new) = (two_layers(), Fixture::new(&[layer(&[("new", "1")])], gzip));
    let mut place = Place::new();
    let archive =
        |image: &Fixture| oci_archive(&[image], &index(&[image.entry(None, Some("app:1"))]), &[]);
    let path = place.write("old.tar", &archive(&old));
    place.store.import(&path).await.unwrap();
    place.import(&archive(&new)).await.unwrap();
    place = place.reopen();
    // The old archive lies there still, but the tag stays with the newer image.
    assert_eq!(place.store.import(&path).await.unwrap()[0].id, old.id());
    assert_eq!(place.store.resolve("app:1").unwrap().id, new.id());

    place.store.remove(&old.id()).await.unwrap();
    assert_eq!(
        place.store.import(&path).await.unwrap()[0].id,
        old.id(),
        "what was removed is imported again"
    );
    fs::write(&path, archive(&new)).unwrap();
    assert_eq!(place.store.import(&path).await.unwrap()[0].id, new.id(), "a changed archive, too");
    fs::remove_file(&path).unwrap();
    place = place.reopen();
    assert_eq!(place.count("imports"), 1, "its note went with it");
    assert!(place.store.import(&path).await.is_err());
}
