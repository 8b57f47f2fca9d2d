//! A disk for QEMU that loses at a power cut what the guest has not flushed, as cards and drives do.
//!
//! QEMU cannot do this itself: what it has once handed to the host survives its end. So the disk is served to it over NBD
//! (a Unix socket, the parts of the protocol that QEMU uses), and what is written waits in memory for the guest's flush. At
//! the cut a random part of what waits reaches the file, sector by sector, so that larger writes are torn and their
//! order is lost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::random::Random;

/// What a drive writes as a whole.
const SECTOR: usize = 512;
/// Sectors that wait at most; then all of them are written, as a drive with a full cache does.
const WAITING_MAX: usize = 64 * 1024;
const REQUEST_MAX: usize = 32 << 20;
const OPTION_MAX: usize = 4096;

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
/// Fixed newstyle negotiation, without padding.
const HANDSHAKE: u16 = 0b11;
/// The flags are valid; it takes flushes and writes that are to be on the disk when they are answered.
const EXPORT: u16 = 0b1101;
const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const ANSWER_ACK: u32 = 1;
const ANSWER_INFO: u32 = 3;
const ANSWER_UNKNOWN: u32 = 0x8000_0001;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const AT_ONCE: u16 = 1;
const INVALID: u32 = 22;

/// The file behind the disk and what has not reached it.
struct Content {
    file: File,
    waiting: BTreeMap<u64, [u8; SECTOR]>,
    /// Writes so far, and the one before which the power goes.
    writes: u64,
    cut_at: u64,
}

/// Serves until the process ends; the socket goes with its folder.
pub(crate) struct CutDisk {
    socket: PathBuf,
    content: Arc<Mutex<Content>>,
}

impl CutDisk {
    /// A disk with the content of `file`, at the socket.
    pub(crate) fn start(file: &Path, socket: &Path) -> Result<CutDisk> {
        let opened = File::options().read(true).write(true).open(file);
        let file = opened.with_context(|| format!("open {}", file.display()))?;
        let size = file.metadata()?.len();
        let content = Content { file, waiting: BTreeMap::new(), writes: 0, cut_at: u64::MAX };
        let content = Arc::new(Mutex::new(content));
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("listen on {}", socket.display()))?;
        let served = content.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = served.clone();
                // A QEMU that ends in the middle of a request ends its connection only.
                thread::spawn(move || drop(serve(&stream, size, &content)));
            }
        });
        Ok(CutDisk { socket: socket.to_owned(), content })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Writes the guest has made so far.
    pub(crate) fn writes(&self) -> u64 {
        lock(&self.content).writes
    }

    /// Stops the disk before the guest's write of this number: neither that nor anything later is answered.
    pub(crate) fn stop_at(&self, write: u64) {
        lock(&self.content).cut_at = write;
    }

    pub(crate) fn has_stopped(&self) -> bool {
        let content = lock(&self.content);
        content.writes >= content.cut_at
    }

    /// The power is cut: of what waits a random part is kept. QEMU must have ended. Returns how many sectors were lost, of
    /// how many.
    pub(crate) fn lose(&self, random: &mut Random) -> Result<(usize, usize)> {
        let mut content = lock(&self.content);
        let waiting = std::mem::take(&mut content.waiting);
        content.cut_at = u64::MAX;
        let all = waiting.len();
        let mut lost = 0;
        for (sector, bytes) in waiting {
            match random.below(2) {
                0 => lost += 1,
                _ => content.file.write_all_at(&bytes, sector * SECTOR as u64)?,
            }
        }
        Ok((lost, all))
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)?;
        let first = offset / SECTOR as u64;
        let end = first + (buffer.len() / SECTOR) as u64;
        for (sector, bytes) in self.waiting.range(first..end) {
            let at = usize::try_from(sector - first).map_err(io::Error::other)? * SECTOR;
            if let Some(place) = buffer.get_mut(at..at + SECTOR) {
                place.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8], at_once: bool) -> io::Result<()> {
        let first = offset / SECTOR as u64;
        for (sector, piece) in (first..).zip(bytes.chunks_exact(SECTOR)) {
            if at_once {
                self.waiting.remove(&sector);
            } else {
                let piece = piece.try_into().map_err(io::Error::other)?;
                self.waiting.insert(sector, piece);
            }
        }
        if at_once {
            self.file.write_all_at(bytes, offset)?;
        }
        if self.waiting.len() > WAITING_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for (sector, bytes) in std::mem::take(&mut self.waiting) {
            self.file.write_all_at(&bytes, sector * SECTOR as u64)?;
        }
        Ok(())
    }
}

