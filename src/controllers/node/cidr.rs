//! Cuts the cluster's pod range into parts, one per node.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::plan::Ranges;
use crate::Cidr;

/// Parts that are tried before a range counts as full.
const PARTS_MAX: u64 = 1 << 16;

/// The range for a node: the one it had before, else one that nobody has had, else any that is free.
pub(super) fn choose(ranges: &Ranges) -> Option<String> {
    let Ranges { cluster_cidr, node_mask, used, former, left } = ranges;
    let is_ours = |range: &String| {
        range
            .parse::<Cidr>()
            .is_ok_and(|part| part.prefix == *node_mask && cluster_cidr.has(part.address))
    };
    let former = former.clone().filter(|range| is_ours(range) && !used.contains(range));
    let untouched = || {
        let taken: Vec<String> = used.iter().chain(left).cloned().collect();
        first_free(*cluster_cidr, *node_mask, &taken)
    };
    former.or_else(untouched).or_else(|| first_free(*cluster_cidr, *node_mask, used))
}

/// The first part of `range` that is not in `used`.
fn first_free(range: Cidr, mask: u8, used: &[String]) -> Option<String> {
    let used: BTreeSet<&str> = used.iter().map(String::as_str).collect();
    let bits = u32::from(mask.checked_sub(range.prefix)?);
    let count = 1u64.checked_shl(bits).unwrap_or(PARTS_MAX).min(PARTS_MAX);
    (0..count)
        .filter_map(|index| part(range, mask, index))
        .find(|part| !used.contains(part.as_str()))
}

fn part(range: Cidr, mask: u8, index: u64) -> Option<String> {
    let address = match range.address {
        IpAddr::V4(base) => {
            let base =
                u32::from(base) & u32::MAX.checked_shl(32 - u32::from(range.prefix)).unwrap_or(0);
            let offset = u32::try_from(index)
                .ok()?
                .checked_shl(32u32.checked_sub(mask.into())?)
                .unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(base.checked_add(offset)?))
        }
        IpAddr::V6(base) => {
            let base = u128::from(base)
                & u128::MAX.checked_shl(128 - u32::from(range.prefix)).unwrap_or(0);
            let offset =
                u128::from(index).checked_shl(128u32.checked_sub(mask.into())?).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(base.checked_add(offset)?))
        }
    };
    Some(format!("{address}/{mask}"))
}
