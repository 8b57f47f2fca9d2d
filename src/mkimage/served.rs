//! A web server for one folder, as an update's source in tests: ranges, a bounded speed, and connections that break.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::kubectl::pause;

/// Bytes sent between two pauses.
const PIECE: usize = 32 * 1024;
const HEAD_LINES_MAX: usize = 64;

/// How it treats those who download.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    /// Pause after each piece of 32 KiB.
    pub(crate) pause: Duration,
    /// A connection ends after this many bytes.
    pub(crate) cut_after: Option<u64>,
}

/// Serves until the process ends.
pub(crate) struct Served {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Served {
    pub(crate) fn start(folder: &Path, manners: Manners) -> Result<Served> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (folder, sent) = (folder.to_owned(), Arc::new(AtomicU64::new(0)));
        let counted = sent.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, sent) = (folder.clone(), counted.clone());
                // A client that goes away ends its own connection only.
                thread::spawn(move || drop(serve(&stream, &folder, manners, &sent)));
            }
        });
        Ok(Served { port, sent })
    }

    /// The file's URL as an emulated board reaches it.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://10.0.2.2:{}/{name}", self.port)
    }

    /// Bytes of files sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn serve(
    stream: &TcpStream,
    folder: &Path,
    manners: Manners,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut left = manners.cut_after;
    while let Some((path, range)) = request(&mut reader)? {
        let Ok(mut file) = File::open(folder.join(path.file_name().unwrap_or_default())) else {
            write!(&*stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let length = file.metadata()?.len();
        let (start, end) = range.unwrap_or((0, length.saturating_sub(1)));
        let end = end.min(length.saturating_sub(1)) + 1;
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        write!(&*stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n", end.saturating_sub(start))?;
        write!(&*stream, "Content-Range: bytes {start}-{}/{length}\r\n\r\n", end - 1)?;
        file.seek(SeekFrom::Start(start))?;
        let mut body = file.take(end.saturating_sub(start));
        let mut piece = [0; PIECE];
        loop {
            let read = body.read(&mut piece)?;
            if read == 0 {
                break;
            }
            let mut stream = stream;
            stream.write_all(&piece[..read])?;
            sent.fetch_add(read as u64, Ordering::Relaxed);
            if !manners.pause.is_zero() {
                pause(manners.pause);
            }
            if let Some(left) = &mut left {
                *left = left.saturating_sub(read as u64);
                if *left == 0 {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Path and range of the next request.
type Asked = (PathBuf, Option<(u64, u64)>);

fn request(reader: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = PathBuf::from(line.split(' ').nth(1).unwrap_or_default());
    let mut range = None;
    for _ in 0..HEAD_LINES_MAX {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = line.strip_prefix("range: bytes=").and_then(parse_range).or(range);
    }
    Ok(Some((path, range)))
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.split_once('-')?;
    let end = if end.is_empty() { u64::MAX } else { end.parse().ok()? };
    Some((start.parse().ok()?, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_served_and_connections_cut() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "0123456789").unwrap();
        let ask = |served: &Served, head: &str| {
            let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
            write!(stream, "{head}\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let served = Served::start(folder.path(), Manners::default()).unwrap();
        let answer = ask(&served, "GET /f HTTP/1.1\r\nRange: bytes=2-4");
        assert!(answer.starts_with("HTTP/1.1 206") && answer.ends_with("234"), "{answer}");
        assert!(ask(&served, "GET /f HTTP/1.1").ends_with("0123456789"));
        assert!(ask(&served, "GET /g HTTP/1.1").starts_with("HTTP/1.1 404"));
        assert_eq!(served.sent(), 13);
    }
}
