//! Pods reach the world outside the cluster under the node's address. The ruleset is computed as a value and replaced in
//! one transaction.

use std::io;

use crate::addresses::Cidr;
use crate::nft::{Batch, Expression, Hook};

pub(crate) const TABLE: &str = "copepod-pods";
const CHAIN: &str = "postrouting";
const NF_INET_POST_ROUTING: u32 = 4;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// Places of the addresses in an IPv4 header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// Multicast has no return path to translate.
const MULTICAST: ([u8; 4], [u8; 4]) = ([224, 0, 0, 0], [240, 0, 0, 0]);

/// The one rule: from a pod of this node, to neither the cluster nor a multicast group.
pub(crate) fn rule(pods: Cidr, cluster: Cidr) -> Vec<Expression> {
    let in_range = |offset, range: Cidr, equal| Expression::Address {
        offset,
        mask: range.mask().octets(),
        value: range.network().octets(),
        equal,
    };
    let (value, mask) = MULTICAST;
    vec![
        in_range(SOURCE, pods, true),
        in_range(DESTINATION, cluster, false),
        Expression::Address { offset: DESTINATION, mask, value, equal: false },
        Expression::Masquerade,
    ]
}

/// Puts the rule into the kernel in place of what the table had.
pub(crate) fn install(pods: Cidr, cluster: Cidr) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.chain(
        TABLE,
        CHAIN,
        &Hook { kind: "nat", number: NF_INET_POST_ROUTING, priority: PRIORITY_SOURCE_NAT },
    );
    batch.rule(TABLE, CHAIN, &rule(pods, cluster));
    batch.commit()
}

/// Removes the table.
pub(crate) fn remove() -> io::Result<()> {
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    batch.commit()
}

/// Whether the error says that the kernel has no nftables, or no address translation in it.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(
        code,
        Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::ENOENT)
    )
}
