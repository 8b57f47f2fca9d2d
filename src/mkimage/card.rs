//! Writes an image to a card and reads it back: what to do with each chunk is decided first, from the image alone.
//!
//! Zeros count: file systems rely on them (a FAT, a journal), so they are written too, or left to the device, which may
//! do it faster. Only a partition that is empty in the image is passed over, but for its edges, where labels of what
//! was there before could be found. The first chunk, which holds the partition table, is wiped at the beginning and
//! written at the very end: a card that was not written completely does not start.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use disk::mbr::{Mbr, SECTOR_LEN};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use crate::progress::Progress;

pub(crate) const CHUNK_LEN: usize = 1024 * 1024;
/// After so many chunks they are flushed, so that the progress shown is that of the card.
const FLUSH_CHUNKS: u64 = 16;
static ZEROS: [u8; CHUNK_LEN] = [0; CHUNK_LEN];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Write,
    Zero,
    Skip,
}

/// What becomes of each chunk of an image, given which of them are all zero.
pub(crate) fn plan(zero: &[bool], table: &Mbr) -> Vec<Work> {
    let mut works: Vec<Work> =
        zero.iter().map(|zero| if *zero { Work::Zero } else { Work::Write }).collect();
    for partition in table.partitions.iter().flatten() {
        let chunk = |sector: u64| usize::try_from(sector * SECTOR_LEN as u64 / CHUNK_LEN as u64);
        let start = u64::from(partition.start);
        let last = (start + u64::from(partition.sectors)).saturating_sub(1);
        let (Ok(first), Ok(last)) = (chunk(start), chunk(last)) else { continue };
        let is_empty = zero.get(first..=last).is_some_and(|chunks| chunks.iter().all(|zero| *zero));
        if is_empty && let Some(inner) = works.get_mut(first + 1..last) {
            inner.fill(Work::Skip);
        }
    }
    works
}

/// Reads the image once: which chunks are all zero, and its partition table.
pub(crate) fn survey(image: &File) -> Result<(Vec<bool>, Mbr)> {
    let length = image.metadata()?.len();
    ensure!(
        length > 0 && length.is_multiple_of(CHUNK_LEN as u64),
        "its length of {length} bytes is not that of a disk image"
    );
    let mut chunk = vec![0; CHUNK_LEN];
    let mut zero = Vec::new();
    let mut table = None;
    for number in 0..length / CHUNK_LEN as u64 {
        image.read_exact_at(&mut chunk, number * CHUNK_LEN as u64)?;
        if number == 0 {
            table = Some(Mbr::decode(&chunk).context("it does not begin with a partition table")?);
        }
        zero.push(is_zero(&chunk));
    }
    Ok((zero, table.context("it is empty")?))
}

/// An opened card (or an ordinary file in its place) and the image that is to lie on it.
pub(crate) struct Writing<'files> {
    pub(crate) image: &'files File,
    pub(crate) card: &'files File,
    pub(crate) works: &'files [Work],
    /// Length of the card, which is at least that of the image.
    pub(crate) card_bytes: u64,
}

