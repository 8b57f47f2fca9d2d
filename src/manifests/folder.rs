//! The folder: which files are there, and learning of changes.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files that are looked at; what comes later by name is left out with a warning.
const FILES_MAX: usize = 256;
/// Folders in folders.
const DEPTH_MAX: usize = 4;
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
const SKIP: &str = ".skip";

/// A file that is to be applied, or whose objects are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// Name of the file without its ending, in the form of an object's name.
    pub(crate) addon: String,
    /// What tells that it was written since.
    pub(crate) stamp: Stamp,
    pub(crate) is_disabled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) modified: Option<SystemTime>,
    pub(crate) len: u64,
}

/// What lies in the folder.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: Vec<File>,
    pub(crate) folders: Vec<PathBuf>,
    /// Files that are left out, and why.
    pub(crate) problems: Vec<String>,
}

/// Walks the folder, in the order of the paths.
pub(crate) fn scan(base: &Path, disabled: &[String]) -> io::Result<Found> {
    let mut found = Found::default();
    let mut paths = Vec::new();
    walk(base, 0, &mut paths, &mut found)?;
    paths.sort_by(|(one, _), (other, _)| one.cmp(other));
    let skipped: Vec<String> = paths
        .iter()
        .filter_map(|(path, _)| Some(name(path).strip_suffix(SKIP)?.to_owned()))
        .collect();
    for (path, stamp) in paths {
        if skipped.contains(&name(&path)) || !has_ending(&path) {
            continue;
        }
        let Some(addon) = addon(&path) else {
            let text = "a file's name may have letters, digits, '-', '_' and '.'";
            found.problems.push(format!("{}: {text}", path.display()));
            continue;
        };
        if let Some(other) = found.files.iter().find(|file| file.addon == addon) {
            let other = other.path.display();
            found.problems.push(format!("{}: has the same name as {other}", path.display()));
            continue;
        }
        if found.files.len() == FILES_MAX {
            found.problems.push(format!("{}: more than {FILES_MAX} files", path.display()));
            break;
        }
        let is_disabled = is_disabled(base, &path, &addon, disabled);
        found.files.push(File { path, addon, stamp, is_disabled });
    }
    Ok(found)
}

fn walk(
    folder: &Path,
    depth: usize,
    paths: &mut Vec<(PathBuf, Stamp)>,
    found: &mut Found,
) -> io::Result<()> {
    found.folders.push(folder.to_owned());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if name(&path).starts_with('.') || paths.len() > 2 * FILES_MAX {
            continue;
        }
        // A file may be a symbolic link, or gone meanwhile.
        let Ok(about) = fs::metadata(&path) else { continue };
        if about.is_dir() && depth < DEPTH_MAX {
            walk(&path, depth + 1, paths, found)?;
        } else if about.is_file() {
            let stamp = Stamp { modified: about.modified().ok(), len: about.len() };
            paths.push((path, stamp));
        }
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn has_ending(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    ENDINGS.contains(&ending.as_str())
}

fn addon(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?.to_ascii_lowercase().replace(['_', ' '], "-");
    api::names::dns1123_subdomain(&stem).is_empty().then_some(stem)
}

/// `--disable` names a file without its ending, or a folder.
fn is_disabled(base: &Path, path: &Path, addon: &str, disabled: &[String]) -> bool {
    let below = path.parent().and_then(|folder| folder.strip_prefix(base).ok());
    let mut folders = below.into_iter().flat_map(Path::iter).map(|part| part.to_string_lossy());
    disabled.iter().any(|name| name == addon)
        || folders.any(|folder| disabled.iter().any(|name| *name == folder))
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
