//! The part of SPDY/3.1 that port forwarding uses: frames from and to bytes, header blocks included. No IO.

use std::fmt;
use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

/// Every frame begins with this many bytes.
pub(super) const HEADER: usize = 8;
/// The most that one frame can carry.
const LENGTH_MAX: usize = (1 << 24) - 1;
/// The largest control frame taken; data frames are passed on in pieces.
const CONTROL_MAX: usize = 16 << 10;
/// The most that a header block may unpack to, and the most pairs in it.
const BLOCK_MAX: usize = 16 << 10;
const PAIRS_MAX: usize = 32;

const CONTROL_BIT: u32 = 0x8000_0000;
const VERSION: u16 = 0x8003;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// An empty header block as stored zlib blocks, the second of which flushes: no compressor is needed for the only block
/// we ever send. The first block of a connection begins the zlib stream.
const ZLIB_START: [u8; 2] = [0x78, 0x01];
const EMPTY_BLOCK: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

pub(super) type Headers = Vec<(String, String)>;

/// What a client says. Settings, window updates and the like say nothing to us: streams have no windows here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream { stream: u32, headers: Headers, fin: bool },
    Data { stream: u32, bytes: Bytes, fin: bool },
    Reset { stream: u32 },
    Ping(u32),
    GoAway,
}

/// Why bytes are no frames; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    #[error("spdy version is not 3")]
    Version,
    #[error("control frame of {0} bytes, expected at most {CONTROL_MAX}")]
    Long(usize),
    #[error("control frame of type {0} ends early")]
    Short(u16),
    #[error("header block cannot be unpacked")]
    Zlib,
    #[error("header block unpacks to more than {BLOCK_MAX} bytes")]
    BlockSize,
    #[error("header block is malformed")]
    Block,
}

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Why {
    Protocol = 1,
    Refused = 3,
    Cancel = 5,
}

/// The dictionary that both sides begin with: words with their length before them, then text.
pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::new();
    let (words, text) = include_str!("dictionary.txt").rsplit_once('\n').unwrap_or_default();
    for word in words.lines() {
        out.put_u32(word.len() as u32);
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(text.as_bytes());
    out
});

/// A data frame whose payload is still coming.
#[derive(Debug, Clone, Copy)]
struct Open {
    stream: u32,
    left: usize,
    fin: bool,
}

