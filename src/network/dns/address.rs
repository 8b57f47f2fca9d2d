//! Makes the address of cluster DNS local: a /32 (or /128) on a link of its own.
//!
//! The link is of type dummy, or a bridge without ports where the kernel has no dummy links: pods need bridges anyway.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkBridge, LinkDummy, LinkUnspec};

use super::Error;

/// The link that carries the addresses.
pub const LINK: &str = "copepod-dns";

/// Ends the task that drives the netlink socket.
struct Connection {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts `address` on the link [`LINK`] of the network namespace of the calling thread, making the link first if it is
/// not there. Does nothing when all is as it should be.
pub async fn ensure_address(address: IpAddr) -> Result<(), Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Netlink)?;
    let connection = Connection { handle, task: tokio::spawn(connection) };
    let handle = &connection.handle;
    let index = match link_index(handle).await? {
        Some(index) => index,
        None => add_link(handle).await?,
    };
    let up = LinkUnspec::new_with_index(index).up().build();
    let change = handle.link().change(up).execute().await;
    change.map_err(failed(|| format!("set link {LINK} up")))?;
    if !has_address(handle, index, address).await? {
        add_address(handle, index, address).await?;
    }
    Ok(())
}

fn failed(action: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| {
        let source = match source {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => std::io::Error::other(other),
        };
        Error::Link { action: action(), source }
    }
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    message.raw_code() == -(errno as i32)
}

async fn link_index(handle: &Handle) -> Result<Option<u32>, Error> {
    let mut links = handle.link().get().match_name(LINK.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is(&error, Errno::ENODEV) => Ok(None),
        Err(error) => Err(failed(|| format!("look up link {LINK}"))(error)),
    }
}

async fn add_link(handle: &Handle) -> Result<u32, Error> {
    let add = |link: LinkMessage| async {
        match handle.link().add(link).execute().await {
            Err(error) if !is(&error, Errno::EEXIST) => Err(error),
            _ => Ok(()),
        }
    };
    match add(LinkDummy::new(LINK).up().build()).await {
        Err(error) if is(&error, Errno::EOPNOTSUPP) => {
            let bridge = add(LinkBridge::new(LINK).up().build()).await;
            bridge.map_err(failed(|| format!("add link {LINK} of type dummy or bridge")))?;
        }
        added => added.map_err(failed(|| format!("add link {LINK} of type dummy")))?,
    }
    let missing =
        || failed(|| format!("find link {LINK} after adding it"))(rtnetlink::Error::RequestFailed);
    link_index(handle).await?.ok_or_else(missing)
}

async fn has_address(handle: &Handle, index: u32, address: IpAddr) -> Result<bool, Error> {
    let mut present = handle.address().get().set_link_index_filter(index).execute();
    let mut found = false;
    while let Some(message) =
        present.try_next().await.map_err(failed(|| format!("list addresses of link {LINK}")))?
    {
        found |= message.attributes.iter().any(
            |attribute| matches!(attribute, AddressAttribute::Address(other) if *other == address),
        );
    }
    Ok(found)
}

async fn add_address(handle: &Handle, index: u32, address: IpAddr) -> Result<(), Error> {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(index, address, prefix);
    if address.is_ipv6() {
        // Nobody else can have it on this link, and it is needed at once.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    match request.execute().await {
        Err(error) if !is(&error, Errno::EEXIST) => {
            Err(failed(|| format!("add address {address}/{prefix} to link {LINK}"))(error))
        }
        _ => Ok(()),
    }
}
