//! Images from files: OCI layouts and the output of `docker save`, as tar, plain or compressed. The archive is listed
//! once, then its parts are read where they lie, in whatever order it has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::digest::Digest;
use super::error::Error;
use super::imported::fingerprint;
use super::layers::Slot;
use super::manifest::{
    Configuration, DOCKER_MANIFEST, DOCUMENT_BYTES_MAX, Descriptor, Document, Index, LAYERS_MAX,
    Manifest,
};
use super::platform::Platform;
use super::reference::Reference;
use super::store::{Complete, Image, Inner, Record, transferred_size};
use super::unpack::decompress::Decoder;
use super::unpack::tarstream::{Kind, TarReader, show};

/// Files in one archive.
const ENTRIES_MAX: usize = 100_000;
/// Largest archive after decompression.
const ARCHIVE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Images in one archive.
const IMAGES_MAX: usize = 1000;
/// Old `docker save` output links equal layers to each other.
const LINKS_MAX: u32 = 8;
const INDEX_DEPTH_MAX: u32 = 3;
const NAME_ANNOTATION: &str = "io.containerd.image.name";
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_PLAIN_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Imports every image of the archive at `path`; what it was named there becomes its references. An archive that was
/// imported before, and whose images are still there, is not read again.
pub(super) fn import(inner: &Arc<Inner>, path: &Path) -> Result<Vec<Image>, Error> {
    let fail = |error: Error| Error::Archive { path: path.to_owned(), reason: error.to_string() };
    let fingerprint = fingerprint(path).map_err(Error::io("open", path)).map_err(fail)?;
    let known = inner.imported.find(path, &fingerprint);
    if let Some(note) = known.filter(|note| note.references.iter().all(|name| inner.is_named(name)))
        && let Some(images) = note.images.iter().map(|id| inner.find(id)).collect()
    {
        return Ok(images);
    }
    let images = read(inner, path).map_err(fail)?;
    inner.imported.remember(path, fingerprint, &images)?;
    Ok(images)
}

fn read(inner: &Arc<Inner>, path: &Path) -> Result<Vec<Image>, Error> {
    let unpacked = inner.layers.temporary("archive");
    let imported = open(path, &unpacked).and_then(|archive| archive.import(inner));
    // Only there if the archive was compressed.
    if let Err(error) = std::fs::remove_file(&unpacked)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %unpacked.display(), %error, "failed to remove an unpacked archive");
    }
    imported
}

/// Opens an archive so that it can be read at any place: a compressed one is unpacked into `scratch` first.
fn open(path: &Path, scratch: &Path) -> Result<Archive, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut decoder = Decoder::new(BufReader::new(file)).map_err(Error::io("read", path))?;
    let file = if decoder.is_plain() {
        File::open(path).map_err(Error::io("open", path))?
    } else {
        let mut plain = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(scratch)
            .map_err(Error::io("create", scratch))?;
        let length = io::copy(&mut (&mut decoder).take(ARCHIVE_BYTES_MAX + 1), &mut plain)
            .map_err(|error| {
                Error::invalid(
                    "compressed data",
                    if error.kind() == io::ErrorKind::UnexpectedEof {
                        "it is truncated".to_owned()
                    } else {
                        error.to_string()
                    },
                )
            })?;
        if length > ARCHIVE_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "unpacked archive".to_owned(),
                limit: ARCHIVE_BYTES_MAX,
            });
        }
        plain
    };
    Archive::list(file)
}

/// Where a file of the archive is.
enum Place {
    Data { offset: u64, size: u64 },
    Link(String),
}

struct Archive {
    file: File,
    places: BTreeMap<String, Place>,
}

/// One image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image found in an archive, and where each of its layers is.
struct Found {
    record: Record,
    configuration: Configuration,
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    layers: Vec<(String, Option<Descriptor>)>,
}

