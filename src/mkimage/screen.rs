//! What a board shows on its screen, read from QEMU's picture of it without knowing the font: a text is where equal
//! characters look equal, different ones different, and only spaces like nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Pixels of a character in the kernel's font for small screens.
const CELL: [usize; 2] = [8, 16];
const PIXEL_LEN: usize = 3;

/// The picture of a screen with text on it.
pub(crate) struct Picture {
    width: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Reads ppm(5) as QEMU writes it: no comments, one line break after each part of the header.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Picture> {
        let mut parts = bytes.splitn(4, |byte| *byte == b'\n');
        let mut line = || std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
        let (kind, size, depth) = (line(), line(), line());
        ensure!(
            (kind, depth) == ("P6", "255"),
            "expected a picture in ppm, not {kind:?} {depth:?}"
        );
        let (width, height) = size.split_once(' ').context("the picture has no size")?;
        let (width, height): (usize, usize) = (width.parse()?, height.parse()?);
        let pixels = parts.next().unwrap_or_default().to_vec();
        let expected = width.saturating_mul(height).saturating_mul(PIXEL_LEN);
        ensure!(pixels.len() == expected, "the picture of {size} has {} bytes", pixels.len());
        Ok(Picture { width, pixels })
    }

    /// Whether the line `row`, counted from 0, begins with `text` and a space.
    pub(crate) fn shows(&self, row: usize, text: &str) -> bool {
        let mut seen: BTreeMap<Vec<u8>, char> = BTreeMap::new();
        let mut looks: BTreeMap<char, Vec<u8>> = BTreeMap::new();
        for (column, char) in text.chars().chain([' ']).enumerate() {
            let Some(cell) = self.cell(row, column) else { return false };
            let is_empty = cell.iter().all(|byte| *byte == 0);
            let known = *seen.entry(cell.clone()).or_insert(char);
            let look = looks.entry(char).or_insert_with(|| cell.clone());
            if known != char || *look != cell || is_empty != (char == ' ') {
                return false;
            }
        }
        true
    }

    fn cell(&self, row: usize, column: usize) -> Option<Vec<u8>> {
        let [width, height] = CELL;
        let left = column * width;
        let end = left + width;
        let lines = (row * height..(row + 1) * height).map(|y| {
            let at = |x: usize| (y * self.width + x) * PIXEL_LEN;
            self.pixels.get(at(left)..at(end))
        });
        let cell: Option<Vec<&[u8]>> = lines.filter(|_| end <= self.width).collect();
        cell.filter(|lines| !lines.is_empty()).map(|lines| lines.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each character is a line of dots that says its number.
    fn drawn(text: &str, columns: usize) -> Vec<u8> {
        let rows = text.lines().count();
        let [width, height] = [columns * CELL[0], rows * CELL[1]];
        let mut pixels = vec![0; width * height * PIXEL_LEN];
        for (row, line) in text.lines().enumerate() {
            for (column, char) in line.bytes().enumerate().filter(|(_, char)| *char != b' ') {
                for bit in (0..CELL[0]).filter(|bit| char >> bit & 1 == 1) {
                    let x = column * CELL[0] + bit;
                    pixels[((row * CELL[1] + 3) * width + x) * PIXEL_LEN] = 170;
                }
            }
        }
        [format!("P6\n{width} {height}\n255\n").as_bytes(), &pixels].concat()
    }

    #[test]
    fn text_is_found_where_it_is() {
        let picture = Picture::parse(&drawn("Copepod 0.1.0\n\n  name  board", 16)).unwrap();
        for (row, text, expected) in [
            (0, "Copepod 0.1.0", true),
            (0, "Copepod", true),
            (0, "Copepad 0.1.0", false),
            // What it cannot tell.
            (0, "Capepad 0.1.0", true),
            (0, "Copepod 0.1", false),
            (0, "Copepod 0.1.0 and more", false),
            (1, "Copepod 0.1.0", false),
            (1, "", true),
            (2, "  name  board", true),
            (2, "  name  bored", false),
            (2, " name  board", false),
            (3, "", false),
        ] {
            assert_eq!(picture.shows(row, text), expected, "{row} {text:?}");
        }
        for bad in ["", "P5\n1 1\n255\nxxx", "P6\n1 1\n255\nxx", "P6\n1\n255\n", "P6\n9 x\n255\n"] {
            assert!(Picture::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
