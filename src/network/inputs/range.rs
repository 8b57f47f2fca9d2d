//! Ranges of addresses of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range such as `192.0.2.0/24` or `2001:db8::/32`; a lone address is a range of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: IpAddr,
    prefix: u8,
}

impl Range {
    /// The range of so many fixed bits around an address.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let prefix = prefix.min(32);
                let first = Ipv4Addr::from(u32::from(address) & mask4(prefix)).into();
                Self { first, prefix }
            }
            IpAddr::V6(address) => {
                let prefix = prefix.min(128);
                let first = Ipv6Addr::from(u128::from(address) & mask6(prefix)).into();
                Self { first, prefix }
            }
        }
    }

    /// The range of one address.
    pub fn one(address: IpAddr) -> Self {
        Self::new(address, u8::MAX)
    }

    /// The range's lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bytes of the network mask, as many as an address has.
    pub(crate) fn mask(self) -> Vec<u8> {
        match self.first {
            IpAddr::V4(_) => mask4(self.prefix).to_be_bytes().to_vec(),
            IpAddr::V6(_) => mask6(self.prefix).to_be_bytes().to_vec(),
        }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                u32::from(address) & mask4(self.prefix) == u32::from(first)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                u128::from(address) & mask6(self.prefix) == u128::from(first)
            }
            _ => false,
        }
    }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// Why a text is no range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a range of addresses such as 10.42.0.0/16")]
pub struct NotARange {
    text: String,
}

impl FromStr for Range {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        parse(text).ok_or_else(|| NotARange { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Range> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    (prefix <= bits).then(|| Range::new(address, prefix))
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
