//! Gzip, zstd or nothing, told apart by the first bytes rather than by what a manifest claims.

use std::io::{self, BufRead, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Largest zstd window that is given memory; what `zstd --ultra -22` needs.
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 * 1024 * 1024;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Second to fourth byte of a skippable frame, which zstd:chunked layers may start with.
const ZSTD_SKIP_MAGIC: &[u8] = &[0x2a, 0x4d, 0x18];
const MAGIC_BYTES: u64 = 4;

type Rewound<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// The plain bytes of a stream that may be compressed.
pub(crate) enum Decoder<R: BufRead> {
    Plain(Rewound<R>),
    Gzip(Box<MultiGzDecoder<Rewound<R>>>),
    Zstd(Box<Zstd<Rewound<R>>>),
}

impl<R: BufRead> Decoder<R> {
    pub(crate) fn new(mut source: R) -> io::Result<Self> {
        let mut magic = Vec::new();
        (&mut source).take(MAGIC_BYTES).read_to_end(&mut magic)?;
        let (gzip, zstd) = (magic.starts_with(GZIP_MAGIC), is_zstd(&magic));
        let source = Cursor::new(magic).chain(source);
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else if zstd {
            Self::Zstd(Box::new(Zstd::new(source)))
        } else {
            Self::Plain(source)
        })
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

fn is_zstd(magic: &[u8]) -> bool {
    magic == ZSTD_MAGIC
        || (magic.len() == 4 && magic[0] & 0xf0 == 0x50 && &magic[1..] == ZSTD_SKIP_MAGIC)
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// All frames of a zstd stream, skippable ones left out.
pub(crate) struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW_BYTES_MAX);
        Self { source, decoder, in_frame: false }
    }

    /// Moves to the next frame; false at the end of the stream.
    fn start_frame(&mut self) -> io::Result<bool> {
        while !self.in_frame {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.in_frame = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? != length {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "zstd stream is truncated",
                        ));
                    }
                }
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.start_frame()? {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(damaged)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.in_frame = false,
                count => return Ok(count),
            }
        }
        Ok(0)
    }
}

fn damaged(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged zstd stream: {error}"))
}
