//! Files that lie ready before the first start: container images of the slot and of the owner, the owner's manifests.
//!
//! They are copied to where the node looks for them. A copy's name says where it is from, so that one whose source is
//! gone is taken away again, and nothing that others put there is touched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::phases::{BOOT, DATA};

/// Files of one folder that are looked at.
const FILES_MAX: usize = 256;
/// Room that a copy must leave for the node.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// Marks the copies of files on the boot partition.
const OWNERS: &str = "boot-";

/// From where to where below the data partition; what is put before the names; which names count.
struct Row {
    from: PathBuf,
    to: &'static str,
    mark: &'static str,
    endings: &'static [&'static str],
}

fn rows() -> [Row; 3] {
    const ARCHIVES: &[&str] = &[".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"];
    let owners =
        |from, to, endings| Row { from: Path::new(BOOT).join(from), to, mark: OWNERS, endings };
    [
        Row {
            from: "/usr/share/copepod/images".into(),
            to: "agent/images",
            mark: "",
            endings: ARCHIVES,
        },
        owners("images", "agent/images", ARCHIVES),
        owners("manifests", "server/manifests", &[".yaml", ".yml", ".json"]),
    ]
}

/// Copies everything that is not there yet; returns what failed.
pub(crate) fn all() -> Vec<String> {
    let mut failures = Vec::new();
    for row in rows() {
        if let Err(error) = folder(&row, &Path::new(DATA).join(row.to), &mut failures) {
            failures.push(error.to_string());
        }
    }
    failures
}

fn folder(row: &Row, target: &Path, failures: &mut Vec<String>) -> Result<(), Error> {
    let mut kept = BTreeSet::new();
    for (name, path) in files(row)? {
        let copy = format!("{}{name}", row.mark);
        // One file that is too large must not keep the others away.
        if let Err(error) = file(&path, target, &copy) {
            failures.push(error.to_string());
        }
        kept.insert(copy);
    }
    if !row.mark.is_empty() {
        forget(target, row.mark, &kept);
    }
    Ok(())
}

fn files(row: &Row) -> Result<Vec<(String, PathBuf)>, Error> {
    let entries = match fs::read_dir(&row.from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::file("read", &row.from))?,
    };
    // Other systems leave hidden files beside those they copy.
    let wanted = |name: &str| {
        let lower = name.to_ascii_lowercase();
        !name.starts_with('.') && row.endings.iter().any(|ending| lower.ends_with(ending))
    };
    let named = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (wanted(&name) && entry.path().is_file()).then(|| (name, entry.path()))
    });
    Ok(named.take(FILES_MAX).collect())
}

/// Copies a file unless the copy has its size and is not older: images are large, and the card is slow.
fn file(source: &Path, target: &Path, name: &str) -> Result<(), Error> {
    let copy = target.join(name);
    let about = fs::metadata(source).map_err(Error::file("read", source))?;
    let age = |data: &fs::Metadata| data.modified().ok();
    if fs::metadata(&copy)
        .is_ok_and(|there| there.len() == about.len() && age(&there) == age(&about))
    {
        return Ok(());
    }
    fs::create_dir_all(target).map_err(Error::file("create", target))?;
    let free = sys::mount::space(target).map_err(Error::file("look at", target))?.available_bytes;
    if free < about.len().saturating_add(SPARE_BYTES) {
        return Err(Error::file("copy", source)(io::ErrorKind::StorageFull.into()));
    }
    let partial = target.join(format!(".{name}.partial"));
    let copied = fs::copy(source, &partial).and_then(|_| {
        let file = fs::File::options().write(true).open(&partial)?;
        file.set_modified(about.modified()?)?;
        file.sync_all()?;
        fs::rename(&partial, &copy)?;
        sys::files::sync_dir(target)
    });
    copied.map_err(Error::file("copy", source))
}

/// Takes away copies whose source is gone.
fn forget(target: &Path, mark: &str, kept: &BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(target) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(mark) && !kept.contains(&name) {
            // Left in place it is only imported once more.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_follow_their_sources_and_others_stay() {
        let dir = std::env::temp_dir().join(format!("copepod-preload-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        for (name, text) in
            [("a.tar", "one"), ("B.TAR.GZ", "two"), ("note.txt", ""), ("._a.tar", "")]
        {
            fs::write(from.join(name), text).unwrap();
        }
        fs::write(to.join("boot-old.tar"), "").unwrap();
        fs::write(to.join("mine.tar"), "").unwrap();
        let row = Row { from: from.clone(), to: "", mark: "boot-", endings: &[".tar", ".tar.gz"] };
        let names = || {
            let mut names: Vec<String> = fs::read_dir(&to)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let mut failures = Vec::new();
        folder(&row, &to, &mut failures).unwrap();
        assert_eq!(names(), ["boot-B.TAR.GZ", "boot-a.tar", "mine.tar"]);
        fs::write(from.join("a.tar"), "longer").unwrap();
        fs::remove_file(from.join("B.TAR.GZ")).unwrap();
        folder(&row, &to, &mut failures).unwrap();
        assert_eq!(names(), ["boot-a.tar", "mine.tar"]);
        assert_eq!(fs::read_to_string(to.join("boot-a.tar")).unwrap(), "longer");
        assert!(failures.is_empty(), "{failures:?}");
        fs::remove_dir_all(dir).unwrap();
    }
}
