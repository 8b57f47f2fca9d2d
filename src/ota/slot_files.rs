//! The slot's files on the boot partition: taken from where they are already, or unpacked from the bundle, and hashed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use disk::slot::Slot;
use ruzstd::decoding::StreamingDecoder;

use crate::digest::{Sha256, hex};
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::install::Meter;
use crate::manifest::{Compression, Manifest, Part};

const COPY_LEN: usize = 256 * 1024;

/// Bytes and files of a slot's folder.
pub(crate) fn list(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => folders.push(entry.path()),
                Ok(data) => found.push((entry.path(), data.len())),
                Err(_) => {}
            }
        }
    }
    found
}

/// Brings all files of the manifest into the slot's folder, and removes all others.
pub(crate) fn write(
    boot: &Path,
    manifest: &Manifest,
    slot: Slot,
    fetcher: &mut Fetcher<'_>,
    meter: &mut Meter<'_>,
) -> Result<(), Error> {
    let (target, running) = (boot.join(slot.name()), boot.join(slot.other().name()));
    fs::create_dir_all(&target).map_err(Error::file("create", &target))?;
    for (path, _) in list(&target) {
        let wanted =
            manifest.files().any(|part| is_file(&path, part) && path == target.join(&part.name));
        if !wanted {
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    for part in manifest.files() {
        let (path, there) = (target.join(&part.name), running.join(&part.name));
        if !path.exists() {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
            }
            if is_file(&there, part) {
                let from = File::open(&there).map_err(Error::file("open", &there))?;
                copy(part, &path, from, Error::file("read", &there), meter)?;
            } else {
                unpack(part, &path, fetcher, meter)?;
            }
        } else {
            meter.add(part.size, fetcher.fetched())?;
        }
        meter.fetched(fetcher.fetched());
    }
    sys::files::sync_dir(&target).map_err(Error::file("sync", &target))
}

/// Whether the file is the part as it should be.
fn is_file(path: &Path, part: &Part) -> bool {
    let same = |data: fs::Metadata| data.is_file() && data.len() == part.size;
    fs::metadata(path).is_ok_and(same)
        && File::open(path)
            .and_then(Sha256::of_reader)
            .is_ok_and(|(hash, _)| hex(&hash) == part.sha256.to_ascii_lowercase())
}

/// Compares the slot's files on the storage with the manifest.
pub(crate) fn read_back(boot: &Path, manifest: &Manifest, slot: Slot) -> Result<(), Error> {
    for part in manifest.files() {
        let path = boot.join(slot.name()).join(&part.name);
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        crate::install::forget_cached(&file);
        if !is_file(&path, part) {
            return Err(Error::ReadBack { slot: slot.name(), part: part.name.clone() });
        }
    }
    Ok(())
}

fn unpack(
    part: &Part,
    path: &Path,
    fetcher: &mut Fetcher<'_>,
    meter: &mut Meter<'_>,
) -> Result<(), Error> {
    let section = fetcher.read(part.offset..part.offset + part.stored).map_err(Error::Source)?;
    match part.compression {
        Compression::None => copy(part, path, section, Error::Source, meter),
        Compression::Zstd => {
            let decoder = StreamingDecoder::new(section);
            let decoder =
                decoder.map_err(|error| Error::Source(io::Error::other(error.to_string())))?;
            copy(part, path, decoder, Error::Source, meter)
        }
    }
}

/// Writes at most as much as the part says, and checks its hash.
fn copy(
    part: &Part,
    path: &Path,
    reader: impl Read,
    wrong: impl FnOnce(io::Error) -> Error,
    meter: &mut Meter<'_>,
) -> Result<(), Error> {
    let mut file = File::create(path).map_err(Error::file("create", path))?;
    let mut reader = reader.take(part.size);
    let mut buffer = vec![0; COPY_LEN];
    let mut hash = Sha256::default();
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return Err(wrong(error)),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        hash.update(bytes);
        file.write_all(bytes).map_err(Error::file("write", path))?;
        meter.written(read as u64)?;
    }
    file.sync_all().map_err(Error::file("sync", path))?;
    let found = hex(&hash.finish());
    if found != part.sha256.to_ascii_lowercase() {
        let (part, wanted) = (part.name.clone(), part.sha256.clone());
        return Err(Error::Damaged { part, wanted, found });
    }
    Ok(())
}