fn serve(stream: &UnixStream, size: u64, content: &Mutex<Content>) -> io::Result<()> {
    let (mut input, mut output) = (BufReader::new(stream), BufWriter::new(stream));
    if !negotiate(&mut input, &mut output, size)? {
        return Ok(());
    }
    let mut data = Vec::new();
    loop {
        let request = Request::read(&mut input)?;
        if request.kind == DISCONNECT {
            return Ok(());
        }
        data.resize(request.length, 0);
        if request.kind == WRITE {
            input.read_exact(&mut data)?;
        }
        let Some(result) = work(&request, &mut data, size, content) else { return Ok(()) };
        output.write_all(&REPLY.to_be_bytes())?;
        output.write_all(&result.to_be_bytes())?;
        output.write_all(&request.handle)?;
        if request.kind == READ && result == 0 {
            output.write_all(&data)?;
        }
        output.flush()?;
    }
}

/// The answer's error number; nothing when there is no power for an answer.
fn work(request: &Request, data: &mut [u8], size: u64, content: &Mutex<Content>) -> Option<u32> {
    let &Request { kind, offset, length, flags, .. } = request;
    let whole = |number: u64| number.is_multiple_of(SECTOR as u64);
    let fits = offset.checked_add(length as u64).is_some_and(|end| end <= size);
    if kind != FLUSH && !(fits && whole(offset) && whole(length as u64)) {
        return Some(INVALID);
    }
    let mut content = lock(content);
    if content.writes >= content.cut_at {
        return None;
    }
    let done = match kind {
        READ => content.read(offset, data),
        WRITE => {
            content.writes += 1;
            if content.writes >= content.cut_at {
                return None;
            }
            content.write(offset, data, flags & AT_ONCE != 0)
        }
        FLUSH => content.flush(),
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    Some(
        done.err().map_or(0, |error| {
            error.raw_os_error().and_then(|n| n.try_into().ok()).unwrap_or(INVALID)
        }),
    )
}

struct Request {
    flags: u16,
    kind: u16,
    handle: [u8; 8],
    offset: u64,
    length: usize,
}

impl Request {
    fn read(input: &mut impl Read) -> io::Result<Request> {
        if u32::from_be_bytes(bytes(input)?) != REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let flags = u16::from_be_bytes(bytes(input)?);
        let kind = u16::from_be_bytes(bytes(input)?);
        let handle = bytes(input)?;
        let offset = u64::from_be_bytes(bytes(input)?);
        let length = length(input, REQUEST_MAX)?;
        Ok(Request { flags, kind, handle, offset, length })
    }
}

/// Agrees on the one disk there is, whatever name it is asked for by. Whether requests follow.
fn negotiate(input: &mut impl Read, output: &mut impl Write, size: u64) -> io::Result<bool> {
    output.write_all(&GREETING.to_be_bytes())?;
    output.write_all(&OPTION.to_be_bytes())?;
    output.write_all(&HANDSHAKE.to_be_bytes())?;
    output.flush()?;
    bytes::<4>(input)?;
    loop {
        if u64::from_be_bytes(bytes(input)?) != OPTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let option = u32::from_be_bytes(bytes(input)?);
        let mut data = vec![0; length(input, OPTION_MAX)?];
        input.read_exact(&mut data)?;
        let mut answer = |kind: u32, data: &[u8]| {
            output.write_all(&OPTION_REPLY.to_be_bytes())?;
            output.write_all(&option.to_be_bytes())?;
            output.write_all(&kind.to_be_bytes())?;
            output
                .write_all(&u32::try_from(data.len()).map_err(io::Error::other)?.to_be_bytes())?;
            output.write_all(data)?;
            output.flush()
        };
        match option {
            OPTION_GO => {
                // Kind 0: size and flags of the export.
                let info = [&[0, 0][..], &size.to_be_bytes(), &EXPORT.to_be_bytes()].concat();
                answer(ANSWER_INFO, &info)?;
                answer(ANSWER_ACK, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => {
                answer(ANSWER_ACK, &[])?;
                return Ok(false);
            }
            _ => answer(ANSWER_UNKNOWN, &[])?,
        }
    }
}

fn bytes<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn length(input: &mut impl Read, max: usize) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(bytes(input)?)).map_err(io::Error::other)?;
    if length > max { Err(io::ErrorKind::InvalidData.into()) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client {
        stream: UnixStream,
    }

    impl Client {
        fn connect(disk: &CutDisk) -> Client {
            let mut stream = UnixStream::connect(disk.socket()).unwrap();
            assert_eq!(&bytes::<16>(&mut stream).unwrap(), b"NBDMAGICIHAVEOPT");
            bytes::<2>(&mut stream).unwrap();
            stream.write_all(&[0, 0, 0, 3]).unwrap();
            // Something unknown, then what is known.
            for (option, answers) in [(8_u32, 20), (OPTION_GO, 20 + 12 + 20)] {
                stream.write_all(b"IHAVEOPT").unwrap();
                stream.write_all(&option.to_be_bytes()).unwrap();
                stream.write_all(&[0, 0, 0, 0]).unwrap();
                stream.read_exact(&mut vec![0; answers]).unwrap();
            }
            Client { stream }
        }

        fn ask(&mut self, kind: u16, flags: u16, offset: u64, length: u32, data: &[u8]) {
            let head = [
                &REQUEST.to_be_bytes()[..],
                &flags.to_be_bytes(),
                &kind.to_be_bytes(),
                b"a handle",
                &offset.to_be_bytes(),
                &length.to_be_bytes(),
                data,
            ];
            self.stream.write_all(&head.concat()).unwrap();
        }

        fn answer(&mut self) -> io::Result<u32> {
            let head: [u8; 16] = bytes(&mut self.stream)?;
            assert_eq!(&head[8..], b"a handle");
            Ok(u32::from_be_bytes(head[4..8].try_into().unwrap()))
        }

        fn write(&mut self, sector: u64, byte: u8, flags: u16) -> u32 {
            self.ask(WRITE, flags, sector * SECTOR as u64, SECTOR as u32, &[byte; SECTOR]);
            self.answer().unwrap()
        }

        fn read(&mut self, sectors: u64) -> Vec<u8> {
            let length = sectors as usize * SECTOR;
            self.ask(READ, 0, 0, length as u32, &[]);
            assert_eq!(self.answer().unwrap(), 0);
            let mut data = vec![0; length];
            self.stream.read_exact(&mut data).unwrap();
            data.chunks(SECTOR).map(|sector| sector[0]).collect()
        }
    }

    fn firsts(path: &Path) -> Vec<u8> {
        std::fs::read(path).unwrap().chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![0; 64 * SECTOR]).unwrap();
        let disk = CutDisk::start(&path, &folder.path().join("socket")).unwrap();
        let mut client = Client::connect(&disk);
        for sector in 0..20 {
            assert_eq!(client.write(sector, 1, 0), 0);
        }
        assert_eq!(firsts(&path), [0; 64], "nothing reaches the file before the flush");
        client.ask(FLUSH, 0, 0, 0, &[]);
        assert_eq!(client.answer().unwrap(), 0);
        assert_eq!(firsts(&path)[..20], [1; 20]);
        for sector in 0..60 {
            client.write(sector, 2, 0);
        }
        client.write(60, 3, AT_ONCE);
        let seen = client.read(61);
        assert_eq!((&seen[..60], seen[60]), (&[2; 60][..], 3), "reads see what was written");
        for (offset, length) in [(64 * SECTOR as u64, 512), (1, 512), (0, 100), (u64::MAX, 512)] {
            client.ask(READ, 0, offset, length, &[]);
            assert_eq!(client.answer().unwrap(), INVALID, "{offset} {length}");
        }
        disk.stop_at(82);
        client.ask(WRITE, 0, 0, SECTOR as u32, &[9; SECTOR]);
        assert!(client.answer().is_err(), "no power, no answer");
        assert!(disk.has_stopped());
        let (lost, all) = disk.lose(&mut Random::new(1)).unwrap();
        assert_eq!(all, 60);
        let left = firsts(&path);
        assert_eq!(left[..60].iter().filter(|byte| **byte != 2).count(), lost);
        assert!((10..50).contains(&lost), "{lost}");
        assert!(left[..20].iter().all(|byte| *byte == 1 || *byte == 2) && left[60] == 3);
    }
}
