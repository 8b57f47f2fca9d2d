//! Reads the overlay's state from the kernel and changes it, through rtnetlink.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::addressing::{Family, Mac, Prefix};
use super::messages::{PROTOCOL, address_family, described, entry_of, local, route_of, tunnel_of};
use super::plan::{Operation, Route, State, Through, Tunnel};
use crate::error::Error;
use crate::links::{fail, is};

/// Loose checking of source addresses; wins over the strict one for all links.
const LOOSE: &str = "2";

/// Netlink in the network namespace of the thread that opens it.
pub(crate) struct Kernel {
    handle: Handle,
    /// Drives the socket until this is dropped.
    _tasks: client::Tasks,
    family: Family,
    /// Name of the tunnel.
    name: String,
}

/// What makes a link, that was there before, this program's.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    /// Whatever has the tunnel's name.
    pub(crate) any: bool,
    /// A tunnel with this address.
    pub(crate) mac: Mac,
}

impl Kernel {
    pub(crate) fn open(family: Family, name: String) -> Result<Self, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| Error::Netlink { source })?;
        let tasks = client::Tasks::new();
        tasks.spawn(connection);
        Ok(Self { handle, _tasks: tasks, family, name })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The state of everything that is this program's.
    pub(crate) async fn read(&self, claim: Claim) -> Result<State, Error> {
        let mut state = State::default();
        let tunnel = self.tunnel(claim).await?;
        let index = tunnel.as_ref().map(|(index, _)| *index);
        state.routes = self.routes(index).await?;
        if let Some((index, tunnel)) = tunnel {
            state.neighbours = self.neighbours(index).await?;
            state.forwarding = self.forwarding(index).await?;
            state.tunnel = Some(tunnel);
        }
        Ok(state)
    }

    async fn link(&self) -> Result<Option<LinkMessage>, Error> {
        let mut found = self.handle.link().get().match_name(self.name.clone()).execute();
        match found.try_next().await {
            Err(error) if is(&error, &[Errno::ENODEV]) => Ok(None),
            result => result.map_err(fail("look up link", &self.name)),
        }
    }

    async fn index(&self) -> Result<u32, Error> {
        let missing = || Error::Link {
            action: "find link",
            link: self.name.clone(),
            reason: "it does not exist".to_owned(),
        };
        Ok(self.link().await?.ok_or_else(missing)?.header.index)
    }

    async fn tunnel(&self, claim: Claim) -> Result<Option<(u32, Tunnel)>, Error> {
        let Some(message) = self.link().await? else { return Ok(None) };
        let index = message.header.index;
        let Some(mut tunnel) = tunnel_of(&message) else {
            let reason = "a link of that name is no VXLAN tunnel".to_owned();
            let error = || Error::Link { action: "use link", link: self.name.clone(), reason };
            return if claim.any { Err(error()) } else { Ok(None) };
        };
        if !claim.any && tunnel.mac != claim.mac {
            return Ok(None);
        }
        tunnel.addresses = self.addresses(index).await?.iter().filter_map(local).collect();
        Ok(Some((index, tunnel)))
    }

    async fn addresses(&self, index: u32) -> Result<Vec<AddressMessage>, Error> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let all: Vec<AddressMessage> =
            request.execute().try_collect().await.map_err(fail("list addresses of", &self.name))?;
        let family = address_family(self.family);
        // The IPv6 address every link gets by itself is nobody's.
        let ours = |message: &AddressMessage| {
            message.header.family == family
                && !local(message)
                    .is_some_and(|ip| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
        };
        Ok(all.into_iter().filter(ours).collect())
    }

    async fn routes(&self, tunnel: Option<u32>) -> Result<BTreeMap<Prefix, Route>, Error> {
        let mut query = RouteMessage::default();
        query.header.address_family = address_family(self.family);
        let all: Vec<RouteMessage> = self
            .handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(fail("list the routes of", &self.name))?;
        Ok(all.iter().filter_map(|message| route_of(message, self.family, tunnel)).collect())
    }

    async fn neighbours(&self, index: u32) -> Result<BTreeMap<IpAddr, Mac>, Error> {
        let all = self.entries(address_family(self.family)).await?;
        let ours = all.iter().filter(|entry| {
            entry.header.ifindex == index && entry.header.state == NeighbourState::Permanent
        });
        Ok(ours.filter_map(entry_of).collect())
    }

    async fn forwarding(&self, index: u32) -> Result<BTreeMap<Mac, IpAddr>, Error> {
        let all = self.entries(AddressFamily::Bridge).await?;
        let ours = all.iter().filter(|entry| entry.header.ifindex == index);
        Ok(ours.filter_map(entry_of).map(|(address, mac)| (mac, address)).collect())
    }

    async fn entries(&self, family: AddressFamily) -> Result<Vec<NeighbourMessage>, Error> {
        let request = self.handle.neighbours().get().set_address_family(family);
        request.execute().try_collect().await.map_err(fail("list the neighbours of", &self.name))
    }

    /// Makes one change. What is to be removed and is not there is fine.
    pub(crate) async fn apply(&self, operation: &Operation) -> Result<(), Error> {
        match operation {
            Operation::RemoveTunnel => self.remove_tunnel().await,
            Operation::AddTunnel(tunnel) => self.add_tunnel(tunnel).await,
            Operation::ChangeTunnel(tunnel) => self.change_tunnel(tunnel).await,
            Operation::AddAddress(address) => {
                let bits = self.family.bits();
                let add = self.handle.address().add(self.index().await?, *address, bits);
                add.replace().execute().await.map_err(fail("add the node's address to", &self.name))
            }
            Operation::RemoveAddress(address) => self.remove_address(*address).await,
            Operation::SetRoute(range, route) => {
                let message = self.route(*range, *route).await?;
                let add = self.handle.route().add(message).replace();
                add.execute().await.map_err(fail("set the route to", &range.to_string()))
            }
            Operation::RemoveRoute(range, route) => {
                let mut message = self.route(*range, *route).await?;
                // Whoever made it: what leads through the tunnel is ours.
                message.header.protocol = RouteProtocol::Unspec;
                message.header.scope = RouteScope::NoWhere;
                let done = self.handle.route().del(message).execute().await;
                gone(done).map_err(fail("remove the route to", &range.to_string()))
            }
            Operation::SetNeighbour(address, mac) => {
                let add = self.handle.neighbours().add(self.index().await?, *address);
                let add = add.link_layer_address(&mac.0).replace();
                add.execute().await.map_err(fail("set the neighbour", &address.to_string()))
            }
            Operation::RemoveNeighbour(address, mac) => {
                let entry = self.entry(address_family(self.family), *address, *mac).await?;
                let done = self.handle.neighbours().del(entry).execute().await;
                gone(done).map_err(fail("remove the neighbour", &address.to_string()))
            }
            Operation::SetForwarding(mac, address) => {
                let add = self.handle.neighbours().add_bridge(self.index().await?, &mac.0);
                let add = add.destination(*address).flags(NeighbourFlags::Own).replace();
                add.execute().await.map_err(fail("set the tunnel end", &mac.to_string()))
            }
            Operation::RemoveForwarding(mac, address) => {
                let entry = self.entry(AddressFamily::Bridge, *address, *mac).await?;
                let done = self.handle.neighbours().del(entry).execute().await;
                gone(done).map_err(fail("remove the tunnel end", &mac.to_string()))
            }
        }
    }

    async fn remove_tunnel(&self) -> Result<(), Error> {
        let Some(message) = self.link().await? else { return Ok(()) };
        let done = self.handle.link().del(message.header.index).execute().await;
        gone(done).map_err(fail("delete link", &self.name))
    }

    async fn add_tunnel(&self, tunnel: &Tunnel) -> Result<(), Error> {
        let message = LinkVxlan::new(&self.name, tunnel.vni).port(tunnel.port);
        let message = described(message, tunnel).mtu(tunnel.mtu).address(tunnel.mac.0.to_vec());
        let message = message.up().build();
        let add = self.handle.link().add(message).execute().await;
        add.map_err(fail("create VXLAN tunnel", &self.name))?;
        self.loosen()
    }

    async fn change_tunnel(&self, tunnel: &Tunnel) -> Result<(), Error> {
        let index = self.index().await?;
        let message = LinkVxlan::new(&self.name, tunnel.vni);
        let change = self.handle.link().change(described(message, tunnel).index(index).build());
        change.execute().await.map_err(fail("change VXLAN tunnel", &self.name))?;
        // The kernel refuses a tunnel's mtu together with its ends.
        let message = LinkUnspec::new_with_index(index).mtu(tunnel.mtu);
        let message = message.address(tunnel.mac.0.to_vec()).up().build();
        let change = self.handle.link().change(message).execute().await;
        change.map_err(fail("set up link", &self.name))?;
        self.loosen()
    }

    /// Where the machine checks source addresses strictly, replies to a pod by way of another link would be dropped.
    fn loosen(&self) -> Result<(), Error> {
        if self.family == Family::V6 {
            return Ok(());
        }
        let path = |link: &str| format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
        let strict =
            |link: &str| std::fs::read_to_string(path(link)).is_ok_and(|value| value.trim() == "1");
        if !strict("all") && !strict(&self.name) {
            return Ok(());
        }
        let own = path(&self.name);
        match std::fs::write(Path::new(&own), LOOSE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("write", own)(error))
            }
            _ => Ok(()),
        }
    }

    async fn remove_address(&self, address: IpAddr) -> Result<(), Error> {
        for message in self.addresses(self.index().await?).await? {
            if local(&message) == Some(address) {
                let done = self.handle.address().del(message).execute().await;
                gone(done).map_err(fail("remove an old address of", &self.name))?;
            }
        }
        Ok(())
    }

    async fn route(&self, range: Prefix, route: Route) -> Result<RouteMessage, Error> {
        let index = match route.through {
            Through::Tunnel => self.index().await?,
            Through::Device(index) => index,
        };
        let invalid = |reason: String| Error::Link {
            action: "make the route to",
            link: range.to_string(),
            reason,
        };
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(range.network(), range.length())
            .map_err(|error| invalid(error.to_string()))?
            .output_interface(index)
            .protocol(PROTOCOL);
        if let Some(gateway) = route.gateway {
            message = message.gateway(gateway).map_err(|error| invalid(error.to_string()))?;
        }
        if route.onlink {
            message = message.onlink();
        }
        Ok(message.build())
    }

    async fn entry(
        &self,
        family: AddressFamily,
        address: IpAddr,
        mac: Mac,
    ) -> Result<NeighbourMessage, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = self.index().await?;
        if family == AddressFamily::Bridge {
            message.header.flags = NeighbourFlags::Own;
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        }
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(address)));
        Ok(message)
    }
}

fn gone(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error)
            if is(&error, &[Errno::ESRCH, Errno::ENOENT, Errno::ENODEV, Errno::EADDRNOTAVAIL]) =>
        {
            Ok(())
        }
        result => result,
    }
}