impl Archive {
    fn list(mut file: File) -> Result<Self, Error> {
        let read = |error: io::Error| Error::invalid("archive", error);
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut places = BTreeMap::new();
        let mut archive = TarReader::new(BufReader::new(file.try_clone().map_err(read)?));
        while let Some(entry) =
            archive.next_entry().map_err(|error| Error::invalid("archive", error))?
        {
            let Ok(name) = std::str::from_utf8(&entry.path) else {
                return Err(Error::invalid(
                    format!("entry {:?}", entry.name()),
                    "its name is not valid UTF-8",
                ));
            };
            let name = normalize(name);
            let offset = archive.source_mut().stream_position().map_err(read)?;
            let place = match entry.kind {
                Kind::File if offset.saturating_add(entry.size) > length => {
                    return Err(Error::invalid(
                        format!("entry {:?}", entry.name()),
                        "archive is truncated in its data",
                    ));
                }
                Kind::File => Some(Place::Data { offset, size: entry.size }),
                Kind::Symlink => Some(Place::Link(join(&name, &show(&entry.link)))),
                Kind::Hardlink => Some(Place::Link(normalize(&show(&entry.link)))),
                _ => None,
            };
            if let Some(place) = place {
                places.insert(name, place);
            }
            if places.len() > ENTRIES_MAX {
                return Err(Error::invalid(
                    "archive",
                    format!("it has more than {ENTRIES_MAX} files"),
                ));
            }
            let skip = i64::try_from(archive.leave_data())
                .map_err(|error| Error::invalid("archive", error))?;
            archive.source_mut().seek_relative(skip).map_err(read)?;
        }
        Ok(Self { file, places })
    }

    fn import(&self, inner: &Arc<Inner>) -> Result<Vec<Image>, Error> {
        let found = if self.places.contains_key("index.json") {
            self.find_oci(&Platform::host())?
        } else if self.places.contains_key("manifest.json") {
            self.saved()?.iter().map(|saved| self.find_saved(saved)).collect::<Result<_, _>>()?
        } else {
            return Err(Error::invalid(
                "archive",
                "it has neither index.json (OCI layout) nor manifest.json (docker save)",
            ));
        };
        found.into_iter().map(|found| self.load(inner, found)).collect()
    }

    /// Unpacks what is missing and records the image.
    fn load(&self, inner: &Arc<Inner>, found: Found) -> Result<Image, Error> {
        let mut claims: Vec<Arc<Slot>> = Vec::new();
        for (diff_id, (path, descriptor)) in found.configuration.diff_ids.iter().zip(&found.layers)
        {
            let slot = inner.layers.claim(diff_id);
            {
                let _guard = slot.lock.blocking_lock();
                if !inner.layers.contains(diff_id) {
                    let source = BufReader::new(self.reader(path)?);
                    let blob =
                        descriptor.as_ref().map(|descriptor| (&descriptor.digest, descriptor.size));
                    inner.layers.add(source, diff_id, blob)?;
                }
            }
            claims.push(slot);
        }
        let Found { record, configuration, manifest_bytes, config_bytes, .. } = found;
        inner.commit(Complete { record, configuration, manifest_bytes, config_bytes })
    }

    fn find_oci(&self, platform: &Platform) -> Result<Vec<Found>, Error> {
        let bytes = self.document("index.json")?;
        let Document::Index(index) = Document::parse("index.json", &bytes)? else {
            return Err(Error::invalid("index.json", "it is not an index"));
        };
        if index.manifests.len() > IMAGES_MAX {
            return Err(Error::invalid(
                "index.json",
                format!("it lists more than {IMAGES_MAX} images"),
            ));
        }
        // Newer `docker save` writes both; its tags are then needed for images without annotations.
        let saved =
            if self.places.contains_key("manifest.json") { self.saved()? } else { Vec::new() };
        let mut found = Vec::new();
        for top in &index.manifests {
            let fits = top.platform.as_ref().is_none_or(|offered| platform.rank(offered).is_some());
            if fits
                && top
                    .annotations
                    .as_ref()
                    .is_none_or(|a| !a.contains_key("vnd.docker.reference.type"))
            {
                found.push(self.find_manifest(top, platform, &saved)?);
            }
        }
        if found.is_empty() {
            Err(Error::Platform { platform: platform.to_string() })
        } else {
            Ok(found)
        }
    }

