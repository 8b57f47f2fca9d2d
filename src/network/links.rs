//! Bridge, veth pairs, addresses and routes through rtnetlink.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};

use crate::addresses::{Cidr, hardware_address};
use crate::error::Error;

/// The pod's end of a pair.
pub(crate) const POD_LINK: &str = "eth0";
const LOOPBACK: &str = "lo";

/// Netlink in one network namespace.
#[derive(Clone)]
pub(crate) struct Links {
    handle: Handle,
}

/// The parts of a link that matter here.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) controller: Option<u32>,
    is_bridge: bool,
    mtu: Option<u32>,
    hardware: Vec<u8>,
}

/// What a pod's interface gets.
pub(crate) struct PodLink<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) cidr: Cidr,
    pub(crate) mtu: u32,
}

impl Links {
    /// Opens a socket in the calling thread's namespace and starts its task on the current runtime, which owns it.
    pub(crate) fn open() -> Result<Self, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| Error::Netlink { source })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Finds a link by name.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.map(|message| Link::from(&message))),
            Err(error) if is(&error, &[Errno::ENODEV]) => Ok(None),
            Err(error) => Err(fail("look up link", name)(error)),
        }
    }

    async fn expect(&self, name: &str) -> Result<Link, Error> {
        let missing = || Error::Link {
            action: "find link",
            link: name.to_owned(),
            reason: "it does not exist".to_owned(),
        };
        self.find(name).await?.ok_or_else(missing)
    }

    /// All links of the bridge with this index.
    pub(crate) async fn ports(&self, bridge: u32) -> Result<Vec<Link>, Error> {
        let all: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(fail("list ports of bridge", &bridge.to_string()))?;
        Ok(all.iter().map(Link::from).filter(|link| link.controller == Some(bridge)).collect())
    }

    /// Makes the bridge, or makes an existing one right, and returns its index.
    pub(crate) async fn ensure_bridge(
        &self,
        name: &str,
        cidr: Cidr,
        mtu: u32,
    ) -> Result<u32, Error> {
        let hardware = hardware_address(cidr.gateway());
        if self.find(name).await?.is_none() {
            // A fixed hardware address: by default a bridge takes its lowest port's, which would change with the pods.
            let bridge = LinkBridge::new(name).mtu(mtu).address(hardware.to_vec()).build();
            match self.handle.link().add(bridge).execute().await {
                Err(error) if !is(&error, &[Errno::EEXIST]) => {
                    return Err(fail("create bridge", name)(error));
                }
                _ => {}
            }
        }
        let bridge = self.expect(name).await?;
        if !bridge.is_bridge {
            return Err(Error::Link {
                action: "use bridge",
                link: name.to_owned(),
                reason: "a link of that name is no bridge".to_owned(),
            });
        }
        let mut wanted = LinkUnspec::new_with_index(bridge.index).up();
        if bridge.mtu != Some(mtu) {
            wanted = wanted.mtu(mtu);
        }
        if bridge.hardware != hardware {
            wanted = wanted.address(hardware.to_vec());
        }
        self.handle
            .link()
            .set(wanted.build())
            .execute()
            .await
            .map_err(fail("set up bridge", name))?;
        self.only_address(bridge.index, name, cidr).await?;
        Ok(bridge.index)
    }

    /// The gateway address and no other IPv4 one.
    async fn only_address(&self, index: u32, name: &str, cidr: Cidr) -> Result<(), Error> {
        let found: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(fail("list addresses of", name))?;
        let gateway = IpAddr::V4(cidr.gateway());
        let mut present = false;
        for address in found {
            let local = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) | AddressAttribute::Address(address) => {
                    Some(*address)
                }
                _ => None,
            });
            if local == Some(gateway) && address.header.prefix_len == cidr.prefix() {
                present = true;
            } else if local.is_some_and(|address| address.is_ipv4()) {
                self.handle
                    .address()
                    .del(address)
                    .execute()
                    .await
                    .map_err(fail("remove an old address of", name))?;
            }
        }
        if present {
            return Ok(());
        }
        let add = self.handle.address().add(index, gateway, cidr.prefix()).replace();
        add.execute().await.map_err(fail("add the gateway address to", name))
    }

    /// Makes a pair whose one end is `eth0` in the namespace behind `namespace` and the other a port of the bridge.
    pub(crate) async fn add_pair(
        &self,
        pod: &PodLink<'_>,
        bridge: u32,
        namespace: &File,
    ) -> Result<(), Error> {
        // A left-over of the same name, from a pod that was not detached.
        self.delete(pod.host_name).await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_LINK)
            .mtu(pod.mtu)
            .address(hardware_address(pod.address).to_vec())
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(pod.host_name)
            .mtu(pod.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle
            .link()
            .add(pair)
            .execute()
            .await
            .map_err(fail("create veth pair", pod.host_name))?;
        let attached = self.attach_port(pod.host_name, bridge).await;
        if attached.is_err() {
            // The first error is the one that matters.
            drop(self.delete(pod.host_name).await);
        }
        attached
    }

    async fn attach_port(&self, name: &str, bridge: u32) -> Result<(), Error> {
        let port = self.expect(name).await?;
        let message = LinkUnspec::new_with_index(port.index).controller(bridge).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(fail("attach to the bridge", name))?;
        // A pod that reaches itself through a Service gets its own packets back from the bridge.
        let hairpin = LinkBridgePort::new(port.index).hairpin(true).build();
        self.handle
            .link()
            .set_port(hairpin)
            .execute()
            .await
            .map_err(fail("set hairpin mode of", name))
    }

    /// Deletes a link; with one end of a pair goes the other. One that does not exist is fine.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        match self.handle.link().del(link.index).execute().await {
            Err(error) if !is(&error, &[Errno::ENODEV]) => Err(fail("delete link", name)(error)),
            _ => Ok(()),
        }
    }

    async fn up(&self, name: &str) -> Result<u32, Error> {
        let link = self.expect(name).await?;
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.handle.link().set(message).execute().await.map_err(fail("set up link", name))?;
        Ok(link.index)
    }

    async fn set_route(&self, route: RouteMessage, action: &'static str) -> Result<(), Error> {
        let add = self.handle.route().add(route).replace();
        add.execute().await.map_err(fail(action, POD_LINK))
    }

    async fn has_address(&self, index: u32, address: Ipv4Addr) -> Result<bool, Error> {
        let filter = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(IpAddr::V4(address));
        let found: Vec<_> =
            filter.execute().try_collect().await.map_err(fail("list addresses of", POD_LINK))?;
        Ok(!found.is_empty())
    }
}

