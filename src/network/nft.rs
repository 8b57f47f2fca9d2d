//! A transaction for nftables as bytes: messages and attributes of the nfnetlink protocol, and their exchange with the kernel.
//! Only the few expressions that are used exist here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::{ReceiveTimeout, SndBuf};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers at once or never.
const ANSWER_SECONDS: i64 = 10;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NFPROTO_IPV4: u8 = 2;
const HEADER_BYTES: usize = 16;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: source ports cannot be guessed, and parallel connections do not collide.
const RANDOM_FULLY: u32 = 16;

/// Where a base chain hooks in.
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// A step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Goes on if the address at `offset` of the IPv4 header, masked, equals (or not) `value`.
    Address {
        offset: u32,
        mask: [u8; 4],
        value: [u8; 4],
        equal: bool,
    },
    Masquerade,
}

/// Messages that take effect together or not at all.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), sequence: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| {});
        batch
    }

    /// Makes the table empty: it is made if missing, removed with all it has, and made again.
    pub(crate) fn replace_table(&mut self, table: &str) {
        for (kind, flags) in
            [(NEW_TABLE, NLM_F_CREATE), (DELETE_TABLE, 0), (NEW_TABLE, NLM_F_CREATE)]
        {
            self.nftables(kind, flags, |body| body.text(1, table));
        }
    }

    pub(crate) fn delete_table(&mut self, table: &str) {
        self.nftables(NEW_TABLE, NLM_F_CREATE, |body| body.text(1, table));
        self.nftables(DELETE_TABLE, 0, |body| body.text(1, table));
    }

    pub(crate) fn chain(&mut self, table: &str, chain: &str, hook: &Hook) {
        self.nftables(NEW_CHAIN, NLM_F_CREATE, |body| {
            body.text(1, table);
            body.text(3, chain);
            body.nested(4, |nested| {
                nested.number(1, hook.number);
                nested.number(2, hook.priority.cast_unsigned());
            });
            body.text(7, hook.kind);
        });
    }

    pub(crate) fn rule(&mut self, table: &str, chain: &str, expressions: &[Expression]) {
        self.nftables(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |body| {
            body.text(1, table);
            body.text(2, chain);
            body.nested(4, |list| {
                expressions.iter().for_each(|expression| expression.encode(list))
            });
        });
    }

    fn nftables(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.message((SUBSYSTEM << 8) | kind, flags, NFPROTO_IPV4, 0, fill);
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.sequence += 1;
    }

    /// The bytes for the kernel, and the sequence number whose answer ends the exchange. Only the last message asks for
    /// one: many would overflow the socket.
    pub(crate) fn finish(mut self) -> (Vec<u8>, u32) {
        let last = self.sequence - 1;
        let mut at = 0;
        while let Some(header) = self.bytes.get(at..at + HEADER_BYTES) {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            if sequence == last {
                let flags = u16::from_ne_bytes([header[6], header[7]]) | NLM_F_ACK;
                self.bytes[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
            }
            at += length.max(HEADER_BYTES);
        }
        self.message(BATCH_END, 0, 0, SUBSYSTEM, |_| {});
        (self.bytes, last)
    }

    /// Sends the batch into the calling thread's network namespace and waits for the kernel's verdict.
    pub(crate) fn commit(self) -> io::Result<()> {
        let (bytes, last) = self.finish();
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        setsockopt(&socket, SndBuf, &bytes.len().max(ANSWER_BYTES_MAX))?;
        sendto(socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        await_verdict(&socket, last)
    }
}

/// Reads answers until the one for `last`, or the first refusal.
fn await_verdict(socket: &OwnedFd, last: u32) -> io::Result<()> {
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((sequence, code, length)) = answer(rest) {
            match code {
                Some(0) if sequence == last => return Ok(()),
                Some(code) if code != 0 => {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Sequence number, error code (of error messages) and padded length of the first message.
fn answer(bytes: &[u8]) -> Option<(u32, Option<i32>, usize)> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok());
    let length = u32::from_ne_bytes(word(0)?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(word(8)?);
    let code = if kind == NLMSG_ERROR { word(HEADER_BYTES).map(i32::from_ne_bytes) } else { None };
    (length >= HEADER_BYTES).then(|| (sequence, code, length.next_multiple_of(4)))
}

impl Expression {
    fn encode(&self, list: &mut Attributes<'_>) {
        match self {
            Self::Address { offset, mask, value, equal } => {
                list.expression("payload", |data| {
                    data.number(1, REGISTER);
                    data.number(2, NETWORK_HEADER);
                    data.number(3, *offset);
                    data.number(4, 4);
                });
                list.expression("bitwise", |data| {
                    data.number(1, REGISTER);
                    data.number(2, REGISTER);
                    data.number(3, 4);
                    data.nested(4, |nested| nested.bytes(1, mask));
                    data.nested(5, |nested| nested.bytes(1, &[0; 4]));
                });
                list.expression("cmp", |data| {
                    data.number(1, REGISTER);
                    data.number(2, u32::from(!equal));
                    data.nested(3, |nested| nested.bytes(1, value));
                });
            }
            Self::Masquerade => list.expression("masq", |data| data.number(1, RANDOM_FULLY)),
        }
    }
}

/// Appends attributes to a message.
struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self.bytes);
        // Rules are far shorter than an attribute can be.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |bytes| bytes.extend_from_slice(value));
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |bytes| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        });
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NLA_F_NESTED, |bytes| fill(&mut Attributes { bytes }));
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.nested(1, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }
}
