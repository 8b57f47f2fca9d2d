//! Which pod has which address: one small file per pod, so that a restarted node or machine knows what it handed out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::addresses::Cidr;
use crate::error::Error;

const SUFFIX: &str = ".json";
const UID_BYTES_MAX: usize = 128;
/// Longest file read back.
const FILE_BYTES_MAX: u64 = 4096;

/// What one pod has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Allocation {
    pub(crate) uid: String,
    pub(crate) address: Ipv4Addr,
    /// Name of the host's end of the pair.
    pub(crate) link: String,
}

/// All allocations, in memory and as files.
pub(crate) struct Pool {
    directory: PathBuf,
    by_uid: BTreeMap<String, Allocation>,
    /// The address handed out last: the next one is another, so that old connections do not reach a new pod.
    last: u32,
}

impl Pool {
    /// Reads what is there. A file that cannot be read, as after a power cut, means nothing any more and goes.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        fs::create_dir_all(directory).map_err(Error::file("create directory", directory))?;
        let mut by_uid = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
            let path = entry.map_err(Error::file("list", directory))?.path();
            match read(&path) {
                Ok(allocation) => drop(by_uid.insert(allocation.uid.clone(), allocation)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "dropping a broken record of a pod's address");
                    fs::remove_file(&path).map_err(Error::file("remove", &path))?;
                }
            }
        }
        let last =
            by_uid.values().map(|allocation| u32::from(allocation.address)).max().unwrap_or(0);
        Ok(Self { directory: directory.to_owned(), by_uid, last })
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&Allocation> {
        self.by_uid.get(uid)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Allocation> {
        self.by_uid.values()
    }

    /// The pod's address in `cidr`, a new one if it has none there.
    pub(crate) fn allocate(&mut self, uid: &str, cidr: Cidr) -> Result<Allocation, Error> {
        check_uid(uid)?;
        if let Some(known) = self.by_uid.get(uid).filter(|known| cidr.contains(known.address)) {
            return Ok(known.clone());
        }
        let address = self.free(cidr).ok_or_else(|| Error::Exhausted { cidr: cidr.to_string() })?;
        let allocation = Allocation { uid: uid.to_owned(), address, link: link_name(uid) };
        let path = self.path(uid);
        let bytes = serde_json::to_vec(&allocation)
            .map_err(|error| Error::file("encode", &path)(error.into()))?;
        // Not synced: the pod is not to wait for the disk.
        sys::replace_file(&path, &bytes, 0o600).map_err(Error::file("write", &path))?;
        self.last = u32::from(address);
        self.by_uid.insert(uid.to_owned(), allocation.clone());
        Ok(allocation)
    }

    /// Gives a pod's address back; nothing happens if it has none.
    pub(crate) fn release(&mut self, uid: &str) -> Result<(), Error> {
        check_uid(uid)?;
        let path = self.path(uid);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &path)(error))
            }
            _ => {
                self.by_uid.remove(uid);
                Ok(())
            }
        }
    }

    fn free(&self, cidr: Cidr) -> Option<Ipv4Addr> {
        let (first, last) = cidr.pod_range();
        let taken: std::collections::BTreeSet<u32> =
            self.by_uid.values().map(|allocation| u32::from(allocation.address)).collect();
        let start = if (first..last).contains(&self.last) { self.last + 1 } else { first };
        (start..=last)
            .chain(first..start)
            .find(|candidate| !taken.contains(candidate))
            .map(Ipv4Addr::from)
    }

    /// The pod's file.
    pub(crate) fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}{SUFFIX}"))
    }
}

fn read(path: &Path) -> io::Result<Allocation> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("file is too large"));
    }
    let allocation: Allocation = serde_json::from_slice(&fs::read(path)?)?;
    let named =
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
    if named == Some(allocation.uid.as_str()) && allocation.link == link_name(&allocation.uid) {
        Ok(allocation)
    } else {
        Err(io::Error::other("its content is not that of its name"))
    }
}

/// Uids become file names.
fn check_uid(uid: &str) -> Result<(), Error> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if uid.is_empty()
        || uid.len() > UID_BYTES_MAX
        || uid.starts_with('.')
        || !uid.bytes().all(valid)
    {
        return Err(Error::Uid { uid: uid.chars().take(UID_BYTES_MAX).collect() });
    }
    Ok(())
}

/// Start of the names of the host's ends.
pub(crate) const LINK_PREFIX: &str = "veth";

/// The name of the host's end: 15 characters at most, always the same for one pod (64-bit FNV-1a of the uid).
pub(crate) fn link_name(uid: &str) -> String {
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{LINK_PREFIX}{:011x}", hash >> 20)
}
