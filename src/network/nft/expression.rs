//! The steps of a rule. Values go through numbered registers of four bytes; a step that does not hold ends the rule.

use super::Family;
use super::attributes::Attributes;

/// `NFT_REG32_00`: registers of four bytes follow each other from here.
const REGISTER_FIRST: u32 = 8;
const REGISTER_VERDICT: u32 = 0;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: source ports cannot be guessed, and parallel connections do not collide.
const RANDOM_FULLY: u32 = 16;
const NAT_DESTINATION: u32 = 1;
const NUMGEN_RANDOM: u32 = 1;
const META_MARK: u32 = 3;
const META_L4PROTO: u32 = 16;
const FIB_ADDRESS_TYPE: u32 = 3;
const DYNSET_UPDATE: u32 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const ICMP6_PORT_UNREACHABLE: u8 = 4;

/// A register of four bytes; longer values take those that follow too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    fn number(self) -> u32 {
        REGISTER_FIRST + self.0
    }
}

/// Steps in order.
pub(crate) type Rule = Vec<Expression>;

/// Where an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// What is asked of connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    State = 0,
    Status = 2,
}

/// Whose type of address is asked of the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressType {
    Source = 1,
    Destination = 2,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    PortUnreachable,
    TcpReset,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verdict {
    Drop,
    /// Back to where the chain was left for this one.
    Return,
    Jump(String),
    Goto(String),
}

/// Where the value found in a map goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nowhere: being there is enough.
    Nothing,
    Register(Register),
    Verdict,
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
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Register,
    },
    /// The number of the transport protocol.
    Protocol {
        to: Register,
    },
    Mark {
        to: Register,
    },
    SetMark {
        from: Register,
    },
    /// `register = register & mask ^ xor`
    Bitwise {
        register: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Compare {
        register: Register,
        equal: bool,
        value: Vec<u8>,
    },
    Load {
        to: Register,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    Lookup {
        set: String,
        key: Register,
        found: Found,
    },
    /// A random number from `offset` to `offset + modulus - 1`.
    Random {
        modulus: u32,
        offset: u32,
        to: Register,
    },
    DestinationNat {
        family: Family,
        address: Register,
        port: Register,
    },
    AddressType {
        of: AddressType,
        to: Register,
    },
    Connection {
        what: Connection,
        to: Register,
    },
    /// Adds the key to the set, or starts its time again.
    Update {
        set: String,
        key: Register,
    },
    Refuse {
        family: Family,
        how: Refusal,
    },
}

impl Expression {
    pub(super) fn encode(&self, list: &mut Attributes<'_>) {
        match self {
            Self::Address { offset, mask, value, equal } => {
                let register = Register(0);
                Self::Payload { base: Base::Network, offset: *offset, length: 4, to: register }
                    .encode(list);
                Self::Bitwise { register, mask: mask.to_vec(), xor: vec![0; 4] }.encode(list);
                Self::Compare { register, equal: *equal, value: value.to_vec() }.encode(list);
            }
            Self::Masquerade => list.expression("masq", |data| data.number(1, RANDOM_FULLY)),
            Self::DestinationNat { family, address, port } => list.expression("nat", |data| {
                data.number(1, NAT_DESTINATION);
                data.number(2, u32::from(family.number()));
                data.number(3, address.number());
                data.number(5, port.number());
            }),
            Self::Verdict(verdict) => list.expression("immediate", |data| {
                data.number(1, REGISTER_VERDICT);
                data.nested(2, |nested| verdict.encode(nested));
            }),
            Self::Update { set, key } => list.expression("dynset", |data| {
                data.text(1, set);
                data.number(3, DYNSET_UPDATE);
                data.number(4, key.number());
            }),
            Self::Refuse { family, how } => encode_refusal(list, *family, *how),
            Self::Lookup { set, key, found } => encode_lookup(list, set, *key, *found),
            Self::Bitwise { .. } | Self::Compare { .. } | Self::SetMark { .. } => self.change(list),
            _ => self.load(list),
        }
    }

    /// Steps that compare or change what registers hold.
    fn change(&self, list: &mut Attributes<'_>) {
        match self {
            Self::Bitwise { register, mask, xor } => list.expression("bitwise", |data| {
                data.number(1, register.number());
                data.number(2, register.number());
                data.number(3, u32::try_from(mask.len()).unwrap_or(0));
                data.nested(4, |nested| nested.bytes(1, mask));
                data.nested(5, |nested| nested.bytes(1, xor));
            }),
            Self::Compare { register, equal, value } => list.expression("cmp", |data| {
                data.number(1, register.number());
                data.number(2, u32::from(!equal));
                data.nested(3, |nested| nested.bytes(1, value));
            }),
            Self::SetMark { from } => list.expression("meta", |data| {
                data.number(2, META_MARK);
                data.number(3, from.number());
            }),
            _ => {}
        }
    }

    /// Steps that fill a register.
    fn load(&self, list: &mut Attributes<'_>) {
        match self {
            Self::Payload { base, offset, length, to } => list.expression("payload", |data| {
                data.number(1, to.number());
                data.number(2, *base as u32);
                data.number(3, *offset);
                data.number(4, *length);
            }),
            Self::Protocol { to } => encode_meta(list, META_L4PROTO, *to),
            Self::Mark { to } => encode_meta(list, META_MARK, *to),
            Self::Load { to, value } => list.expression("immediate", |data| {
                data.number(1, to.number());
                data.nested(2, |nested| nested.bytes(1, value));
            }),
            Self::Random { modulus, offset, to } => list.expression("numgen", |data| {
                data.number(1, to.number());
                data.number(2, *modulus);
                data.number(3, NUMGEN_RANDOM);
                data.number(4, *offset);
            }),
            Self::AddressType { of, to } => list.expression("fib", |data| {
                data.number(1, to.number());
                data.number(2, FIB_ADDRESS_TYPE);
                data.number(3, *of as u32);
            }),
            Self::Connection { what, to } => list.expression("ct", |data| {
                data.number(1, to.number());
                data.number(2, *what as u32);
            }),
            _ => {}
        }
    }
}

fn encode_meta(list: &mut Attributes<'_>, key: u32, to: Register) {
    list.expression("meta", |data| {
        data.number(1, to.number());
        data.number(2, key);
    });
}

fn encode_lookup(list: &mut Attributes<'_>, set: &str, key: Register, found: Found) {
    list.expression("lookup", |data| {
        data.text(1, set);
        data.number(2, key.number());
        match found {
            Found::Nothing => {}
            Found::Register(register) => data.number(3, register.number()),
            Found::Verdict => data.number(3, REGISTER_VERDICT),
        }
    });
}

fn encode_refusal(list: &mut Attributes<'_>, family: Family, how: Refusal) {
    let code = match family {
        Family::V4 => ICMP_PORT_UNREACHABLE,
        Family::V6 => ICMP6_PORT_UNREACHABLE,
    };
    list.expression("reject", |data| match how {
        Refusal::PortUnreachable => {
            data.number(1, 0);
            data.bytes(2, &[code]);
        }
        Refusal::TcpReset => {
            data.number(1, 1);
            data.bytes(2, &[0]);
        }
    });
}

impl Verdict {
    pub(super) fn encode(&self, data: &mut Attributes<'_>) {
        let (code, chain) = match self {
            Self::Drop => (0_i32, None),
            Self::Return => (-5, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
        };
        data.nested(2, |verdict| {
            verdict.number(1, code.cast_unsigned());
            if let Some(chain) = chain {
                verdict.text(2, chain);
            }
        });
    }
}
