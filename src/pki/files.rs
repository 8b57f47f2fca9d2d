//! Credential files: written to a temporary file, synced and renamed, so that a reader never sees half a key.

use crate::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// A credential file larger than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Writes a file only its owner may read.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write(path, bytes, 0o600)
}

/// Writes a file everybody may read.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write(path, bytes, 0o644)
}

/// Reads a file as text; `None` if there is none.
pub fn read_private(path: &Path) -> Result<Option<String>, Error> {
    let fail = |source| Error::File { doing: "read", path: path.to_owned(), source };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            return Err(fail(io::Error::new(
                io::ErrorKind::InvalidData,
                "file is too large for a credential",
            )));
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(fail)
}

/// Makes a directory only its owner may enter.
pub fn make_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|source| Error::File { doing: "create directory", path: path.to_owned(), source })
}

pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    replace(path, bytes, mode).map_err(|source| Error::File {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no file name"))?;
    let temporary = parent.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    // A left-over of a killed process with the same id would keep its own mode.
    if let Err(e) = fs::remove_file(&temporary)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(e);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(parent)?.sync_all()
}
