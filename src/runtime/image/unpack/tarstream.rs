//! Tar as a stream of entries: ustar, GNU long names and pax records, every length checked before memory is taken.

use std::io::{self, Read};

use super::UnpackError;

const BLOCK: usize = 512;
/// Largest pax header or GNU long name read into memory.
const EXTENSION_BYTES_MAX: u64 = 1024 * 1024;
/// Extension headers allowed in front of one entry.
const EXTENSIONS_PER_ENTRY_MAX: u32 = 16;
/// The kernel's limit for a whole path.
pub(super) const PATH_BYTES_MAX: usize = 4096;
/// Extended attributes kept per entry.
const XATTRS_MAX: usize = 64;
const XATTR_KEY: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry with all its headers merged.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The path for messages.
    pub(crate) fn name(&self) -> String {
        show(&self.path)
    }

    fn fail(&self, reason: impl ToString) -> UnpackError {
        UnpackError::Entry { entry: self.name(), reason: reason.to_string() }
    }
}

/// Bytes from an archive as text that is safe to print, shortened.
pub(crate) fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

/// What pax records and GNU long names say about the entry that follows them.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other; the data of the entry returned last is read through `Read`.
pub(crate) struct TarReader<R> {
    source: R,
    /// Data of the current entry not read yet.
    data: u64,
    /// Zero bytes after that data up to the next block.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, data: 0, padding: 0 }
    }

    /// The next entry, or `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut overrides = Overrides::default();
        for _ in 0..EXTENSIONS_PER_ENTRY_MAX {
            self.skip(self.data.saturating_add(self.padding))?;
            (self.data, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|error| broken(&header, error))?;
            match header.as_bytes()[156] {
                b'L' => overrides.path = Some(trim_nul(self.extension(&header, size)?)),
                b'K' => overrides.link = Some(trim_nul(self.extension(&header, size)?)),
                b'x' => {
                    let records = self.extension(&header, size)?;
                    overrides.read_pax(&records).map_err(|reason| broken(&header, reason))?;
                }
                b'g' => drop(self.extension(&header, size)?),
                flag => return self.entry(&header, flag, size, overrides).map(Some),
            }
        }
        Err(UnpackError::Stream {
            reason: "too many extension headers in front of one entry".to_owned(),
        })
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        flag: u8,
        size: u64,
        more: Overrides,
    ) -> Result<Entry, UnpackError> {
        let path = more.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match flag {
            b'0' | b'7' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' | 0 => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => {
                return Err(UnpackError::Entry {
                    entry: show(&path),
                    reason: "sparse files are not supported".to_owned(),
                });
            }
            other => {
                let reason = format!("entry type {:?} is not supported", char::from(other));
                return Err(UnpackError::Entry { entry: show(&path), reason });
            }
        };
        let number = |field: io::Result<u64>| field.map_err(|error| broken(header, error));
        let device = |field: io::Result<Option<u32>>| {
            field.map(Option::unwrap_or_default).map_err(|error| broken(header, error))
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let entry = Entry {
            link: more
                .link
                .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
                .unwrap_or_default(),
            kind,
            mode: header.mode().map_err(|error| broken(header, error))?,
            uid: more.uid.map_or_else(|| number(header.uid()), Ok)?,
            gid: more.gid.map_or_else(|| number(header.gid()), Ok)?,
            size: if kind == Kind::File { more.size.unwrap_or(size) } else { 0 },
            mtime: more.mtime.unwrap_or_else(|| (header.mtime().unwrap_or(0).cast_signed(), 0)),
            device: if is_device {
                (device(header.device_major())?, device(header.device_minor())?)
            } else {
                (0, 0)
            },
            xattrs: more.xattrs,
            path,
        };
        if entry.path.len() > PATH_BYTES_MAX || entry.link.len() > PATH_BYTES_MAX {
            return Err(entry.fail(format!("its name is longer than {PATH_BYTES_MAX} bytes")));
        }
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(entry.fail("its name contains a zero byte"));
        }
        self.data = entry.size;
        self.padding = padding(entry.size);
        Ok(entry)
    }

    /// Reads one header block; `None` at the zero blocks that end an archive, or where it simply stops.
    fn header(&mut self) -> Result<Option<tar::Header>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]).map_err(UnpackError::read)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(truncated("in a header")),
                count => filled += count,
            }
        }
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum = |block: &[u8; BLOCK]| -> u32 {
            block
                .iter()
                .enumerate()
                .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
                .sum()
        };
        let header = tar::Header::from_byte_slice(&block).clone();
        match header.cksum() {
            Ok(stored) if stored == sum(&block) => Ok(Some(header)),
            _ => Err(UnpackError::Stream {
                reason: format!(
                    "bad header checksum near {:?}: not a tar archive or damaged",
                    show(&header.path_bytes())
                ),
            }),
        }
    }

    /// Reads the body of an extension header.
    fn extension(&mut self, header: &tar::Header, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > EXTENSION_BYTES_MAX {
            return Err(broken(
                header,
                format!("extension header of {size} bytes, at most {EXTENSION_BYTES_MAX} are read"),
            ));
        }
        let mut body = Vec::new();
        let length =
            (&mut self.source).take(size).read_to_end(&mut body).map_err(UnpackError::read)?;
        if u64::try_from(length) != Ok(size) {
            return Err(truncated("in an extension header"));
        }
        self.padding = padding(size);
        Ok(body)
    }

    /// For sources that can seek: gives up the current entry's data, which the caller has to pass over in the source.
    pub(crate) fn leave_data(&mut self) -> u64 {
        std::mem::take(&mut self.data).saturating_add(std::mem::take(&mut self.padding))
    }

    pub(crate) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    fn skip(&mut self, count: u64) -> Result<(), UnpackError> {
        let skipped = io::copy(&mut (&mut self.source).take(count), &mut io::sink())
            .map_err(UnpackError::read)?;
        if skipped == count { Ok(()) } else { Err(truncated("in the data of an entry")) }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.source.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "archive is truncated in the data of an entry",
            ));
        }
        self.data -= count as u64;
        Ok(count)
    }
}

impl Overrides {
    /// Reads `length key=value\n` records.
    fn read_pax(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        const BROKEN: &str = "broken pax record";
        while !records.is_empty() {
            let space = records.iter().take(20).position(|&b| b == b' ').ok_or(BROKEN)?;
            let length: usize = parse(&records[..space]).ok_or(BROKEN)?;
            let record = records.get(space + 1..length).ok_or(BROKEN)?;
            records = &records[length..];
            let record = record.strip_suffix(b"\n").ok_or(BROKEN)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or(BROKEN)?;
            self.set(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(parse(value).ok_or("broken pax size")?),
            b"uid" => self.uid = Some(parse(value).ok_or("broken pax uid")?),
            b"gid" => self.gid = Some(parse(value).ok_or("broken pax gid")?),
            b"mtime" => self.mtime = Some(parse_time(value).ok_or("broken pax mtime")?),
            _ if key.starts_with(b"GNU.sparse.") => return Err("sparse files are not supported"),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_KEY) {
                    if self.xattrs.len() >= XATTRS_MAX {
                        return Err("too many extended attributes");
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn parse<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `seconds[.fraction]`, perhaps negative.
fn parse_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((whole.parse().ok()?, nanos.parse().ok()?))
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn trim_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

fn truncated(place: &str) -> UnpackError {
    UnpackError::Stream { reason: format!("archive is truncated {place}") }
}

fn broken(header: &tar::Header, reason: impl ToString) -> UnpackError {
    UnpackError::Entry { entry: show(&header.path_bytes()), reason: reason.to_string() }
}
