//! One message of the protocol: a header of zig-zag varints (message id, stream id, type and, for Data and Connect, a
//! deadline nobody reads any more), then the payload.

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::{ADDRESS_MAX, ERROR_TEXT_MAX};

/// The deadline in milliseconds that peers expect in the header of Data and Connect.
const LEGACY_DEADLINE_MS: i64 = 15_000;
/// Four varints of at most ten bytes.
const HEADER_MAX: usize = 40;
/// The text of an Error that says that a stream ended well.
const END_TEXT: &str = "EOF";

const DATA: i64 = 1;
const CONNECT: i64 = 2;
const ERROR: i64 = 3;
const ADD_CLIENT: i64 = 4;
const REMOVE_CLIENT: i64 = 5;
const PAUSE: i64 = 6;
const RESUME: i64 = 7;
const SYNC_CONNECTIONS: i64 = 8;

/// A stream's number: odd ones are opened by the client of the session, even ones by the server.
pub(crate) type StreamId = i64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) message: i64,
    pub(crate) stream: StreamId,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Data(Bytes),
    Connect {
        proto: String,
        address: String,
    },
    /// A Connect that names its stream but cannot be answered otherwise than by an error.
    BadConnect(&'static str),
    /// The stream is over; no text stands for a good end.
    Error(Option<String>),
    AddClient(String),
    RemoveClient(String),
    Pause,
    Resume,
    /// The streams that the sender knows.
    Sync(Vec<StreamId>),
    Unknown(i64),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    #[error("message header ends early, expected {0}")]
    Short(&'static str),
    #[error("message header has a number of more than 64 bits in {0}")]
    Long(&'static str),
    #[error("list of streams is not a multiple of 8 bytes")]
    Sync,
}

impl Frame {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_MAX + self.body.size());
        put_varint(&mut out, self.message);
        put_varint(&mut out, self.stream);
        put_varint(&mut out, self.body.kind());
        match &self.body {
            Body::Data(data) => {
                put_varint(&mut out, LEGACY_DEADLINE_MS);
                out.extend_from_slice(data);
            }
            Body::Connect { proto, address } => {
                put_varint(&mut out, LEGACY_DEADLINE_MS);
                out.extend_from_slice(proto.as_bytes());
                out.put_u8(b'/');
                out.extend_from_slice(address.as_bytes());
            }
            Body::BadConnect(_) => put_varint(&mut out, LEGACY_DEADLINE_MS),
            Body::Error(text) => {
                let text = text.as_deref().unwrap_or(END_TEXT);
                out.extend_from_slice(shortened(text, ERROR_TEXT_MAX).as_bytes());
            }
            Body::AddClient(key) | Body::RemoveClient(key) => {
                out.extend_from_slice(shortened(key, ERROR_TEXT_MAX).as_bytes());
            }
            Body::Sync(streams) => streams.iter().for_each(|id| out.put_i64_le(*id)),
            Body::Pause | Body::Resume | Body::Unknown(_) => {}
        }
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<Frame, Bad> {
        let message = take_varint(&mut bytes, "message id")?;
        let stream = take_varint(&mut bytes, "stream id")?;
        let kind = take_varint(&mut bytes, "type")?;
        if kind == DATA || kind == CONNECT {
            take_varint(&mut bytes, "deadline")?;
        }
        let body = match kind {
            DATA => Body::Data(bytes),
            CONNECT => connect(&bytes),
            ERROR => {
                let text = text_of(&bytes);
                Body::Error((text != END_TEXT).then_some(text))
            }
            ADD_CLIENT => Body::AddClient(text_of(&bytes)),
            REMOVE_CLIENT => Body::RemoveClient(text_of(&bytes)),
            PAUSE => Body::Pause,
            RESUME => Body::Resume,
            SYNC_CONNECTIONS => sync(&bytes)?,
            other => Body::Unknown(other),
        };
        Ok(Frame { message, stream, body })
    }
}

impl Body {
    fn kind(&self) -> i64 {
        match self {
            Body::Data(_) => DATA,
            Body::Connect { .. } | Body::BadConnect(_) => CONNECT,
            Body::Error(_) => ERROR,
            Body::AddClient(_) => ADD_CLIENT,
            Body::RemoveClient(_) => REMOVE_CLIENT,
            Body::Pause => PAUSE,
            Body::Resume => RESUME,
            Body::Sync(_) => SYNC_CONNECTIONS,
            Body::Unknown(kind) => *kind,
        }
    }

    fn size(&self) -> usize {
        match self {
            Body::Data(data) => data.len(),
            Body::Sync(streams) => streams.len() * 8,
            Body::Connect { .. } => ADDRESS_MAX,
            Body::Error(_) | Body::AddClient(_) | Body::RemoveClient(_) => ERROR_TEXT_MAX,
            Body::BadConnect(_) | Body::Pause | Body::Resume | Body::Unknown(_) => 0,
        }
    }
}

fn connect(bytes: &[u8]) -> Body {
    if bytes.len() > ADDRESS_MAX {
        return Body::BadConnect("address is longer than 266 bytes");
    }
    match std::str::from_utf8(bytes).ok().and_then(|text| text.split_once('/')) {
        Some((proto, address)) => {
            Body::Connect { proto: proto.to_owned(), address: address.to_owned() }
        }
        None => Body::BadConnect("address is not of the form proto/address"),
    }
}

fn sync(bytes: &[u8]) -> Result<Body, Bad> {
    let (ids, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Bad::Sync);
    }
    Ok(Body::Sync(ids.iter().map(|id| i64::from_le_bytes(*id)).collect()))
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(ERROR_TEXT_MAX)]).into_owned()
}

/// The beginning of a text, cut between characters.
fn shortened(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn put_varint(out: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn take_varint(bytes: &mut Bytes, field: &'static str) -> Result<i64, Bad> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let Some(&byte) = bytes.first() else { return Err(Bad::Short(field)) };
        let _taken = bytes.split_to(1);
        if shift == 63 && byte > 1 {
            return Err(Bad::Long(field));
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(Bad::Long(field))
}
