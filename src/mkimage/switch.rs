//! A learning switch between emulated boards: each connects to its socket and speaks QEMU's stream format, frames behind
//! their length. A hub would not do: QEMU's own router answers for every address whose frames it sees.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// The largest frame a board may send.
const FRAME_MAX: usize = 65_536 + 64;
const HEADER: usize = 14;
/// Addresses that are remembered; the rest is flooded.
const ADDRESSES_MAX: usize = 64;

type Address = [u8; 6];

#[derive(Default)]
struct Table {
    ports: BTreeMap<usize, UnixStream>,
    learned: BTreeMap<Address, usize>,
}

/// Runs until the process ends; the socket goes with its folder.
pub(crate) struct Switch {
    path: PathBuf,
}

impl Switch {
    pub(crate) fn start(path: &Path) -> Result<Switch> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
        let table = Arc::new(Mutex::new(Table::default()));
        thread::spawn(move || {
            for (port, stream) in listener.incoming().flatten().enumerate() {
                let table = Arc::clone(&table);
                // A port that cannot be set up is as good as unplugged.
                let _ = stream.try_clone().map(|out| lock(&table).ports.insert(port, out));
                thread::spawn(move || {
                    let _ = serve(&table, port, stream);
                    unplug(&mut lock(&table), port);
                });
            }
        });
        Ok(Switch { path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unplug(table: &mut Table, port: usize) {
    table.ports.remove(&port);
    table.learned.retain(|_, at| *at != port);
}

/// Takes the frames of one port and hands them on.
fn serve(table: &Mutex<Table>, port: usize, mut stream: UnixStream) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let size = u32::from_be_bytes(length) as usize;
        if size > FRAME_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut frame = vec![0; 4 + size];
        frame[..4].copy_from_slice(&length);
        stream.read_exact(&mut frame[4..])?;
        let mut table = lock(table);
        let outlets = outlets(&mut table, port, &frame[4..]);
        // A board that was switched off loses frames, as on a wire.
        let broken: Vec<usize> = outlets
            .into_iter()
            .filter(|out| table.ports.get_mut(out).is_some_and(|p| p.write_all(&frame).is_err()))
            .collect();
        broken.into_iter().for_each(|out| unplug(&mut table, out));
    }
}

/// Learns the sender's port and tells where the frame goes.
fn outlets(table: &mut Table, from: usize, frame: &[u8]) -> Vec<usize> {
    let address = |at: usize| frame.get(at..at + 6).and_then(|a| Address::try_from(a).ok());
    let (Some(to), Some(sender)) = (address(0), address(6)) else { return Vec::new() };
    if frame.len() < HEADER {
        return Vec::new();
    }
    let group = |a: &Address| a[0] & 1 == 1;
    if !group(&sender)
        && (table.learned.len() < ADDRESSES_MAX || table.learned.contains_key(&sender))
    {
        table.learned.insert(sender, from);
    }
    match table.learned.get(&to) {
        Some(port) if !group(&to) => Some(*port).into_iter().filter(|p| *p != from).collect(),
        _ => table.ports.keys().copied().filter(|p| *p != from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mut frame = vec![0; 20];
        frame[5] = to;
        frame[11] = from;
        frame
    }

    #[test]
    fn unknown_addresses_are_flooded_and_known_ones_are_not() {
        let mut table = Table::default();
        let (a, _keep) = UnixStream::pair().unwrap();
        for port in 0..3 {
            table.ports.insert(port, a.try_clone().unwrap());
        }
        assert_eq!(outlets(&mut table, 0, &frame(2, 1)), [1, 2]);
        assert_eq!(outlets(&mut table, 1, &frame(1, 2)), [0]);
        assert_eq!(outlets(&mut table, 0, &frame(2, 1)), [1]);
        let mut broadcast = frame(0, 1);
        broadcast[..6].fill(0xff);
        assert_eq!(outlets(&mut table, 0, &broadcast), [1, 2]);
        assert!(outlets(&mut table, 0, &[0; 8]).is_empty());
        unplug(&mut table, 1);
        assert_eq!(outlets(&mut table, 0, &frame(2, 1)), [2]);
    }
}
