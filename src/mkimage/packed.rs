//! Compressed images: packing one for download, unpacking one to write it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use ota::fill;

use crate::card::{CHUNK_LEN, is_zero};
use crate::tools::tool;

/// What Raspberry Pi Imager unpacks and we can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Smallest, and read by every tool that writes cards.
    Xz,
    /// Unpacked several times as fast; needs Raspberry Pi Imager 1.7.
    Zstd,
}

/// The longest image one gets unpacked; a disk image is hardly larger, a bomb may be.
const UNPACKED_MAX: u64 = 16 * 1024 * 1024 * 1024;

impl Format {
    const ALL: [Format; 2] = [Format::Xz, Format::Zstd];

    pub(crate) fn extension(self) -> &'static str {
        match self {
            Format::Xz => "xz",
            Format::Zstd => "zst",
        }
    }

    /// The format a file's name tells; none for an image as it is.
    pub(crate) fn of(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?;
        Format::ALL.into_iter().find(|format| format.extension() == extension)
    }

    fn program(self) -> &'static str {
        match self {
            Format::Xz => "xz",
            Format::Zstd => "zstd",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            // One thread: blocks of several depend on the machine that packs.
            Format::Xz => &["-9", "-T1"],
            Format::Zstd => &["-19", "-T1"],
        }
    }
}

/// Packs `source` into the file `target`; the same content gives the same bytes.
pub(crate) fn pack(source: &Path, target: &Path, format: Format) -> Result<()> {
    let file = File::create(target).with_context(|| format!("create {}", target.display()))?;
    let input = File::open(source).with_context(|| format!("open {}", source.display()))?;
    let mut command: Command = tool(format.program(), 0);
    command.arg("-c").args(format.arguments()).stdin(input).stdout(file).stderr(Stdio::inherit());
    let status = command.status().with_context(|| format!("start {}", format.program()))?;
    ensure!(status.success(), "{} ended with {status}", format.program());
    Ok(())
}

/// An image's content, unpacked on the way when its name ends like that of a packed one.
pub(crate) struct Content {
    source: Source,
    left: u64,
}

enum Source {
    Plain(File),
    Packed { path: PathBuf, child: Child },
}

impl Content {
    /// The file as it is.
    pub(crate) fn plain(path: &Path) -> Result<Content> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Content { source: Source::Plain(file), left: u64::MAX })
    }

    /// The image in the file.
    pub(crate) fn open(path: &Path) -> Result<Content> {
        let Some(format) = Format::of(path) else { return Content::plain(path) };
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut command = tool(format.program(), 0);
        command.arg("-dc").stdin(file).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("start {} to unpack the image", format.program()))?;
        Ok(Content { source: Source::Packed { path: path.to_owned(), child }, left: UNPACKED_MAX })
    }

    /// Fills the buffer as far as there is content.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = match &mut self.source {
            Source::Plain(file) => fill(file, buffer)?,
            Source::Packed { child, path } => {
                let output =
                    child.stdout.as_mut().context("the unpacking program has no output")?;
                let read = fill(output, buffer)?;
                if read < buffer.len() {
                    let status = child.wait()?;
                    ensure!(
                        status.success(),
                        "{} is damaged: it cannot be unpacked",
                        path.display()
                    );
                }
                read
            }
        };
        self.left = self
            .left
            .checked_sub(read as u64)
            .context("the image is unpacked larger than 16 GiB")?;
        Ok(read)
    }

    /// Hands over the content, chunk by chunk.
    pub(crate) fn each(mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; CHUNK_LEN];
        loop {
            let read = self.fill(&mut buffer)?;
            take(buffer.get(..read).unwrap_or_default())?;
            if read < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Writes the content to a new file and leaves holes for zeros.
    pub(crate) fn copy_to(self, target: &mut File) -> Result<()> {
        self.each(|chunk| {
            if is_zero(chunk) {
                target.seek(SeekFrom::Current(i64::try_from(chunk.len())?))?;
            } else {
                target.write_all(chunk)?;
            }
            Ok(())
        })?;
        let length = target.stream_position()?;
        target.set_len(length)?;
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Source::Packed { child, .. } = &mut self.source {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_again() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("disk.img");
        let mut content = vec![0; 3 * CHUNK_LEN];
        content[CHUNK_LEN + 5] = 1;
        content.extend(b"end");
        std::fs::write(&plain, &content).unwrap();
        for format in Format::ALL {
            let packed = dir.path().join(format!("disk.img.{}", format.extension()));
            pack(&plain, &packed, format).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            Content::open(&packed).unwrap().copy_to(&mut file).unwrap();
            file.rewind().unwrap();
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert!(found == content, "{format:?}");
            let whole = std::fs::read(&packed).unwrap();
            std::fs::write(&packed, whole.get(..whole.len() / 2).unwrap()).unwrap();
            let error = Content::open(&packed).unwrap().each(|_| Ok(())).unwrap_err();
            assert!(error.to_string().contains("is damaged"), "{error}");
        }
    }
}
