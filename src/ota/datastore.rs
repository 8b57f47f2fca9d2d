//! The datastore as it was before a trial: kept aside while nothing uses it, put back before anything uses it again.
//!
//! Both happen while no node runs, so the files are copied as they are, SQLite's log with them. Putting back needs no
//! room: the copy and the datastore change places in one step, so that after a power cut either is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Folder of the datastore below the data partition.
const FOLDER: &str = "server/db";
/// What the database consists of when nobody has it open; its index of the log is made anew.
const FILES: [&str; 2] = ["state.db", "state.db-wal"];
const COPY: &str = "datastore";
const UNFINISHED: &str = "datastore.new";
/// In the copy from the beginning: tells it from the datastore of the trial, and the next node that revisions went back.
const MARK: &str = "put-back";

/// Bytes that [`keep`] will write.
#[must_use]
pub(crate) fn size(data: &Path) -> u64 {
    let folder = data.join(FOLDER);
    FILES
        .iter()
        .filter_map(|name| fs::metadata(folder.join(name)).ok())
        .map(|file| file.len())
        .sum()
}

/// Copies the datastore aside; a copy of an earlier try is replaced.
pub fn keep(data: &Path, upgrade: &Path) -> Result<(), Error> {
    forget(upgrade)?;
    let (source, target) = (data.join(FOLDER), upgrade.join(UNFINISHED));
    fs::create_dir_all(&target).map_err(Error::file("create", &target))?;
    for name in FILES {
        copy(&source.join(name), &target.join(name))?;
    }
    // It takes the place of the other folder one day.
    if let Ok(data) = fs::metadata(&source) {
        fs::set_permissions(&target, data.permissions())
            .map_err(Error::file("change the mode of", &target))?;
    }
    let mark = target.join(MARK);
    fs::write(&mark, []).map_err(Error::file("write", &mark))?;
    sync(&target)?;
    let whole = upgrade.join(COPY);
    fs::rename(&target, &whole).map_err(Error::file("rename", &target))?;
    sync(upgrade)
}

/// Puts the copy in the datastore's place; can be repeated. Without a copy everything stays as it is.
pub fn put_back(data: &Path, upgrade: &Path) -> Result<(), Error> {
    let (copy, place) = (upgrade.join(COPY), data.join(FOLDER));
    // What changed places before has no mark any more.
    if !copy.join(FILES[0]).is_file() || !copy.join(MARK).is_file() {
        return Ok(());
    }
    remove(&place.join(MARK))?;
    fs::create_dir_all(&place).map_err(Error::file("create", &place))?;
    sys::files::exchange(&copy, &place).map_err(Error::file("put back", &place))?;
    sync(upgrade)?;
    sync(place.parent().unwrap_or(data))
}

/// Whether the datastore was put back since [`clear_put_back_mark`].
#[must_use]
pub fn was_put_back(data: &Path) -> bool {
    mark(data).exists()
}

pub fn clear_put_back_mark(data: &Path) -> Result<(), Error> {
    remove(&mark(data))
}

fn mark(data: &Path) -> PathBuf {
    data.join(FOLDER).join(MARK)
}

/// Removes the copy.
pub fn forget(upgrade: &Path) -> Result<(), Error> {
    for name in [COPY, UNFINISHED] {
        let path = upgrade.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Copies a file and waits for the disk; whether there was one.
fn copy(source: &Path, target: &Path) -> Result<bool, Error> {
    let mut from = match fs::File::open(source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(Error::file("open", source))?,
    };
    let mut options = fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
    let mut to = options.open(target).map_err(Error::file("create", target))?;
    io::copy(&mut from, &mut to).map_err(Error::file("write", target))?;
    to.sync_all().map_err(Error::file("sync", target))?;
    Ok(true)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), Error> {
    sys::files::sync_dir(folder).map_err(Error::file("sync", folder))
}