/// Bytes to frames. What is pushed is bounded by the caller, who takes all frames before it pushes more.
pub(super) struct Decoder {
    buffer: BytesMut,
    inflate: Decompress,
    open: Option<Open>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoder of {} bytes", self.buffer.len())
    }
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder { buffer: BytesMut::new(), inflate: Decompress::new(true), open: None }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or piece of a data frame, if it is there.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Bad> {
        loop {
            if let Some(open) = self.open {
                return Ok(self.piece(open));
            }
            let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
            let [a, b, c, d, flags, length @ ..] = *header;
            let word = u32::from_be_bytes([a, b, c, d]);
            let length = usize::try_from(u32::from_be_bytes([0, length[0], length[1], length[2]]))
                .unwrap_or(LENGTH_MAX);
            if word & CONTROL_BIT == 0 {
                self.buffer.advance(HEADER);
                self.open = Some(Open { stream: word, left: length, fin: flags & FIN != 0 });
                continue;
            }
            if u16::from_be_bytes([a, b]) != VERSION {
                return Err(Bad::Version);
            }
            if length > CONTROL_MAX {
                return Err(Bad::Long(length));
            }
            if self.buffer.len() < HEADER + length {
                return Ok(None);
            }
            let mut frame = self.buffer.split_to(HEADER + length).freeze();
            frame.advance(HEADER);
            let kind = u16::from_be_bytes([c, d]);
            if let Some(frame) = self.control(kind, flags, frame)? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self, open: Open) -> Option<Frame> {
        if self.buffer.is_empty() && open.left > 0 {
            return None;
        }
        let bytes = self.buffer.split_to(open.left.min(self.buffer.len())).freeze();
        let left = open.left - bytes.len();
        self.open = (left > 0).then_some(Open { left, ..open });
        Some(Frame::Data { stream: open.stream, bytes, fin: open.fin && left == 0 })
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Option<Frame>, Bad> {
        let word = |body: &mut Bytes| body.try_get_u32().map_err(|_| Bad::Short(kind));
        Ok(match kind {
            SYN_STREAM => {
                let stream = word(&mut body)? & !CONTROL_BIT;
                let _associated = word(&mut body)?;
                let _priority_and_slot = body.try_get_u16().map_err(|_| Bad::Short(kind))?;
                let headers = headers(self.unpack(&body)?)?;
                Some(Frame::SynStream { stream, headers, fin: flags & FIN != 0 })
            }
            // They say nothing to us, but the next block is packed with their help.
            SYN_REPLY | HEADERS => {
                let _stream = word(&mut body)?;
                self.unpack(&body)?;
                None
            }
            RST_STREAM => Some(Frame::Reset { stream: word(&mut body)? & !CONTROL_BIT }),
            PING => Some(Frame::Ping(word(&mut body)?)),
            GOAWAY => Some(Frame::GoAway),
            _ => None,
        })
    }

    fn unpack(&mut self, block: &[u8]) -> Result<Bytes, Bad> {
        let mut out = vec![0; BLOCK_MAX + 1];
        let (start_in, start_out) = (self.inflate.total_in(), self.inflate.total_out());
        loop {
            let taken = self.inflate.total_in() - start_in;
            let filled = self.inflate.total_out() - start_out;
            let rest = usize::try_from(taken).ok().and_then(|n| block.get(n..)).ok_or(Bad::Zlib)?;
            let filled = usize::try_from(filled).map_err(|_| Bad::Zlib)?;
            let room = out.get_mut(filled..).filter(|r| !r.is_empty()).ok_or(Bad::BlockSize)?;
            match self.inflate.decompress(rest, room, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| Bad::Zlib)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(Bad::Zlib),
                Ok(_) => {
                    let still = self.inflate.total_in() - start_in == taken
                        && self.inflate.total_out() - start_out == filled as u64;
                    if still {
                        out.truncate(filled);
                        return if rest.is_empty() { Ok(out.into()) } else { Err(Bad::Zlib) };
                    }
                }
            }
        }
    }
}

fn headers(mut block: Bytes) -> Result<Headers, Bad> {
    let pairs = block.try_get_u32().map_err(|_| Bad::Block)? as usize;
    if pairs > PAIRS_MAX {
        return Err(Bad::Block);
    }
    let mut out = Headers::with_capacity(pairs);
    for _ in 0..pairs {
        out.push((text(&mut block)?, text(&mut block)?));
    }
    Ok(out)
}

fn text(block: &mut Bytes) -> Result<String, Bad> {
    let len = block.try_get_u32().map_err(|_| Bad::Block)? as usize;
    if len > block.len() {
        return Err(Bad::Block);
    }
    String::from_utf8(block.split_to(len).into()).map_err(|_| Bad::Block)
}

fn control_frame(kind: u16, words: &[u32], rest: &[&[u8]]) -> Bytes {
    let length = words.len() * 4 + rest.iter().map(|part| part.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(HEADER + length);
    out.put_u16(VERSION);
    out.put_u16(kind);
    out.put_u32(length as u32);
    words.iter().for_each(|word| out.put_u32(*word));
    rest.iter().for_each(|part| out.extend_from_slice(part));
    out.freeze()
}

/// Agrees to a stream; the first reply of a connection is to be told as such.
pub(super) fn reply(stream: u32, first: bool) -> Bytes {
    let start: &[u8] = if first { &ZLIB_START } else { &[] };
    control_frame(SYN_REPLY, &[stream], &[start, &EMPTY_BLOCK])
}

pub(super) fn reset(stream: u32, why: Why) -> Bytes {
    control_frame(RST_STREAM, &[stream, why as u32], &[])
}

pub(super) fn ping(number: u32) -> Bytes {
    control_frame(PING, &[number], &[])
}

/// The header of a data frame.
pub(super) fn data_header(stream: u32, len: usize, fin: bool) -> [u8; HEADER] {
    let word = (stream & !CONTROL_BIT).to_be_bytes();
    let [_, a, b, c] = (len.min(LENGTH_MAX) as u32).to_be_bytes();
    let flags = if fin { FIN } else { 0 };
    let [p, q, r, s] = word;
    [p, q, r, s, flags, a, b, c]
}

pub(super) fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let header = data_header(stream, bytes.len(), fin);
    [&header[..], bytes].concat().into()
}
