//! Connection tracking: forgets where datagrams of a flow went when that answers no more. A flow of UDP has no end, so
//! its sender would be led to the old place for as long as it goes on.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::values::{Backend, Datagrams, Front, Protocol};
use crate::nft::{Attribute, Family, Socket, attributes};

/// The subsystem of connection tracking, and its messages.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_TRANSPORT: u16 = 2;
const ID: u16 = 12;
/// Flows forgotten for one change; what is left ends by its own timeout.
const STALE_MAX: usize = 65_536;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: Backend,
    pub(crate) destination: Backend,
    pub(crate) protocol: u8,
}

/// A flow as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
    /// What names it to the kernel: the attributes of the original tuple and of its number.
    name: Vec<u8>,
}

/// Whether a flow goes to one of the fronts, but not to an endpoint that answers there.
pub(crate) fn is_stale(flow: &Flow, fronts: &Datagrams, node_ips: &BTreeSet<IpAddr>) -> bool {
    if flow.original.protocol != Protocol::Udp as u8 {
        return false;
    }
    let (address, port) = flow.original.destination;
    let front = |address| Front { address, protocol: Protocol::Udp, port };
    let backends = fronts
        .get(&front(Some(address)))
        .or_else(|| node_ips.contains(&address).then(|| fronts.get(&front(None))).flatten());
    backends.is_some_and(|backends| !backends.contains(&flow.reply.source))
}

/// Forgets the stale flows of the fronts; returns how many there were.
pub(crate) fn clean(
    socket: &Socket,
    family: Family,
    fronts: &Datagrams,
    node_ips: &BTreeSet<IpAddr>,
) -> io::Result<usize> {
    let mut stale = Vec::new();
    socket.dump(GET, family, |bytes| {
        let found = flow(bytes).filter(|flow| is_stale(flow, fronts, node_ips));
        if stale.len() < STALE_MAX {
            stale.extend(found);
        }
    })?;
    for flow in &stale {
        match socket.ask(DELETE, family, &flow.name) {
            // It has ended by itself.
            Err(refused) if refused.source.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|refused| refused.source)?,
        }
    }
    Ok(stale.len())
}

fn flow(bytes: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut name) = (None, None, Vec::new());
    for attribute in attributes(bytes) {
        match attribute.kind {
            ORIGINAL => {
                original = tuple(attribute.value);
                push(&mut name, attribute);
            }
            REPLY => reply = tuple(attribute.value),
            ID => push(&mut name, attribute),
            _ => {}
        }
    }
    Some(Flow { original: original?, reply: reply?, name })
}

/// Writes an attribute as it was read. Old kernels ask for the flag of nested attributes, so tuples carry it.
fn push(bytes: &mut Vec<u8>, attribute: Attribute<'_>) {
    const NESTED: u16 = 0x8000;
    let kind = if attribute.kind == ORIGINAL { attribute.kind | NESTED } else { attribute.kind };
    let length = u16::try_from(attribute.value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(attribute.value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut ports) = (None, (0, 0));
    for part in attributes(bytes) {
        for attribute in attributes(part.value) {
            match (part.kind, attribute.kind) {
                (TUPLE_ADDRESSES, 1 | 3) => source = address(attribute.value),
                (TUPLE_ADDRESSES, 2 | 4) => destination = address(attribute.value),
                (TUPLE_TRANSPORT, 1) => protocol = attribute.value.first().copied(),
                (TUPLE_TRANSPORT, 2) => ports.0 = port(attribute.value)?,
                (TUPLE_TRANSPORT, 3) => ports.1 = port(attribute.value)?,
                _ => {}
            }
        }
    }
    Some(Tuple {
        source: (source?, ports.0),
        destination: (destination?, ports.1),
        protocol: protocol?,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}
