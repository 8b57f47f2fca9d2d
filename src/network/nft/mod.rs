//! Transactions for nftables: messages and attributes of the nfnetlink protocol, and their exchange with the kernel.
//!
//! Only what the node's rules use exists here. Knows nothing of pods or Services. Start reading at [`batch`] (what a
//! transaction can do), then `expression` (the steps of a rule) and `socket` (the exchange).

mod attributes;
mod batch;
mod expression;
mod socket;

pub(crate) use attributes::{Attribute, attributes};
#[cfg(test)]
pub(crate) use batch::Encoded;
pub(crate) use batch::{Batch, Data, Element, Hook, Set};
pub(crate) use expression::{
    AddressType, Base, Connection, Expression, Found, Refusal, Register, Rule, Verdict,
};
pub(crate) use socket::Socket;

/// Which packets a table sees, and how long addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    pub(crate) fn address_bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    pub(crate) fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}
