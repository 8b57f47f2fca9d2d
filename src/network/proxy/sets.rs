//! The sets and maps.

use crate::nft::{Data, Family, Set};

/// Clients remembered for each endpoint of a Service with affinity.
const CLIENTS_MAX: u32 = 65_535;

// Numbers of data types for those who print the sets.
const MARK: u32 = 19;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;

fn address_type(family: Family) -> u32 {
    match family {
        Family::V4 => 7,
        Family::V6 => 8,
    }
}

fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}

/// The sets and maps that always exist, by name.
pub(crate) fn all(family: Family) -> Vec<(&'static str, Set)> {
    let (address, bytes) = (address_type(family), family.address_bytes());
    let set = |types: &[u32], key_bytes, data| Set {
        key_type: concatenated(types),
        key_bytes,
        data,
        dynamic: None,
    };
    let front = |data| set(&[address, PROTOCOL, PORT], bytes + 8, data);
    let backend = Data::Bytes { datatype: concatenated(&[address, PORT]), length: bytes + 4 };
    let slot = set(&[address, PROTOCOL, PORT, MARK], bytes + 12, backend);
    vec![
        ("node-ips", set(&[address], bytes, Data::Nothing)),
        ("cluster-ips", set(&[address], bytes, Data::Nothing)),
        ("services", fronts(family)),
        ("refused", fronts(family)),
        ("dropped", fronts(family)),
        ("affine", front(Data::Verdict)),
        ("endpoints", slot),
        ("host-ports", front(backend)),
        ("firewall", front(Data::Verdict)),
        ("hairpin", set(&[address, address], bytes * 2, Data::Nothing)),
    ]
}

/// A set of fronts.
pub(crate) fn fronts(family: Family) -> Set {
    Set {
        key_type: concatenated(&[address_type(family), PROTOCOL, PORT]),
        key_bytes: family.address_bytes() + 8,
        data: Data::Nothing,
        dynamic: None,
    }
}

/// The clients of one endpoint of a Service with affinity.
pub(crate) fn clients(seconds: u32, family: Family) -> Set {
    Set {
        key_type: address_type(family),
        key_bytes: family.address_bytes(),
        data: Data::Nothing,
        dynamic: Some((seconds, CLIENTS_MAX)),
    }
}
