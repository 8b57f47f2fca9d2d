//! A route for cluster addresses, so that the node's own packets for them get as far as the rules: a node may have no
//! default route. Packets of others are led on before they need one.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::Range;
use crate::dns::LINK;

/// Leads the range to the link of cluster DNS, which is always there. Their sender's address is that of cluster DNS then,
/// and never leaves the node: such packets are masqueraded.
pub(crate) async fn ensure(range: Range) {
    let (connection, handle, _) = match rtnetlink::new_connection() {
        Ok(connection) => connection,
        Err(error) => return tracing::warn!(%error, "no route for cluster addresses"),
    };
    let task = tokio::spawn(connection);
    if let Err(error) = add(&handle, range).await {
        tracing::warn!(%error, %range, link = LINK, "no route for cluster addresses");
    }
    task.abort();
}

async fn add(handle: &Handle, range: Range) -> Result<(), rtnetlink::Error> {
    let IpAddr::V4(first) = range.first() else { return Ok(()) };
    let mut links = handle.link().get().match_name(LINK.to_owned()).execute();
    let index = match links.try_next().await {
        Ok(Some(link)) => link.header.index,
        Err(rtnetlink::Error::NetlinkError(error))
            if error.raw_code() == -(Errno::ENODEV as i32) =>
        {
            // Nobody serves DNS in this namespace.
            return Ok(());
        }
        Ok(None) => return Ok(()),
        Err(error) => return Err(error),
    };
    let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
        .destination_prefix(first, range.prefix())
        .output_interface(index)
        .scope(rtnetlink::packet_route::route::RouteScope::Link)
        .build();
    handle.route().add(route).replace().execute().await
}
