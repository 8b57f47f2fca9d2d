//! Messages that take effect together or not at all.

use std::io;

use super::Family;
use super::attributes::Attributes;
use super::expression::{Expression, Verdict};
use super::socket::Socket;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
/// Elements go in messages of about this size: a list of elements is an attribute, whose length has 16 bits.
const ELEMENTS_BYTES: usize = 32 * 1024;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
/// Rules add elements.
const SET_EVAL: u32 = 0x20;
const DATA_VERDICT: u32 = 0xffff_ff00;

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// What the values of a map are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// A set has keys only.
    Nothing,
    Bytes {
        datatype: u32,
        length: u32,
    },
    Verdict,
}

/// A set or map. The numbers of data types only matter to those who print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) key_type: u32,
    pub(crate) key_bytes: u32,
    pub(crate) data: Data,
    /// For sets that rules fill: seconds until an element is forgotten, and how many there can be.
    pub(crate) dynamic: Option<(u32, u32)>,
}

/// The value of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Element {
    Key(Vec<u8>),
    Value(Vec<u8>, Vec<u8>),
    Verdict(Vec<u8>, Verdict),
}

/// A batch for the kernel.
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    /// The sequence number whose answer ends the exchange.
    pub(crate) last: u32,
}

/// A transaction being put together.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    family: Family,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self::of(Family::V4)
    }

    pub(crate) fn of(family: Family) -> Self {
        let mut batch = Self { bytes: Vec::new(), sequence: 0, family, last: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| {});
        batch
    }

    /// The sequence number of the next message.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Makes the table empty: it is made if missing, removed with all it has, and made again.
    pub(crate) fn replace_table(&mut self, table: &str) {
        self.delete_table(table);
        self.nftables(NEW_TABLE, NLM_F_CREATE, |body| body.text(1, table));
    }

    pub(crate) fn delete_table(&mut self, table: &str) {
        self.nftables(NEW_TABLE, NLM_F_CREATE, |body| body.text(1, table));
        self.nftables(DELETE_TABLE, 0, |body| body.text(1, table));
    }

    /// A chain that sees packets by itself.
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

    /// A chain that others lead to.
    pub(crate) fn inner_chain(&mut self, table: &str, chain: &str) {
        self.nftables(NEW_CHAIN, NLM_F_CREATE, |body| {
            body.text(1, table);
            body.text(3, chain);
        });
    }

    pub(crate) fn delete_chain(&mut self, table: &str, chain: &str) {
        self.nftables(DELETE_CHAIN, 0, |body| {
            body.text(1, table);
            body.text(3, chain);
        });
    }

    /// Removes all rules of a chain.
    pub(crate) fn flush_chain(&mut self, table: &str, chain: &str) {
        self.nftables(DELETE_RULE, 0, |body| {
            body.text(1, table);
            body.text(2, chain);
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

    pub(crate) fn set(&mut self, table: &str, name: &str, set: &Set) {
        let mut flags = if set.data == Data::Nothing { 0 } else { SET_MAP };
        if set.dynamic.is_some() {
            flags |= SET_TIMEOUT | SET_EVAL;
        }
        // The kernel wants a number for every set of a batch.
        let id = self.sequence;
        self.nftables(NEW_SET, NLM_F_CREATE, |body| {
            body.text(1, table);
            body.text(2, name);
            body.number(3, flags);
            body.number(4, set.key_type);
            body.number(5, set.key_bytes);
            match set.data {
                Data::Nothing => {}
                Data::Bytes { datatype, length } => {
                    body.number(6, datatype);
                    body.number(7, length);
                }
                Data::Verdict => {
                    body.number(6, DATA_VERDICT);
                    body.number(7, 0);
                }
            }
            if let Some((seconds, size)) = set.dynamic {
                body.nested(9, |description| description.number(1, size));
                body.bytes(11, &(u64::from(seconds) * 1000).to_be_bytes());
            }
            body.number(10, id);
        });
    }

    pub(crate) fn delete_set(&mut self, table: &str, name: &str) {
        self.nftables(DELETE_SET, 0, |body| {
            body.text(1, table);
            body.text(2, name);
        });
    }

    pub(crate) fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, NLM_F_CREATE, (table, set), elements);
    }

    /// Only the keys of `elements` matter.
    pub(crate) fn delete_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, (table, set), elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: (&str, &str), elements: &[Element]) {
        let mut elements = elements.iter().peekable();
        while elements.peek().is_some() {
            self.nftables(kind, flags, |body| {
                body.text(1, set.0);
                body.text(2, set.1);
                body.nested(3, |list| {
                    let start = list.bytes.len();
                    while list.bytes.len() - start < ELEMENTS_BYTES {
                        let Some(element) = elements.next() else { break };
                        list.nested(1, |item| element.encode(item, kind == NEW_ELEMENT));
                    }
                });
            });
        }
    }

    fn nftables(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.message((SUBSYSTEM << 8) | kind, flags, self.family.number(), 0, fill);
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
        self.last = start;
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

    /// Only the last message asks for an answer: many would overflow the socket.
    pub(crate) fn finish(mut self) -> Encoded {
        let (last, at) = (self.sequence - 1, self.last + 6);
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        self.message(BATCH_END, 0, 0, SUBSYSTEM, |_| {});
        Encoded { bytes: self.bytes, last }
    }

    /// Sends the batch into the calling thread's network namespace and waits for the kernel's verdict.
    pub(crate) fn commit(self) -> io::Result<()> {
        Socket::open()?.commit(&self.finish()).map_err(|refused| refused.source)
    }
}

impl Element {
    fn encode(&self, item: &mut Attributes<'_>, with_value: bool) {
        let (Self::Key(key) | Self::Value(key, _) | Self::Verdict(key, _)) = self;
        item.nested(1, |data| data.bytes(1, key));
        match self {
            Self::Value(_, value) if with_value => item.nested(2, |data| data.bytes(1, value)),
            Self::Verdict(_, verdict) if with_value => item.nested(2, |data| verdict.encode(data)),
            _ => {}
        }
    }
}
