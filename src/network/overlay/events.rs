//! Wakes the overlay when links, addresses or routes change. The kernel's messages only say that something changed; what,
//! is read afresh, so that none that got lost matters.

use std::sync::Arc;

use futures_util::StreamExt;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::Notify;

use crate::error::Error;
use crate::pool::LINK_PREFIX;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// Changes since the last wait are one.
pub(crate) struct Events {
    changed: Arc<Notify>,
    _tasks: client::Tasks,
}

impl Events {
    /// Of the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Error> {
        let (connection, _, mut messages) =
            new_multicast_connection(&GROUPS).map_err(|source| Error::Netlink { source })?;
        let tasks = client::Tasks::new();
        tasks.spawn(connection);
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        tasks.spawn(async move {
            // Takes each message at once, so that none wait.
            while let Some((message, _)) = messages.next().await {
                if matters(&message.payload) {
                    notify.notify_one();
                }
            }
            tracing::warn!("the kernel's messages about links and addresses have ended");
        });
        Ok(Self { changed, _tasks: tasks })
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Pods that come and go do not matter, and neither do routes somebody adds, unless they lead everywhere.
fn matters(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                !is_pods(link)
            }
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => true,
            RouteNetlinkMessage::NewRoute(route) => is_default(route),
            RouteNetlinkMessage::DelRoute(_) => true,
            _ => false,
        },
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

fn is_pods(link: &LinkMessage) -> bool {
    let named = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(LINK_PREFIX));
    link.attributes.iter().any(named)
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
}