    fn find_manifest(
        &self,
        top: &Descriptor,
        platform: &Platform,
        saved: &[Saved],
    ) -> Result<Found, Error> {
        let (digest, manifest_bytes, manifest) = self.descend(top, platform)?;
        let config_bytes = self.blob(&manifest.config)?;
        let what = format!("configuration {}", manifest.config.digest);
        let configuration = Configuration::parse(&what, &config_bytes)?;
        configuration.check_layers(&what, manifest.layers.len())?;
        let names = names(top, &manifest, saved)?;
        let record = Record {
            id: manifest.config.digest.clone(),
            references: names.iter().filter_map(Reference::tagged).collect(),
            digests: names.iter().map(|name| name.with_digest(&top.digest)).collect(),
            size: transferred_size(&manifest),
            manifest: digest,
        };
        let layers = manifest
            .layers
            .into_iter()
            .map(|layer| (blob_path(&layer.digest), Some(layer)))
            .collect();
        Ok(Found { record, configuration, manifest_bytes, config_bytes, layers })
    }

    fn descend(
        &self,
        top: &Descriptor,
        platform: &Platform,
    ) -> Result<(Digest, Vec<u8>, Manifest), Error> {
        let mut descriptor = top.clone();
        for _ in 0..=INDEX_DEPTH_MAX {
            let bytes = self.blob(&descriptor)?;
            match Document::parse(&format!("manifest {}", descriptor.digest), &bytes)? {
                Document::Manifest(manifest) => return Ok((descriptor.digest, bytes, manifest)),
                // An archive often holds one platform only of an index that names many.
                Document::Index(Index { manifests }) => {
                    let present = manifests
                        .into_iter()
                        .filter(|entry| self.places.contains_key(&blob_path(&entry.digest)))
                        .collect();
                    descriptor = Index { manifests: present }.choose(platform)?.clone();
                }
            }
        }
        Err(Error::invalid(
            format!("manifest {}", top.digest),
            format!("indexes are nested deeper than {INDEX_DEPTH_MAX}"),
        ))
    }

    fn saved(&self) -> Result<Vec<Saved>, Error> {
        let saved: Vec<Saved> = serde_json::from_slice(&self.document("manifest.json")?)
            .map_err(|error| Error::invalid("manifest.json", error))?;
        if saved.len() > IMAGES_MAX {
            return Err(Error::invalid(
                "manifest.json",
                format!("it lists more than {IMAGES_MAX} images"),
            ));
        }
        Ok(saved)
    }