/// Whether the namespace at `path` has an `eth0` with this address already.
pub(crate) fn is_configured(path: &Path, address: Ipv4Addr) -> Result<bool, Error> {
    inside(path, || async move {
        let links = Links::open()?;
        match links.find(POD_LINK).await? {
            Some(link) => links.has_address(link.index, address).await,
            None => Ok(false),
        }
    })
}

/// Gives the pod's end its address, and the node as the way to everything: also to pods of the same node, so that the
/// node's address translation sees both directions of what they say to each other through a Service.
pub(crate) fn configure(path: &Path, address: Ipv4Addr, cidr: Cidr) -> Result<(), Error> {
    inside(path, || async move {
        let links = Links::open()?;
        links.up(LOOPBACK).await?;
        let index = links.up(POD_LINK).await?;
        let add = links.handle.address().add(index, IpAddr::V4(address), cidr.prefix());
        let mut add = add.replace();
        add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        add.execute().await.map_err(fail("add the pod's address to", POD_LINK))?;
        let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(cidr.gateway(), 32)
            .scope(RouteScope::Link)
            .output_interface(index);
        links.set_route(gateway.build(), "add the gateway's route through").await?;
        let default =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(cidr.gateway()).output_interface(index);
        links.set_route(default.build(), "add the default route through").await
    })
}

/// Removes an `eth0` that has not the address it should have.
pub(crate) fn clear(path: &Path) -> Result<(), Error> {
    inside(path, || async { Links::open()?.delete(POD_LINK).await })
}

/// Runs netlink work on a short-lived thread inside the namespace at `path`.
fn inside<T, F>(path: &Path, work: impl FnOnce() -> F + Send) -> Result<T, Error>
where
    T: Send,
    F: Future<Output = Result<T, Error>>,
{
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|source| Error::Netlink { source })?;
        runtime.block_on(async { work().await })
    };
    sys::namespace::run_in_netns(path, run)
        .map_err(|source| Error::Namespace { path: path.to_owned(), source })?
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            controller: None,
            is_bridge: false,
            mtu: None,
            hardware: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
                LinkAttribute::Address(hardware) => link.hardware.clone_from(hardware),
                LinkAttribute::LinkInfo(infos) => {
                    link.is_bridge |= infos.contains(&LinkInfo::Kind(InfoKind::Bridge))
                }
                _ => {}
            }
        }
        link
    }
}

/// For `map_err`: what was being done to which link.
pub(crate) fn fail(action: &'static str, link: &str) -> impl FnOnce(rtnetlink::Error) -> Error {
    let link = link.to_owned();
    move |error| {
        let reason = match &error {
            rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        };
        Error::Link { action, link, reason }
    }
}

pub(crate) fn is(error: &rtnetlink::Error, wanted: &[Errno]) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    wanted.contains(&Errno::from_raw(message.raw_code().saturating_neg()))
}
