//! Which of the machine's links and addresses the other nodes know this node by.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};

use super::addressing::{Family, Prefix};
use super::messages::{address_family, local};
use crate::dns;
use crate::error::Error;
use crate::links::fail;

/// The link, and the address on it, that lead to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub interface: String,
    pub index: u32,
    pub address: IpAddr,
    /// Length of the address' network.
    pub prefix: u8,
    pub mtu: u32,
}

/// What the configuration says about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) address: Option<IpAddr>,
    pub(crate) interface: Option<&'a str>,
    /// Addresses of pods, which no node has.
    pub(crate) cluster: Prefix,
}

#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    /// Reachable from elsewhere, and meant for new connections.
    pub(crate) usable: bool,
}

/// A route to everywhere.
#[derive(Clone, Debug)]
pub(crate) struct DefaultRoute {
    pub(crate) metric: u32,
    pub(crate) link: u32,
    pub(crate) source: Option<IpAddr>,
}

/// The machine's links, addresses and default routes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) defaults: Vec<DefaultRoute>,
}

impl Machine {
    pub(crate) async fn read(handle: &Handle, family: Family) -> Result<Self, Error> {
        let links: Vec<LinkMessage> =
            handle.link().get().execute().try_collect().await.map_err(fail("list", "links"))?;
        let addresses: Vec<AddressMessage> = handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(fail("list", "addresses"))?;
        let mut query = RouteMessage::default();
        query.header.address_family = address_family(family);
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(fail("list", "routes"))?;
        let of_family = |message: &&AddressMessage| message.header.family == address_family(family);
        Ok(Self {
            links: links.iter().map(link).collect(),
            addresses: addresses.iter().filter(of_family).filter_map(address).collect(),
            defaults: routes.iter().filter_map(|message| default_route(message, family)).collect(),
        })
    }

    /// The wished address, else the wished link's, else that of the best default route, else the first there is.
    pub(crate) fn choose(&self, wish: Wish<'_>) -> Option<Uplink> {
        let of_link = |address: &&Address| {
            let link = self.links.get(&address.link);
            let named =
                wish.interface.is_none_or(|name| link.is_some_and(|link| link.name == name));
            named && link.is_some_and(|link| link.up && !link.loopback)
        };
        let here = || self.addresses.iter().filter(of_link);
        if let Some(wished) = wish.address {
            return here().find(|address| address.address == wished).and_then(|a| self.uplink(a));
        }
        let fit = |address: &&Address| {
            address.usable
                && !wish.cluster.contains(address.address)
                && self.links.get(&address.link).is_none_or(|link| link.name != dns::LINK)
        };
        let mut defaults: Vec<&DefaultRoute> = self.defaults.iter().collect();
        defaults.sort_by_key(|route| route.metric);
        let by_route = defaults.iter().find_map(|route| {
            let on_link = || here().filter(fit).filter(|address| address.link == route.link);
            on_link()
                .find(|address| Some(address.address) == route.source)
                .or_else(|| on_link().next())
        });
        by_route
            .or_else(|| here().filter(fit).min_by_key(|address| address.link))
            .and_then(|address| self.uplink(address))
    }

    fn uplink(&self, address: &Address) -> Option<Uplink> {
        let link = self.links.get(&address.link)?;
        Some(Uplink {
            interface: link.name.clone(),
            index: address.link,
            address: address.address,
            prefix: address.prefix,
            mtu: link.mtu,
        })
    }
}

fn link(message: &LinkMessage) -> (u32, Link) {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    (message.header.index, link)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let unfit = AddressHeaderFlags::Deprecated | AddressHeaderFlags::Tentative;
    Some(Address {
        link: header.index,
        address: local(message)?,
        prefix: header.prefix_len,
        usable: matches!(header.scope, AddressScope::Universe | AddressScope::Site)
            && !header.flags.intersects(unfit),
    })
}

fn default_route(message: &RouteMessage, family: Family) -> Option<DefaultRoute> {
    let header = &message.header;
    let fits = header.address_family == address_family(family)
        && header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast;
    let (mut metric, mut link, mut source) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some(IpAddr::V4(*ip)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => source = Some(IpAddr::V6(*ip)),
            _ => {}
        }
    }
    Some(DefaultRoute { metric, link: link.filter(|_| fits)?, source })
}
