//! Reading log files: where a tail begins, and chunk after chunk from there over all rotated files. Blocking.

use std::collections::VecDeque;
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

/// Reads a log from a starting point to its present end, and again from there when there is more.
#[derive(Debug)]
pub(super) struct Reader {
    log: PathBuf,
    waiting: VecDeque<(PathBuf, u64)>,
    current: Option<Current>,
    renderer: Renderer,
}

#[derive(Debug)]
struct Current {
    file: BufReader<File>,
    inode: u64,
    /// An entry whose end has not been written yet.
    unfinished: Vec<u8>,
}

impl Reader {
    pub(super) fn open(log: &Path, options: &Options) -> io::Result<Reader> {
        let files = files(log);
        let waiting = match options.tail {
            Some(lines) => tail(&files, lines)?,
            None => files.into_iter().map(|f| (f, 0)).collect(),
        };
        Ok(Reader { log: log.to_owned(), waiting, current: None, renderer: Renderer::new(options) })
    }

    /// The next piece of text; empty at the present end.
    pub(super) fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES && !self.full() {
            if self.current.is_none() && !self.next_file()? {
                break;
            }
            let Some(current) = &mut self.current else { break };
            if current.entry()? {
                let entry = std::mem::take(&mut current.unfinished);
                self.renderer.render(entry.strip_suffix(b"\n").unwrap_or(&entry), &mut out);
            } else if !self.waiting.is_empty() || self.replaced()? {
                self.current = None;
            } else {
                break;
            }
        }
        Ok(out)
    }

    pub(super) fn full(&self) -> bool {
        self.renderer.full()
    }

    fn next_file(&mut self) -> io::Result<bool> {
        while let Some((path, start)) = self.waiting.pop_front() {
            match File::open(&path) {
                Ok(mut file) => {
                    let inode = file.metadata()?.ino();
                    file.seek(SeekFrom::Start(start))?;
                    self.current =
                        Some(Current { file: BufReader::new(file), inode, unfinished: Vec::new() });
                    return Ok(true);
                }
                // Rotated away and removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The log has been rotated while it was read: the files after the one just read follow.
    fn replaced(&mut self) -> io::Result<bool> {
        let Some(current) = &self.current else { return Ok(false) };
        let inode = |path: &PathBuf| fs::metadata(path).map(|m| m.ino()).unwrap_or(0);
        if inode(&self.log) == current.inode {
            return Ok(false);
        }
        let all = files(&self.log);
        let after = all.iter().position(|f| inode(f) == current.inode).map_or(0, |at| at + 1);
        self.waiting = all.into_iter().skip(after).map(|f| (f, 0)).collect();
        Ok(!self.waiting.is_empty())
    }
}

impl Current {
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

/// Where the last `lines` entries begin.
fn tail(files: &[PathBuf], lines: u64) -> io::Result<VecDeque<(PathBuf, u64)>> {
    let mut start = VecDeque::new();
    let mut missing = lines;
    for path in files.iter().rev() {
        let mut file = File::open(path)?;
        if missing == 0 {
            // Only what comes from now on is wanted.
            if start.is_empty() {
                start.push_front((path.clone(), file.metadata()?.len()));
            }
            break;
        }
        let (offset, found) = tail_start(&mut file, missing)?;
        start.push_front((path.clone(), offset));
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
