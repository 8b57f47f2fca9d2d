//! One interface through netlink: up, its address, its routes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::Error;

pub(crate) const INTERFACES: &str = "/sys/class/net";
const ETHERNET: &str = "1";
/// Between the routes of two interfaces: the first one's is taken as long as it is up.
const METRIC_STEP: u32 = 100;

/// The named interface, or the first that is Ethernet with a cable and belongs to a device (bridges and veths do not).
pub(crate) fn find(wanted: Option<&str>) -> Option<String> {
    let mut names: Vec<String> = fs::read_dir(INTERFACES)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().find(|name| {
        let path = Path::new(INTERFACES).join(name);
        let ethernet =
            || fs::read_to_string(path.join("type")).is_ok_and(|kind| kind.trim() == ETHERNET);
        let cabled = || !path.join("phy80211").exists() && ethernet();
        wanted.map_or_else(|| path.join("device").exists() && cabled(), |wanted| wanted == name)
    })
}

pub(crate) struct Link {
    index: u32,
    pub(crate) mac: [u8; 6],
    metric: u32,
    handle: Handle,
}

impl Link {
    /// `rank` orders the default routes of several interfaces.
    pub(crate) async fn open(name: &str, rank: usize, handle: Handle) -> Result<Link, Error> {
        let mut links = handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.map_err(failed("look up the interface"))?;
        let index =
            link.ok_or_else(|| Error::Network(format!("interface {name} is gone")))?.header.index;
        let path = Path::new(INTERFACES).join(name).join("address");
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let mac = parse_mac(&text)
            .ok_or_else(|| Error::Network(format!("{name} has no Ethernet address")))?;
        let metric = u32::try_from(rank).unwrap_or(u32::MAX).saturating_mul(METRIC_STEP);
        Ok(Link { index, mac, metric, handle })
    }

    pub(crate) async fn up(&self) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index).up().build();
        self.handle.link().set(message).execute().await.map_err(failed("set the interface up"))
    }

    /// Gives the interface this address and no other, and a default route if there is a router.
    pub(crate) async fn configure(
        &self,
        address: Ipv4Addr,
        prefix: u8,
        router: Option<Ipv4Addr>,
    ) -> Result<(), Error> {
        self.keep_only(Some((address, prefix))).await?;
        let add = self.handle.address().add(self.index, IpAddr::V4(address), prefix).replace();
        add.execute().await.map_err(failed("set the address"))?;
        let Some(router) = router else { return Ok(()) };
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(router)
            .output_interface(self.index)
            .priority(self.metric)
            .build();
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(failed("set the default route"))
    }

    /// Removes all IPv4 addresses of the interface but this one.
    pub(crate) async fn keep_only(&self, kept: Option<(Ipv4Addr, u8)>) -> Result<(), Error> {
        let mut addresses = self.handle.address().get().set_link_index_filter(self.index).execute();
        let mut old = Vec::new();
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            if address.is_some_and(|address| kept != Some((address, message.header.prefix_len))) {
                old.push(message);
            }
        }
        for message in old {
            self.handle
                .address()
                .del(message)
                .execute()
                .await
                .map_err(failed("remove an address"))?;
        }
        Ok(())
    }
}

fn failed(operation: &'static str) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| Error::Network(format!("{operation}: {error}"))
}

pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Option<Vec<u8>> =
        text.trim().split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts?.try_into().ok()
}
