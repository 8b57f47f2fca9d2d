//! Reading log files: where a tail begins, and chunk after chunk from there over all rotated files. Blocking.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::line::Renderer;
use super::{Options, files};

/// What is read and handed on at once.
const CHUNK_BYTES: usize = 32 << 10;
/// Blocks in which the end of a file is searched.
const BLOCK_BYTES: u64 = 64 << 10;
/// A longer entry is not the runtime's; it is cut.
const ENTRY_BYTES_MAX: u64 = 1 << 20;

/// How often opening the next file is tried while files are being rotated.
const OPENINGS_MAX: u32 = 8;

/// Reads a log from a starting point to its present end, and again from there when there is more. It keeps no paths of
/// files to come, because rotation renames them: it holds one open file, and looks for its successor when it is done.
#[derive(Debug)]
pub(super) struct Reader {
    log: PathBuf,
    current: Option<Current>,
    renderer: Renderer,
}

#[derive(Debug)]
struct Current {
    file: BufReader<File>,
    inode: u64,
    /// The file has been rotated away, so nothing will be added to it.
    complete: bool,
    /// An entry whose end has not been written yet.
    unfinished: Vec<u8>,
}

impl Reader {
    pub(super) fn open(log: &Path, options: &Options) -> io::Result<Reader> {
        let current = match options.tail {
            Some(lines) => tail(&files(log), lines)?,
            None => open_after(log, None)?,
        };
        Ok(Reader { log: log.to_owned(), current, renderer: Renderer::new(options) })
    }

    /// The next piece of text; empty at the present end.
    pub(super) fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES && !self.full() {
            if self.current.is_none() {
                self.current = open_after(&self.log, None)?;
            }
            let Some(current) = &mut self.current else { break };
            if current.entry()? {
                let entry = std::mem::take(&mut current.unfinished);
                self.renderer.render(entry.strip_suffix(b"\n").unwrap_or(&entry), &mut out);
            } else if current.complete {
                // The old file stays open until then: its inode is not used again.
                let Some(next) = open_after(&self.log, Some(current.inode))? else { break };
                *current = next;
            } else if inode(&self.log) == Some(current.inode) {
                break;
            } else {
                // Something may have been written between the end just read and the rotation.
                current.complete = true;
            }
        }
        Ok(out)
    }

    pub(super) fn full(&self) -> bool {
        self.renderer.full()
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.ino())
}

/// Opens the file that follows the one with this inode, or the oldest file; `None` if there is none yet.
fn open_after(log: &Path, before: Option<u64>) -> io::Result<Option<Current>> {
    for _ in 0..OPENINGS_MAX {
        let Some(path) = path_after(log, before) else { return Ok(None) };
        let file = match File::open(&path) {
            Ok(file) => file,
            // Rotated away or removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let current = Current::new(file, 0)?;
        // The name may have gone to a newer file just before it was opened.
        if path_after(log, before).and_then(|path| inode(&path)) == Some(current.inode) {
            return Ok(Some(current));
        }
    }
    Ok(None)
}

fn path_after(log: &Path, before: Option<u64>) -> Option<PathBuf> {
    let all = files(log);
    let at = before.and_then(|before| all.iter().position(|f| inode(f) == Some(before)));
    // Without the log itself these are leftovers of a log that is being removed, and have been read.
    let known = before.is_none() || at.is_some() || all.last().is_some_and(|last| last == log);
    let next = at.map_or(0, |at| at + 1);
    all.into_iter().nth(next).filter(|_| known)
}

impl Current {
    fn new(mut file: File, start: u64) -> io::Result<Current> {
        let inode = file.metadata()?.ino();
        file.seek(SeekFrom::Start(start))?;
        let file = BufReader::new(file);
        Ok(Current { file, inode, complete: false, unfinished: Vec::new() })
    }

    /// Reads on to the end of the present entry; false if it is not there yet.
    fn entry(&mut self) -> io::Result<bool> {
        let room = ENTRY_BYTES_MAX.saturating_sub(self.unfinished.len() as u64);
        if room == 0 {
            self.unfinished.push(b'\n');
            return Ok(true);
        }
        let mut limited = (&mut self.file).take(room);
        limited.read_until(b'\n', &mut self.unfinished)?;
        Ok(self.unfinished.ends_with(b"\n"))
    }
}

/// The file and place where the last `lines` entries begin.
fn tail(files: &[PathBuf], lines: u64) -> io::Result<Option<Current>> {
    let mut start = None;
    let mut missing = lines;
    for path in files.iter().rev() {
        let mut file = match File::open(path) {
            Ok(file) => file,
            // Rotated away or removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if missing == 0 {
            // Only what comes from now on is wanted.
            if start.is_none() {
                let end = file.metadata()?.len();
                start = Some(Current::new(file, end)?);
            }
            break;
        }
        let (offset, found) = tail_start(&mut file, missing)?;
        start = Some(Current::new(file, offset)?);
        missing -= found;
    }
    Ok(start)
}

/// The offset of the last `lines` lines of one file, and how many there are.
fn tail_start(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let mut found = 0;
    let mut end = length;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES);
        block.clear();
        file.seek(SeekFrom::Start(begin))?;
        file.take(end - begin).read_to_end(&mut block)?;
        for (at, byte) in block.iter().enumerate().rev() {
            let position = begin + at as u64;
            if *byte != b'\n' || position + 1 == length {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok((position + 1, lines));
            }
        }
        end = begin;
    }
    Ok((0, found + u64::from(length > 0)))
}

/// The end of a log as plain text, within both bounds; what cannot be read is left out.
pub(crate) fn tail_text(log: &Path, lines: usize, bytes: usize) -> String {
    let options = Options { tail: Some(lines as u64), ..Options::default() };
    let Ok(mut reader) = Reader::open(log, &options) else { return String::new() };
    let mut text = Vec::new();
    while let Ok(chunk) = reader.chunk() {
        if chunk.is_empty() {
            break;
        }
        text.extend_from_slice(&chunk);
        let excess = text.len().saturating_sub(bytes);
        text.drain(..excess);
    }
    String::from_utf8_lossy(&text).into_owned()
}
