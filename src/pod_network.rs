//! The agent's pod network, as the `network` crate makes it.

use std::net::IpAddr;
use std::path::Path;

use agent::PodNetwork;
use apiserver::BoxFuture;
use network::BridgeNetwork;

pub(crate) struct Bridge(pub(crate) BridgeNetwork);

impl PodNetwork for Bridge {
    fn attach(&self, uid: &str, netns: &Path) -> BoxFuture<'_, Result<Vec<IpAddr>, String>> {
        let (uid, netns) = (uid.to_owned(), netns.to_owned());
        Box::pin(async move {
            let addresses = self.0.attach(&uid, &netns).await.map_err(|e| e.to_string())?;
            Ok(addresses.ips)
        })
    }

    fn detach(&self, uid: &str) -> BoxFuture<'_, Result<(), String>> {
        let uid = uid.to_owned();
        Box::pin(async move { self.0.detach(&uid).await.map_err(|e| e.to_string()) })
    }

    fn set_pod_cidr(&self, cidr: &str) -> BoxFuture<'_, Result<(), String>> {
        let cidr = cidr.to_owned();
        Box::pin(async move { self.0.set_pod_cidr(&cidr).await.map_err(|e| e.to_string()) })
    }

    fn ready(&self) -> bool {
        self.0.is_ready()
    }
}
