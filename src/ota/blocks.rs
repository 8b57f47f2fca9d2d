//! The root as blocks with hashes: which of them are there already, and which have to be fetched.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::digest::Sha256;
use crate::error::Refusal;

/// Bytes of a block, those of the verified root.
pub const BLOCK_LEN: usize = 4096;
pub(crate) const HASH_LEN: usize = 32;
/// Name of the part that holds the hashes of the root's blocks, one after the other.
pub const INDEX: &str = "root.index";
/// Blocks between two that are needed which are fetched along, because another request would cost more.
const GAP_MAX: usize = 16;

pub(crate) type Hash = [u8; HASH_LEN];

/// The hashes of all blocks.
pub(crate) struct Index(Vec<Hash>);

/// Where a run of blocks comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is in place.
    Kept,
    /// It is in the slot that runs, from this block on.
    Running(usize),
    /// Only the bundle has it.
    Bundle,
}

/// Consecutive blocks of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) origin: Origin,
}

impl Index {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Index, Refusal> {
        let (hashes, rest) = bytes.as_chunks::<HASH_LEN>();
        match rest {
            [] => Ok(Index(hashes.to_vec())),
            _ => Err(Refusal::Manifest(format!("part {INDEX:?} is no list of hashes"))),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether these are the bytes of block `number`.
    pub(crate) fn is(&self, number: usize, block: &[u8]) -> bool {
        self.0.get(number).is_some_and(|hash| *hash == Sha256::of(block))
    }

    /// How the root comes together: `target` has the hashes of what is in place, `running` those of the other slot.
    pub(crate) fn plan(&self, target: &[Hash], running: &[Hash]) -> Vec<Run> {
        let mut known: HashMap<&Hash, usize> = HashMap::with_capacity(running.len());
        for (number, hash) in running.iter().enumerate() {
            known.entry(hash).or_insert(number);
        }
        let origins = self.0.iter().enumerate().map(|(number, hash)| {
            if target.get(number) == Some(hash) {
                return Origin::Kept;
            }
            known.get(hash).map_or(Origin::Bundle, |at| Origin::Running(*at))
        });
        merge(runs(origins))
    }
}

/// Neighbours of one origin as runs.
fn runs(origins: impl Iterator<Item = Origin>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (first, origin) in origins.enumerate() {
        match (runs.last_mut(), origin) {
            (Some(Run { origin: Origin::Kept, count, .. }), Origin::Kept)
            | (Some(Run { origin: Origin::Bundle, count, .. }), Origin::Bundle) => *count += 1,
            (Some(Run { origin: Origin::Running(from), count, .. }), Origin::Running(at))
                if *from + *count == at =>
            {
                *count += 1;
            }
            _ => runs.push(Run { first, count: 1, origin }),
        }
    }
    runs
}

/// Lets runs that are fetched take in small gaps between them.
fn merge(runs: Vec<Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        let mut gap = 0;
        let before = merged.iter().rposition(|before| {
            let is_bundle = before.origin == Origin::Bundle;
            gap += if is_bundle { 0 } else { before.count };
            is_bundle || gap > GAP_MAX
        });
        match before {
            Some(at) if run.origin == Origin::Bundle && gap <= GAP_MAX => {
                merged.truncate(at + 1);
                if let Some(before) = merged.last_mut() {
                    before.count = run.first + run.count - before.first;
                }
            }
            _ => merged.push(run),
        }
    }
    merged
}

/// The hashes of a root's blocks, as the part [`INDEX`] holds them; the last block is as long as the root leaves it.
pub fn index_of(reader: impl Read) -> io::Result<Vec<u8>> {
    Ok(hashes(reader, usize::MAX)?.concat())
}

/// The hashes of at most `count` blocks; fewer when the reader ends before.
pub(crate) fn hashes(mut reader: impl Read, count: usize) -> io::Result<Vec<Hash>> {
    let mut block = [0; BLOCK_LEN];
    let mut hashes = Vec::new();
    while hashes.len() < count {
        let filled = fill(&mut reader, &mut block)?;
        if filled == 0 {
            break;
        }
        hashes.push(Sha256::of(block.get(..filled).unwrap_or_default()));
    }
    Ok(hashes)
}

/// Reads until the buffer is full or the reader has no more.
pub fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> Hash {
        [number; HASH_LEN]
    }

    #[test]
    fn roots_come_together_from_what_is_there() {
        let run = |first, count, origin| Run { first, count, origin };
        // Wanted blocks, what is in place, what runs, the plan.
        type Case = (&'static [u8], &'static [u8], &'static [u8], Vec<Run>);
        let cases: [Case; 4] = [
            (&[1, 2, 3], &[], &[], vec![run(0, 3, Origin::Bundle)]),
            (&[1, 2, 3], &[1, 2, 3], &[9], vec![run(0, 3, Origin::Kept)]),
            (
                &[1, 2, 3],
                &[],
                &[2, 3, 1],
                vec![run(0, 1, Origin::Running(2)), run(1, 2, Origin::Running(0))],
            ),
            (
                &[7, 2, 8, 2],
                &[0, 2],
                &[2],
                vec![run(0, 3, Origin::Bundle), run(3, 1, Origin::Running(0))],
            ),
        ];
        for (wanted, target, running, plan) in cases {
            let list = |numbers: &[u8]| numbers.iter().copied().map(hash).collect::<Vec<_>>();
            assert_eq!(Index(list(wanted)).plan(&list(target), &list(running)), plan, "{wanted:?}");
        }
    }

    #[test]
    fn wide_gaps_are_not_fetched_along() {
        let mut wanted = vec![hash(1); GAP_MAX + 3];
        wanted[0] = hash(2);
        wanted[GAP_MAX + 2] = hash(2);
        let plan = Index(wanted).plan(&[hash(1); GAP_MAX + 3], &[]);
        let origins: Vec<_> = plan.iter().map(|run| (run.first, run.count, run.origin)).collect();
        let expected = [
            (0, 1, Origin::Bundle),
            (1, GAP_MAX + 1, Origin::Kept),
            (GAP_MAX + 2, 1, Origin::Bundle),
        ];
        assert_eq!(origins, expected);
    }

    #[test]
    fn an_index_is_made_and_read() {
        let root: Vec<u8> =
            (0..3 * BLOCK_LEN).map(|at| u8::try_from(at / BLOCK_LEN).unwrap()).collect();
        let index = Index::parse(&index_of(root.as_slice()).unwrap()).unwrap();
        assert_eq!(index.len(), 3);
        assert!(index.is(2, &[2; BLOCK_LEN]) && !index.is(1, &[2; BLOCK_LEN]) && !index.is(3, &[]));
        assert!(Index::parse(&[0; 33]).is_err());
    }
}
