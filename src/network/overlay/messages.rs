//! What the kernel's messages say about tunnels, routes and neighbours, and what is said to it.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{LinkMessageBuilder, LinkVxlan};

use super::addressing::{Family, Mac, Prefix};
use super::plan::{Route, Through, Tunnel};

/// Marks routes as this program's, for the next process to find them. A number nobody else uses.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(142);

/// The ends of a tunnel: all of it that can be changed later.
pub(super) fn described(
    message: LinkMessageBuilder<LinkVxlan>,
    tunnel: &Tunnel,
) -> LinkMessageBuilder<LinkVxlan> {
    let mut message = message.learning(tunnel.learning);
    if let Some(device) = tunnel.device {
        message = message.dev(device);
    }
    match tunnel.local {
        Some(IpAddr::V4(address)) => message.local(address),
        Some(IpAddr::V6(address)) => message.local6(address),
        None => message,
    }
}

/// None when the link is no VXLAN tunnel.
pub(super) fn tunnel_of(message: &LinkMessage) -> Option<Tunnel> {
    let mut tunnel = Tunnel {
        vni: 0,
        port: 0,
        local: None,
        device: None,
        learning: false,
        mtu: 0,
        mac: Mac([0; 6]),
        up: message.header.flags.contains(LinkFlags::Up),
        addresses: Default::default(),
    };
    let mut is_vxlan = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => tunnel.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                tunnel.mac = Mac::from_slice(bytes).unwrap_or(tunnel.mac);
            }
            LinkAttribute::LinkInfo(infos) => {
                is_vxlan |= infos.contains(&LinkInfo::Kind(InfoKind::Vxlan));
                for info in infos {
                    if let LinkInfo::Data(InfoData::Vxlan(data)) = info {
                        data.iter().for_each(|item| vxlan_item(&mut tunnel, item));
                    }
                }
            }
            _ => {}
        }
    }
    is_vxlan.then_some(tunnel)
}

fn vxlan_item(tunnel: &mut Tunnel, item: &InfoVxlan) {
    match item {
        InfoVxlan::Id(vni) => tunnel.vni = *vni,
        InfoVxlan::Port(port) => tunnel.port = *port,
        InfoVxlan::Link(index) => tunnel.device = Some(*index),
        InfoVxlan::Local(address) => tunnel.local = Some(IpAddr::V4(*address)),
        InfoVxlan::Local6(address) => tunnel.local = Some(IpAddr::V6(*address)),
        InfoVxlan::Learning(learning) => tunnel.learning = *learning,
        _ => {}
    }
}

/// The route, if it is this program's: by its mark, or because it leads through the tunnel.
pub(super) fn route_of(
    message: &RouteMessage,
    family: Family,
    tunnel: Option<u32>,
) -> Option<(Prefix, Route)> {
    let header = &message.header;
    let (mut destination, mut gateway, mut device) = (None, None, None);
    let mut table = u32::from(header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let device = device?;
    let through_tunnel = tunnel == Some(device);
    let ours =
        header.protocol == PROTOCOL || (through_tunnel && header.protocol != RouteProtocol::Kernel);
    let plain = header.address_family == address_family(family)
        && table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.kind == RouteType::Unicast;
    if !ours || !plain {
        return None;
    }
    let prefix = Prefix::new(destination?, header.destination_prefix_length)?;
    let through = if through_tunnel { Through::Tunnel } else { Through::Device(device) };
    Some((prefix, Route { gateway, through, onlink: header.flags.contains(RouteFlags::Onlink) }))
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// Address and hardware address of a neighbour or a forwarding entry.
pub(super) fn entry_of(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip))
            }
            // In a forwarding entry only the length says which family it is.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let v4 = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from);
                address = v4.or_else(|| Some(<[u8; 16]>::try_from(bytes.as_slice()).ok()?.into()));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::from_slice(bytes),
            _ => {}
        }
    }
    Some((address?, mac?))
}

/// The address of this side.
pub(super) fn local(message: &AddressMessage) -> Option<IpAddr> {
    let by = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let own = by(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    own.or_else(|| {
        by(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
