//! IPv4 ranges and the addresses in them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::error::Error;

/// Smallest and largest range a node can hand out.
const PREFIX_MIN: u8 = 8;
const PREFIX_MAX: u8 = 30;

/// An IPv4 range, for example `10.42.0.0/24`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX << (32 - self.prefix))
    }

    /// The first address, which the bridge has.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & u32::from(self.mask()) == u32::from(self.network)
    }

    /// First and last address a pod can have.
    pub(crate) fn pod_range(self) -> (u32, u32) {
        let last = u32::from(self.network) | !u32::from(self.mask());
        (u32::from(self.gateway()) + 1, last - 1)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = |reason| Error::Cidr { text: text.to_owned(), reason };
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| fail("it has no prefix length"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| fail("it is not an IPv4 range"))?;
        let prefix: u8 = prefix.parse().map_err(|_| fail("its prefix length is not a number"))?;
        if !(PREFIX_MIN..=PREFIX_MAX).contains(&prefix) {
            return Err(fail("its prefix length is not between 8 and 30"));
        }
        let network = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - prefix)));
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hardware address of an interface with this address: locally administered, and as unique as the address is.
pub(crate) fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}
