//! A board of temporary files, and a maker of bundles for it.

use std::fs;
use std::io::{self, Cursor, Read};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::slot::Slot;
use minisign::KeyPair;

use crate::{
    BLOCK_LEN, Before, BootFacts, BootPartition, Compression, Error, FORMAT, INDEX, Journal,
    Manifest, Part, Places, Progress, ROOT, Release, Request, Sha256, Source, Uboot, Update,
    encode_head, hex, index_of, install,
};

pub(super) const ROOM: usize = 64 * BLOCK_LEN;

pub(super) struct Board {
    pub(super) folder: tempfile::TempDir,
    pub(super) places: Places,
    pub(super) facts: BootFacts,
    pub(super) key: KeyPair,
}

/// A bundle in the making.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) manifest: Manifest,
    pub(super) payload: Vec<u8>,
}

/// Blocks of these numbers.
pub(super) fn root(blocks: &[u8]) -> Vec<u8> {
    blocks.iter().flat_map(|number| [*number; BLOCK_LEN]).collect()
}

pub(super) fn release(version: &str, build: u64) -> Release {
    Release { board: "toaster".to_owned(), version: version.parse().unwrap(), build }
}

impl Maker {
    pub(super) fn new(version: &str, root: &[u8], files: &[(&str, &[u8])]) -> Maker {
        let index = index_of(root).unwrap();
        let parts = [(INDEX, index.as_slice()), (ROOT, root)];
        let mut payload = Vec::new();
        let mut list = Vec::new();
        for (name, bytes) in parts.iter().chain(files) {
            list.push(Part {
                name: (*name).to_owned(),
                size: bytes.len() as u64,
                sha256: hex(&Sha256::of(bytes)),
                offset: payload.len() as u64,
                stored: bytes.len() as u64,
                compression: Compression::None,
            });
            payload.extend_from_slice(bytes);
        }
        let manifest = Manifest {
            format: FORMAT,
            board: "toaster".to_owned(),
            version: version.parse().unwrap(),
            build: 100,
            minimum: None,
            healthy_within: 60,
            parts: list,
        };
        Maker { manifest, payload }
    }

    pub(super) fn signed(&self, key: &KeyPair) -> Vec<u8> {
        let manifest = self.manifest.encode().unwrap();
        let signature = minisign::sign(None, &key.sk, Cursor::new(&manifest), None, None).unwrap();
        let mut bundle = encode_head(&manifest, signature.into_string().as_bytes());
        bundle.extend_from_slice(&self.payload);
        bundle
    }
}

impl Board {
    pub(super) fn new() -> Board {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["boot/a", "boot/b", "data/server/db", "keys"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["root-a", "root-b"] {
            fs::write(at(name), vec![0; ROOM]).unwrap();
        }
        let key = KeyPair::generate_unencrypted_keypair().unwrap();
        fs::write(at("keys/one.pub"), key.pk.to_box().unwrap().into_string()).unwrap();
        fs::write(at("release.json"), serde_json::to_vec(&release("1.0.0", 100)).unwrap()).unwrap();
        let facts = BootFacts {
            slot: Slot::A,
            confirmed: true,
            disk: 1,
            root_a: at("root-a"),
            root_b: at("root-b"),
            settled: false,
            trial: false,
        };
        let places = Places {
            boot: BootPartition::plain(at("boot")),
            data: at("data"),
            root_a: at("root-a"),
            root_b: at("root-b"),
            keys: at("keys"),
            release: at("release.json"),
            facts: at("boot.json"),
        };
        Board { folder, places, facts, key }
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Everything outside the journal's folder, to see whether anything was written.
    pub(super) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        collect(self.folder.path(), &mut files);
        files.retain(|(path, _)| !path.contains("/upgrade/"));
        files.sort();
        files
    }

    pub(super) fn install(&self, source: &dyn Source) -> Result<Update, Error> {
        self.install_until(source, &mut |_| ControlFlow::Continue(()))
    }

    pub(super) fn install_until(
        &self,
        source: &dyn Source,
        tell: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Update, Error> {
        let loader = Uboot { boot: self.places.boot.clone() };
        install(&self.request(source), &loader, &mut || Ok(Before::default()), tell)
    }

    pub(super) fn request<'a>(&'a self, source: &'a dyn Source) -> Request<'a> {
        Request {
            places: &self.places,
            facts: &self.facts,
            source,
            name: "test".to_owned(),
            allow_downgrade: false,
        }
    }

    pub(super) fn journal(&self) -> Journal {
        Journal::read(&self.places.upgrade()).unwrap()
    }
}

fn collect(folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
        }
    }
}

/// A source in memory that counts what is taken from it.
pub(super) struct Memory {
    pub(super) bytes: Vec<u8>,
    pub(super) ranges: bool,
    pub(super) taken: AtomicU64,
    pub(super) requests: AtomicU64,
}

impl Memory {
    pub(super) fn new(bytes: Vec<u8>) -> Memory {
        Memory { bytes, ranges: true, taken: AtomicU64::new(0), requests: AtomicU64::new(0) }
    }
}

impl Source for Memory {
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let bound = |at: u64| usize::try_from(at).unwrap().min(self.bytes.len());
        let bytes = self.bytes[bound(range.start)..bound(range.end)].to_vec();
        let skipped = if self.ranges { 0 } else { range.start };
        self.taken.fetch_add(skipped + bytes.len() as u64, Ordering::Relaxed);
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn length(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn has_ranges(&self) -> bool {
        self.ranges
    }
}
