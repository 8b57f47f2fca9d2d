//! A small FAT32 file system, made here byte by byte, before and after lost clusters are freed.

use std::fs::{self, File};

use crate::fat::free_lost;

const SECTOR: usize = 512;
const RESERVED: usize = 4;
/// One sector of table in each of two copies, one sector in each cluster.
const DATA: usize = RESERVED + 2;
const CLUSTERS: usize = 126;
const LAST: u32 = 0x0fff_ffff;
const BAD: u32 = 0x0fff_fff7;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn link(image: &mut [u8], number: usize, next: u32) {
    for table in 0..2 {
        put(image, (RESERVED + table) * SECTOR + number * 4, &next.to_le_bytes());
    }
}

fn linked(image: &[u8], number: usize) -> [u32; 2] {
    [0, 1].map(|table| {
        let at = (RESERVED + table) * SECTOR + number * 4;
        u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
    })
}

/// Puts an entry into the folder that cluster `folder` holds.
fn entry(image: &mut [u8], folder: usize, number: usize, name: &[u8], kind: u8, first: u16) {
    let at = (DATA + folder - 2) * SECTOR + number * 32;
    put(image, at, name);
    image[at + 11] = kind;
    put(image, at + 26, &first.to_le_bytes());
}

/// A file of two clusters, a folder with a file of one, and three clusters that nobody has.
fn image() -> Vec<u8> {
    let mut image = vec![0; (DATA + CLUSTERS) * SECTOR];
    put(&mut image, 11, &512u16.to_le_bytes());
    image[13] = 1;
    put(&mut image, 14, &(RESERVED as u16).to_le_bytes());
    image[16] = 2;
    put(&mut image, 32, &((DATA + CLUSTERS) as u32).to_le_bytes());
    put(&mut image, 36, &1u32.to_le_bytes());
    put(&mut image, 44, &2u32.to_le_bytes());
    put(&mut image, 48, &1u16.to_le_bytes());
    image[0x41] = 1;
    put(&mut image, 510, &[0x55, 0xaa]);
    for (number, next) in [
        (0, 0x0fff_fff8),
        (1, LAST),
        (2, LAST),
        (3, 4),
        (4, LAST),
        (5, LAST),
        (6, LAST),
        (10, 11),
        (11, LAST),
        (20, LAST),
        (30, BAD),
    ] {
        link(&mut image, number, next);
    }
    entry(&mut image, 2, 0, b"COPEPOD    ", 0x08, 0);
    entry(&mut image, 2, 1, b"Ak\0e\0r\0n\0", 0x0f, 0);
    entry(&mut image, 2, 2, b"KERNEL     ", 0x20, 3);
    entry(&mut image, 2, 3, b"\xe5ONE       ", 0x20, 10);
    entry(&mut image, 2, 4, b"EMPTY      ", 0x20, 0);
    entry(&mut image, 2, 5, b"A          ", 0x10, 5);
    entry(&mut image, 5, 0, b".          ", 0x10, 5);
    entry(&mut image, 5, 1, b"..         ", 0x10, 0);
    entry(&mut image, 5, 2, b"INITRD     ", 0x20, 6);
    image
}

/// What freeing says, and the image after it.
fn freed(image: &[u8]) -> (Result<Option<usize>, String>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, image).unwrap();
    let device = File::options().read(true).write(true).open(&path).unwrap();
    let found = free_lost(&device).map_err(|error| error.to_string());
    (found, fs::read(&path).unwrap())
}

#[test]
fn clusters_that_no_file_has_are_freed() {
    let (found, after) = freed(&image());
    assert_eq!(found, Ok(Some(3)));
    let mut expected = image();
    for number in [10, 11, 20] {
        link(&mut expected, number, 0);
        assert_eq!(linked(&after, number), [0, 0]);
    }
    expected[0x41] = 0;
    put(&mut expected, SECTOR + 488, &[0xff; 8]);
    assert!(after == expected, "nothing else is changed");
    assert_eq!(freed(&after).0, Ok(None), "looked at once");
}

#[test]
fn a_file_system_with_another_fault_is_left_alone() {
    type Change = fn(&mut Vec<u8>);
    let table: [(&str, Change); 8] = [
        ("two files have the same cluster", |image| entry(image, 2, 6, b"TWO        ", 0x20, 4)),
        ("two files have the same cluster", |image| link(image, 4, 3)),
        ("leads to a cluster that is none", |image| entry(image, 2, 6, b"TWO        ", 0x20, 40)),
        ("leads to a cluster that is none", |image| link(image, 4, 5000)),
        ("leads to a cluster that is none", |image| link(image, 4, BAD)),
        ("no FAT32", |image| image[17] = 1),
        ("measures", |image| image[13] = 0),
        ("another length", |image| put(image, 32, &50_000u32.to_le_bytes())),
    ];
    for (expected, change) in table {
        let mut image = image();
        change(&mut image);
        let (found, after) = freed(&image);
        let error = found.unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(after == image, "{expected}");
    }
    let mut clean = image();
    clean[0x41] = 0;
    assert_eq!(freed(&clean), (Ok(None), clean), "without the mark nothing is read");
}
