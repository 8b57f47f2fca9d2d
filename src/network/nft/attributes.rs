//! Netlink attributes: writing and reading.

const NLA_F_NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are flags.
const NLA_FLAGS: u16 = 0xc000;
const HEADER_BYTES: usize = 4;

/// Appends attributes to a message.
pub(super) struct Attributes<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self.bytes);
        // Rules are far shorter than an attribute can be, and lists of elements are split.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |bytes| bytes.extend_from_slice(value));
    }

    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |bytes| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        });
    }

    pub(super) fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NLA_F_NESTED, |bytes| fill(&mut Attributes { bytes }));
    }

    pub(super) fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.nested(1, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }
}

/// An attribute of a message from the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    /// Attributes again, where the kind is nested.
    pub(crate) value: &'a [u8],
}

/// The attributes in `bytes`; stops at the first that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !NLA_FLAGS;
        let value = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}
