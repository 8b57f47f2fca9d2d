//! Address families, ranges and hardware addresses, as the overlay compares and writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which addresses an overlay carries. A dual-stack node has one per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Length of an address in bits.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A range of addresses of either family, without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// None when the length does not fit the address.
    pub(crate) fn new(address: IpAddr, length: u8) -> Option<Self> {
        let spare = u32::from(Family::of(address).bits().checked_sub(length)?);
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(spare).unwrap_or(0);
                IpAddr::from(Ipv4Addr::from(u32::from(address) & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(spare).unwrap_or(0);
                IpAddr::from(Ipv6Addr::from(u128::from(address) & mask))
            }
        };
        Some(Self { address, length })
    }

    /// The first address of the range.
    pub(crate) fn network(self) -> IpAddr {
        self.address
    }

    pub(crate) fn length(self) -> u8 {
        self.length
    }

    pub(crate) fn family(self) -> Family {
        Family::of(self.address)
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.length) == Some(self)
    }

    /// Whether all addresses of `other` are in this range.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            Self::new(address.parse().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| format!("expected a range such as 10.42.0.0/24, not {text:?}"))
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hardware address of an Ethernet-like link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// The address of a node's tunnel end: derived from the node's name, so that it survives restarts, reboots and lost
    /// disks, locally administered, and different for different names.
    pub(crate) fn of_node(name: &str) -> Self {
        const LOCAL: u8 = 0x02;
        const GROUP: u8 = 0x01;
        let [_, _, first, rest @ ..] = fnv(name.as_bytes()).to_be_bytes();
        let [b, c, d, e, f] = rest;
        Self([(first | LOCAL) & !GROUP, b, c, d, e, f])
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// Whether a peer may have it: not a group's and not zero.
    pub(crate) fn is_usable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// FNV-1a, with a last step that spreads the low bits: a short stable hash, not a secret.
fn fnv(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    hash ^ (hash >> 32)
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let filled = bytes.iter_mut().all(|byte| {
            let digits =
                |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(digits);
            part.and_then(|part| u8::from_str_radix(part, 16).ok()).map(|b| *byte = b).is_some()
        });
        if filled && parts.next().is_none() {
            return Ok(Self(bytes));
        }
        Err(format!("expected a hardware address of six bytes, not {text:?}"))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
