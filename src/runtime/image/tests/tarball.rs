//! Makes tar archives, sane ones and others, from the words of `cases/layers.txt`.

use std::io::Write;

/// One entry's header fields; `raw` ones are written as they are.
pub(crate) struct Header<'a> {
    pub(crate) flag: u8,
    pub(crate) path: &'a str,
    pub(crate) link: &'a str,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: (u32, u32),
}

impl Default for Header<'_> {
    fn default() -> Self {
        Self { flag: b'0', path: "", link: "", mode: 0o644, uid: 0, gid: 0, device: (0, 0) }
    }
}

/// Appends an entry with its data and padding.
pub(crate) fn append(archive: &mut Vec<u8>, header: &Header<'_>, data: &[u8]) {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &header.path.as_bytes()[..header.path.len().min(100)]);
    put(100, format!("{:07o}\0", header.mode).as_bytes());
    put(108, format!("{:07o}\0", header.uid).as_bytes());
    put(116, format!("{:07o}\0", header.gid).as_bytes());
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, format!("{:011o}\0", 1_000_000_000).as_bytes());
    put(148, b"        ");
    put(156, &[header.flag]);
    put(157, header.link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0", header.device.0).as_bytes());
    put(337, format!("{:07o}\0", header.device.1).as_bytes());
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&block);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// A regular file.
pub(crate) fn file(archive: &mut Vec<u8>, path: &str, data: &[u8]) {
    append(archive, &Header { path, ..Header::default() }, data);
}

/// The zero blocks at the end.
pub(crate) fn finish(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A layer of regular files.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, text) in files {
        file(&mut archive, path, text.as_bytes());
    }
    finish(archive)
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// `a{3}` means `aaa`; with `whole`, everything before the brace is repeated, else only the last character.
pub(crate) fn expand(word: &str) -> String {
    let Some((before, after)) = word.split_once('{') else { return word.to_owned() };
    let (count, rest) = after.split_once('}').expect("repeat count is closed");
    let repeated = before.rsplit(['=', '/']).next().filter(|last| !last.is_empty()).unwrap_or("a/");
    let kept = before.strip_suffix(repeated).expect("suffix");
    format!("{kept}{}{rest}", repeated.repeat(count.parse().unwrap()))
}

/// Builds the archive that the lines of a case describe.
pub(crate) fn build(lines: &[&str]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut cut = None;
    for line in lines {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "pax" => {
                let records: String =
                    rest.split(' ').map(|record| pax_record(&expand(record))).collect();
                append(
                    &mut archive,
                    &Header { flag: b'x', path: "pax", ..Header::default() },
                    records.as_bytes(),
                );
            }
            "gnu" => {
                let name = format!("{}\0", expand(rest));
                append(
                    &mut archive,
                    &Header { flag: b'L', path: "././@LongLink", ..Header::default() },
                    name.as_bytes(),
                );
            }
            "cut" => cut = rest.parse().ok(),
            "flip" => archive[rest.parse::<usize>().unwrap()] ^= 1,
            "raw" => archive.extend_from_slice(expand(rest).repeat(10).as_bytes()),
            _ => entry(&mut archive, kind, rest),
        }
    }
    let mut archive = finish(archive);
    archive.truncate(cut.unwrap_or(archive.len()));
    archive
}

fn entry(archive: &mut Vec<u8>, kind: &str, rest: &str) {
    let (flag, mode) = match kind {
        "file" => (b'0', 0o644),
        "hardlink" => (b'1', 0o644),
        "symlink" => (b'2', 0o777),
        "char" => (b'3', 0o600),
        "block" => (b'4', 0o600),
        "dir" => (b'5', 0o755),
        "fifo" => (b'6', 0o644),
        other => panic!("unknown kind {other}"),
    };
    let (rest, link) = match rest.split_once(" ->") {
        Some((path, link)) => (path, link.trim()),
        None => (rest, ""),
    };
    let mut words = rest.split(' ');
    let path = expand(words.next().unwrap_or_default());
    let mut header = Header { flag, mode, path: &path, link, ..Header::default() };
    let mut text = String::new();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "mode" => header.mode = u32::from_str_radix(value, 8).unwrap(),
            "uid" => header.uid = value.parse().unwrap(),
            "gid" => header.gid = value.parse().unwrap(),
            "flag" => header.flag = value.as_bytes()[0],
            "text" => text = expand(value),
            "device" => {
                let (major, minor) = value.split_once(':').unwrap();
                header.device = (major.parse().unwrap(), minor.parse().unwrap());
            }
            "size" => {}
            other => panic!("unknown key {other}"),
        }
    }
    append(archive, &header, text.as_bytes());
}

/// `length key=value\n`, where the length counts itself.
fn pax_record(record: &str) -> String {
    let body = record.len() + 2;
    let length = (1..6)
        .map(|digits| body + digits)
        .find(|length| length.to_string().len() + body == *length)
        .unwrap();
    format!("{length} {record}\n")
}
