//! Installing a bundle into the slot that does not run: check everything, write, read back, say that it may be tried.
//!
//! What is there already is not fetched: blocks of the root that the slot holds from an interrupted attempt, blocks and
//! files that the running slot has. So an update that was cut off goes on where it was, whoever cut it off.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use disk::slot::Slot;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::blocks::{BLOCK_LEN, INDEX, Index, Origin, Run, hashes};
use crate::board::{BootFacts, Release};
use crate::bundle::Bundle;
use crate::datastore;
use crate::digest::{Sha256, hex};
use crate::error::{Error, Refusal};
use crate::fetch::Fetcher;
use crate::journal::{Journal, Outcome, Verdict};
use crate::judge::{Facts, judge};
use crate::keys::Keys;
use crate::loader::Loader;
use crate::machine::{Before, State, Update};
use crate::manifest::{Manifest, Part, ROOT};
use crate::places::Places;
use crate::slot_files;
use crate::source::Source;

/// Blocks written at a time.
const BLOCKS_AT_ONCE: usize = 256;
/// Bytes after which written data is waited for, so that a slow card does not fill the memory.
const SYNC_EVERY: u64 = 8 << 20;
/// Left free on the data partition beside the copy of the datastore.
const DATA_SPARE: u64 = 16 << 20;

/// What is to be installed.
pub struct Request<'a> {
    pub places: &'a Places,
    pub facts: &'a BootFacts,
    pub source: &'a dyn Source,
    /// How the source is called.
    pub name: String,
    pub allow_downgrade: bool,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the slot that are in place, of all.
    pub done: u64,
    pub total: u64,
    /// Bytes that came from the source.
    pub fetched: u64,
}

/// Tells progress, and learns whether to go on.
pub(crate) struct Meter<'a> {
    progress: Progress,
    tell: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
}

impl Meter<'_> {
    pub(crate) fn add(&mut self, bytes: u64, fetched: u64) -> Result<(), Error> {
        self.progress.fetched = fetched;
        self.written(bytes)
    }

    pub(crate) fn written(&mut self, bytes: u64) -> Result<(), Error> {
        self.progress.done += bytes;
        match (self.tell)(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }

    pub(crate) fn fetched(&mut self, fetched: u64) {
        self.progress.fetched = fetched;
    }
}

/// Reads the bundle's head and says whether it can be installed; nothing is written.
pub fn check(request: &Request<'_>, loader: &dyn Loader) -> Result<(Bundle, Update), Error> {
    let Request { places, facts, .. } = request;
    loader.ready()?;
    let journal = Journal::read(&places.upgrade())?;
    journal.state.may_begin(facts.slot, facts.confirmed)?;
    let running = Release::read(&places.release)?;
    let bundle = Bundle::open(request.source, &Keys::read(&places.keys))?;
    let before_version = running.version.clone();
    judge(&bundle.manifest, &measure(places, facts, running)?, request.allow_downgrade)?;
    let update = Update {
        source: request.name.clone(),
        allow_downgrade: request.allow_downgrade,
        version: bundle.manifest.version.clone(),
        before_version,
        from: facts.slot,
        to: facts.slot.other(),
        healthy_within: bundle.manifest.healthy_within,
        before: Before::default(),
    };
    Ok((bundle, update))
}