impl Writing<'_> {
    /// Writes everything and compares what the card then says with the image.
    pub(crate) fn run(&self) -> Result<()> {
        let chunks = self.works.len() as u64;
        // Labels may also lie at the end of the card: the second copy of a partition table does.
        let tail = (self.card_bytes / CHUNK_LEN as u64).saturating_sub(1).max(chunks);
        self.card.write_all_at(&ZEROS, 0).context("write to it")?;
        if self.card_bytes > tail * CHUNK_LEN as u64 {
            let length = self.card_bytes - tail * CHUNK_LEN as u64;
            let zeros = ZEROS.get(..usize::try_from(length)?.min(CHUNK_LEN)).unwrap_or(&ZEROS);
            self.card.write_all_at(zeros, tail * CHUNK_LEN as u64).context("write to its end")?;
        }
        self.flush()?;
        self.each("writing", 1..chunks, |number, chunk| self.write(number, chunk))?;
        self.each("reading back", 1..chunks, |number, chunk| self.compare(number, chunk))?;
        self.each("finishing", 0..1, |number, chunk| self.write(number, chunk))?;
        self.each("reading back", 0..1, |number, chunk| self.compare(number, chunk))
    }

    /// Goes through the chunks that are not passed over, then makes sure that all is on the card and nothing in memory.
    fn each(
        &self,
        doing: &str,
        chunks: std::ops::Range<u64>,
        step: impl Fn(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let wanted = |number: &u64| {
            usize::try_from(*number).ok().and_then(|n| self.works.get(n)) != Some(&Work::Skip)
        };
        let numbers: Vec<u64> = chunks.filter(wanted).collect();
        let mut progress = Progress::new(doing, numbers.len() as u64 * CHUNK_LEN as u64);
        let mut chunk = vec![0; CHUNK_LEN];
        for (count, number) in (1..).zip(numbers) {
            let place = || format!("{doing} stopped at {} MiB", number);
            self.image.read_exact_at(&mut chunk, number * CHUNK_LEN as u64).with_context(place)?;
            step(number, &mut chunk).with_context(place)?;
            if count % FLUSH_CHUNKS == 0 {
                self.card.sync_data().with_context(place)?;
            }
            progress.show(count * CHUNK_LEN as u64);
        }
        self.flush()?;
        progress.end();
        Ok(())
    }

    fn write(&self, number: u64, chunk: &mut [u8]) -> Result<()> {
        let offset = number * CHUNK_LEN as u64;
        if !is_zero(chunk) || !zeroed_by_device(self.card, offset)? {
            self.card.write_all_at(chunk, offset)?;
        }
        Ok(())
    }

    fn compare(&self, number: u64, expected: &mut [u8]) -> Result<()> {
        let offset = number * CHUNK_LEN as u64;
        let mut found = vec![0; CHUNK_LEN];
        self.card.read_exact_at(&mut found, offset)?;
        if found == expected {
            return Ok(());
        }
        let wrong = found.iter().zip(&*expected).position(|(found, wanted)| found != wanted);
        let wrong = wrong.unwrap_or_default();
        bail!(
            "it does not hold what was written at byte {}: it is broken, or smaller than it says",
            offset + wrong as u64
        )
    }

    /// Everything written reaches the card; what is read next comes from there.
    fn flush(&self) -> Result<()> {
        self.card.sync_all().context("flush to it")?;
        posix_fadvise(self.card, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .context("forget what is in memory of it")
    }
}

/// Asks the device (or file system) to make a chunk read as zeros; false when it cannot do so by itself.
fn zeroed_by_device(card: &File, offset: u64) -> Result<bool> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(card, flags, i64::try_from(offset)?, CHUNK_LEN as i64) {
        Ok(()) => Ok(true),
        Err(nix::Error::EOPNOTSUPP | nix::Error::ENODEV | nix::Error::EINVAL) => Ok(false),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use disk::layout::Sizes;

    const MIB: u64 = CHUNK_LEN as u64;

    fn table() -> Mbr {
        Sizes { boot: 2, root: 4, data: 3 }.table(7).unwrap()
    }

    #[test]
    fn only_inner_chunks_of_empty_partitions_are_passed_over() {
        // 4 chunks before, boot 4-5, root a 6-9, root b 10-13, data 14-16.
        let mut zero = [true; 17];
        for used in [0, 4, 6, 15] {
            zero[used] = false;
        }
        let text: String = plan(&zero, &table())
            .iter()
            .map(|work| match work {
                Work::Write => 'w',
                Work::Zero => '0',
                Work::Skip => '-',
            })
            .collect();
        assert_eq!(text, "w000w0w0000--00w0");
    }

    fn new_file(path: &Path) -> File {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).open(path).unwrap()
    }

    /// An image with a table and some content.
    fn image(dir: &Path) -> File {
        let file = new_file(&dir.join("image"));
        file.set_len(17 * MIB).unwrap();
        file.write_all_at(&table().encode().unwrap(), 0).unwrap();
        file.write_all_at(b"boot", 4 * MIB).unwrap();
        file.write_all_at(b"root", 7 * MIB - 4).unwrap();
        file
    }

    fn card(dir: &Path, length: u64) -> File {
        let file = new_file(&dir.join("card"));
        for offset in (0..length).step_by(CHUNK_LEN) {
            file.write_all_at(&[0xee; CHUNK_LEN], offset).unwrap();
        }
        file
    }

    #[test]
    fn a_used_card_holds_the_image_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let (image, card) = (image(dir.path()), card(dir.path(), 20 * MIB));
        let (zero, found) = survey(&image).unwrap();
        assert_eq!(found, table());
        let works = plan(&zero, &found);
        let writing = Writing { image: &image, card: &card, works: &works, card_bytes: 20 * MIB };
        writing.run().unwrap();
        let byte = |offset: u64| {
            let mut byte = [0];
            card.read_exact_at(&mut byte, offset).unwrap();
            byte[0]
        };
        // Table, a FAT's zeros, content, the edges of the empty slot, its inside, behind the image, the card's end.
        let rows = [(510, 0x55), (5 * MIB, 0), (4 * MIB, b'b'), (7 * MIB - 1, b't')];
        let edges = [
            (10 * MIB, 0),
            (14 * MIB - 1, 0),
            (12 * MIB, 0xee),
            (18 * MIB, 0xee),
            (20 * MIB - 1, 0),
        ];
        for (offset, expected) in rows.into_iter().chain(edges) {
            assert_eq!(byte(offset), expected, "byte {offset}");
        }
    }

    #[test]
    fn a_card_that_loses_what_is_written_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path());
        let card = File::options().read(true).write(true).open("/dev/zero").unwrap();
        let writing = Writing { image: &image, card: &card, works: &[], card_bytes: 17 * MIB };
        let error = writing.compare(4, &mut [1; CHUNK_LEN]).unwrap_err().to_string();
        assert!(error.contains("at byte 4194304"), "{error}");
    }

    #[test]
    fn what_is_no_disk_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (length, reason) in
            [(0, "length of 0"), (1000, "length of 1000"), (MIB, "partition table")]
        {
            let file = new_file(&path);
            file.set_len(length).unwrap();
            let error = survey(&file).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