    /// `docker save` has no manifest, so one is made that names the plain layers.
    fn find_saved(&self, saved: &Saved) -> Result<Found, Error> {
        let config_bytes = self.document(&saved.config)?;
        let configuration = Configuration::parse(&saved.config, &config_bytes)?;
        if saved.layers.len() > LAYERS_MAX {
            return Err(Error::invalid(
                "manifest.json",
                format!("an image has more than {LAYERS_MAX} layers"),
            ));
        }
        configuration.check_layers(&saved.config, saved.layers.len())?;
        let descriptor = |media_type: &str, digest: Digest, size: u64| Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
        };
        let layers = configuration.diff_ids.iter().zip(&saved.layers).map(|(diff_id, path)| {
            let (_, size) = self.place(path)?;
            Ok(descriptor(DOCKER_PLAIN_LAYER, diff_id.clone(), size))
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: DOCKER_MANIFEST.to_owned(),
            config: descriptor(DOCKER_CONFIG, Digest::of(&config_bytes), config_bytes.len() as u64),
            layers: layers.collect::<Result<_, Error>>()?,
        };
        let manifest_bytes =
            serde_json::to_vec(&manifest).map_err(|error| Error::invalid("manifest", error))?;
        let tags = saved.repo_tags.iter().flatten().map(|tag| Reference::parse(tag));
        let tags = tags.collect::<Result<Vec<_>, _>>()?;
        let record = Record {
            id: manifest.config.digest.clone(),
            references: tags.iter().filter_map(Reference::tagged).collect(),
            digests: BTreeSet::new(),
            size: transferred_size(&manifest),
            manifest: Digest::of(&manifest_bytes),
        };
        let layers = saved.layers.iter().map(|path| (path.clone(), None)).collect();
        Ok(Found { record, configuration, manifest_bytes, config_bytes, layers })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let path = blob_path(&descriptor.digest);
        let bytes = self.document(&path)?;
        let actual = Digest::of(&bytes);
        if actual == descriptor.digest {
            return Ok(bytes);
        }
        Err(Error::Mismatch {
            what: path,
            expected: descriptor.digest.to_string(),
            actual: actual.to_string(),
        })
    }

    fn document(&self, path: &str) -> Result<Vec<u8>, Error> {
        let (_, size) = self.place(path)?;
        if size > DOCUMENT_BYTES_MAX {
            return Err(Error::TooLarge { what: path.to_owned(), limit: DOCUMENT_BYTES_MAX });
        }
        let mut bytes = Vec::new();
        self.reader(path)?.read_to_end(&mut bytes).map_err(|error| Error::invalid(path, error))?;
        Ok(bytes)
    }

    fn place(&self, path: &str) -> Result<(u64, u64), Error> {
        let mut at = normalize(path);
        for _ in 0..LINKS_MAX {
            match self.places.get(&at) {
                Some(Place::Data { offset, size }) => return Ok((*offset, *size)),
                Some(Place::Link(target)) => at.clone_from(target),
                None => return Err(Error::NotFound { what: format!("{path} in the archive") }),
            }
        }
        Err(Error::invalid(path, "too many links"))
    }

    fn reader(&self, path: &str) -> Result<impl Read, Error> {
        let (offset, size) = self.place(path)?;
        let mut file = self.file.try_clone().map_err(|error| Error::invalid(path, error))?;
        file.seek(SeekFrom::Start(offset)).map_err(|error| Error::invalid(path, error))?;
        Ok(file.take(size))
    }
}

/// What an image is called: by annotation, or by the tags of a `manifest.json` beside the index.
fn names(top: &Descriptor, manifest: &Manifest, saved: &[Saved]) -> Result<Vec<Reference>, Error> {
    let annotation =
        |key: &str| top.annotations.as_ref().and_then(|annotations| annotations.get(key));
    if let Some(name) = annotation(NAME_ANNOTATION) {
        return Ok(vec![Reference::parse(name)?]);
    }
    let tags = saved.iter().filter(|saved| saved.config.contains(manifest.config.digest.hex()));
    let tags: Vec<_> = tags
        .flat_map(|saved| saved.repo_tags.iter().flatten())
        .map(|tag| Reference::parse(tag))
        .collect::<Result<_, _>>()?;
    if !tags.is_empty() {
        return Ok(tags);
    }
    // A bare tag names nothing.
    match annotation(REF_ANNOTATION).filter(|name| name.contains([':', '/'])) {
        Some(name) => Ok(vec![Reference::parse(name)?]),
        None => Ok(Vec::new()),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A link's target as a path of the archive.
fn join(link: &str, target: &str) -> String {
    let directory = link.rsplit_once('/').map_or("", |(directory, _)| directory);
    normalize(&format!("{directory}/{target}"))
}

/// Names lead nowhere but into the list of files, so two dots may simply be resolved.
fn normalize(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