/// Checks, writes and reads back; when it returns, the slot is to be tried at the next restart. How it ended is in the
/// journal, but for [`Error::Stopped`], after which the same request goes on.
pub fn install(
    request: &Request<'_>,
    loader: &dyn Loader,
    before: &mut dyn FnMut() -> Result<Before, Error>,
    tell: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Update, Error> {
    let folder = request.places.upgrade();
    let (bundle, mut update) = check(request, loader)?;
    let mut journal = Journal::read(&folder)?;
    journal.state = State::Writing(update.clone());
    journal.write(&folder)?;
    let written = write(request, &bundle, loader, tell).and_then(|()| before());
    journal.state = match &written {
        Ok(before) => {
            update.before = before.clone();
            State::Staged(update.clone())
        }
        Err(Error::Stopped) => return Err(Error::Stopped),
        Err(error) => {
            journal.last = Some(Outcome {
                verdict: Verdict::Failed,
                source: request.name.clone(),
                version: update.version.to_string(),
                reason: error.to_string(),
            });
            State::Idle
        }
    };
    journal.write(&folder)?;
    written.map(|_| update)
}

fn write(
    request: &Request<'_>,
    bundle: &Bundle,
    loader: &dyn Loader,
    tell: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<(), Error> {
    let Request { places, facts, .. } = request;
    let (manifest, slot) = (&bundle.manifest, facts.slot.other());
    loader.reject(slot)?;
    let total = manifest.parts.iter().map(|part| part.size).sum();
    let mut meter = Meter { progress: Progress { total, ..Progress::default() }, tell };
    let mut fetcher = Fetcher::new(request.source, bundle.payload_at..bundle.length());
    let index = fetch_index(manifest, &mut fetcher)?;
    meter.add((index.len() * crate::blocks::HASH_LEN) as u64, fetcher.fetched())?;
    let root = manifest.part(ROOT).ok_or_else(|| missing(ROOT))?;
    write_root(places, slot, root, &index, &mut fetcher, &mut meter)?;
    places.boot.writable(|boot| {
        slot_files::write(boot, manifest, slot, &mut fetcher, &mut meter)?;
        loader.complete(slot, facts.disk)
    })?;
    read_back_root(places, slot, root)?;
    slot_files::read_back(places.boot.folder(), manifest, slot)
}

fn missing(part: &str) -> Error {
    Refusal::Manifest(format!("part {part:?} is missing")).into()
}

fn fetch_index(manifest: &Manifest, fetcher: &mut Fetcher<'_>) -> Result<Index, Error> {
    let part = manifest.part(INDEX).ok_or_else(|| missing(INDEX))?;
    let mut bytes = Vec::new();
    let mut section =
        fetcher.read(part.offset..part.offset + part.stored).map_err(Error::Source)?;
    section.read_to_end(&mut bytes).map_err(Error::Source)?;
    check_hash(part, &Sha256::of(&bytes))?;
    Ok(Index::parse(&bytes)?)
}

fn check_hash(part: &Part, found: &[u8]) -> Result<(), Error> {
    let found = hex(found);
    if found == part.sha256.to_ascii_lowercase() {
        return Ok(());
    }
    Err(Error::Damaged { part: part.name.clone(), wanted: part.sha256.clone(), found })
}

/// Writes the blocks that are not in place.
fn write_root(
    places: &Places,
    slot: Slot,
    root: &Part,
    index: &Index,
    fetcher: &mut Fetcher<'_>,
    meter: &mut Meter<'_>,
) -> Result<(), Error> {
    let (path, other) = (places.root(slot), places.root(slot.other()));
    let target =
        File::options().read(true).write(true).open(path).map_err(Error::file("open", path))?;
    let running = File::open(other).map_err(Error::file("open", other))?;
    let in_place = hashes(&target, index.len()).map_err(Error::file("read", path))?;
    let there = hashes(&running, usize::MAX).map_err(Error::file("read", other))?;
    let mut writer =
        RunWriter { target: &target, running: &running, places, slot, root, index, unsynced: 0 };
    for run in index.plan(&in_place, &there) {
        writer.write(run, fetcher, meter)?;
    }
    target.sync_all().map_err(Error::file("sync", path))
}

struct RunWriter<'a> {
    target: &'a File,
    running: &'a File,
    places: &'a Places,
    slot: Slot,
    root: &'a Part,
    index: &'a Index,
    /// Bytes written since data was waited for.
    unsynced: u64,
}

impl RunWriter<'_> {
    fn write(
        &mut self,
        run: Run,
        fetcher: &mut Fetcher<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<(), Error> {
        let bytes = (run.count * BLOCK_LEN) as u64;
        let Run { first, count, origin } = run;
        match origin {
            Origin::Kept => meter.add(bytes, fetcher.fetched()),
            Origin::Running(from) => {
                let places = self.places;
                let other = places.root(self.slot.other());
                let mut position = (from * BLOCK_LEN) as u64;
                let running = self.running;
                self.copy(first, count, meter, |buffer| {
                    running.read_exact_at(buffer, position).map_err(Error::file("read", other))?;
                    position += buffer.len() as u64;
                    Ok(())
                })
            }
            Origin::Bundle => {
                let start = self.root.offset + (first * BLOCK_LEN) as u64;
                let mut section = fetcher.read(start..start + bytes).map_err(Error::Source)?;
                self.copy(first, count, meter, |buffer| {
                    section.read_exact(buffer).map_err(Error::Source)
                })?;
                meter.fetched(fetcher.fetched());
                Ok(())
            }
        }
    }

    /// Takes blocks from `next`, checks each, writes them.
    fn copy(
        &mut self,
        first: usize,
        count: usize,
        meter: &mut Meter<'_>,
        mut next: impl FnMut(&mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let places = self.places;
        let path = places.root(self.slot);
        let mut buffer = vec![0; BLOCKS_AT_ONCE.min(count) * BLOCK_LEN];
        let mut at = first;
        while at < first + count {
            let blocks = BLOCKS_AT_ONCE.min(first + count - at);
            let piece = buffer.get_mut(..blocks * BLOCK_LEN).unwrap_or_default();
            next(piece)?;
            for (number, block) in (at..).zip(piece.chunks(BLOCK_LEN)) {
                if !self.index.is(number, block) {
                    let part = format!("{} (block {number})", self.root.name);
                    let (wanted, found) = ("that of its index".to_owned(), hex(&Sha256::of(block)));
                    return Err(Error::Damaged { part, wanted, found });
                }
            }
            let position = (at * BLOCK_LEN) as u64;
            self.target.write_all_at(piece, position).map_err(Error::file("write", path))?;
            self.unsynced += piece.len() as u64;
            if self.unsynced >= SYNC_EVERY {
                self.target.sync_data().map_err(Error::file("sync", path))?;
                self.unsynced = 0;
            }
            meter.written(piece.len() as u64)?;
            at += blocks;
        }
        Ok(())
    }
}

/// Compares the root on the storage with the manifest.
fn read_back_root(places: &Places, slot: Slot, root: &Part) -> Result<(), Error> {
    let path = places.root(slot);
    let file = File::open(path).map_err(Error::file("open", path))?;
    forget_cached(&file);
    let (hash, length) =
        Sha256::of_reader(file.take(root.size)).map_err(Error::file("read", path))?;
    if length == root.size && hex(&hash) == root.sha256.to_ascii_lowercase() {
        return Ok(());
    }
    Err(Error::ReadBack { slot: slot.name(), part: root.name.clone() })
}

/// Lets the next read come from the storage instead of the memory.
pub(crate) fn forget_cached(file: &File) {
    // Where that is not possible, the read still finds what was written wrongly by us.
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Sizes of what an update would write to.
fn measure(places: &Places, facts: &BootFacts, running: Release) -> Result<Facts, Error> {
    let target = facts.slot.other();
    let path = places.root(target);
    let mut device = File::open(path).map_err(Error::file("open", path))?;
    let root_room = device.seek(SeekFrom::End(0)).map_err(Error::file("measure", path))?;
    let boot = places.boot.folder();
    let (boot_free, cluster) = free(boot)?;
    let (data_free, _) = free(&places.data)?;
    let old: u64 = slot_files::list(&boot.join(target.name()))
        .iter()
        .map(|(_, length)| length.div_ceil(cluster.max(1)) * cluster.max(1))
        .sum();
    Ok(Facts {
        running,
        target,
        root_room,
        boot_room: boot_free.saturating_add(old),
        data_room: data_free.saturating_sub(DATA_SPARE),
        datastore: datastore::size(&places.data),
        cluster,
    })
}

/// Free bytes of the file system a folder is in, and the unit it gives them out in.
fn free(folder: &Path) -> Result<(u64, u64), Error> {
    let space = sys::mount::space(folder).map_err(Error::file("measure", folder))?;
    Ok((space.available_bytes, space.block_bytes))
}
