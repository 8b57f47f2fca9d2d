//! How nodes tell each other where they are: flannel's annotations, written and read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Backend;
use super::addressing::{Family, Mac};
use super::objects::Node;

pub(crate) const DOMAIN: &str = "flannel.alpha.coreos.com/";
const SUBNET_MANAGER: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";

/// The annotations that exist once per family.
struct Names {
    data: &'static str,
    public: &'static str,
    overwrite: &'static str,
}

fn names(family: Family) -> Names {
    match family {
        Family::V4 => Names {
            data: "flannel.alpha.coreos.com/backend-data",
            public: "flannel.alpha.coreos.com/public-ip",
            overwrite: "flannel.alpha.coreos.com/public-ip-overwrite",
        },
        Family::V6 => Names {
            data: "flannel.alpha.coreos.com/backend-v6-data",
            public: "flannel.alpha.coreos.com/public-ipv6",
            overwrite: "flannel.alpha.coreos.com/public-ipv6-overwrite",
        },
    }
}

#[derive(Serialize, Deserialize)]
struct Data {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: Mac,
}

/// What this node's annotations must say. `node` is asked for an address an administrator set in place of ours.
pub(crate) fn own(
    node: &Node,
    address: IpAddr,
    backend: Backend,
    mac: Mac,
) -> BTreeMap<&'static str, String> {
    let family = Family::of(address);
    let names = names(family);
    let data = match backend {
        Backend::Vxlan { vni, .. } => serde_json::to_string(&Data { vni, mac }).unwrap_or_default(),
        Backend::HostGw => "null".to_owned(),
        Backend::None => return BTreeMap::new(),
    };
    let public = address_in(node, names.overwrite, family).unwrap_or(address);
    BTreeMap::from([
        (SUBNET_MANAGER, "true".to_owned()),
        (BACKEND_TYPE, backend.name().to_owned()),
        (names.data, data),
        (names.public, public.to_string()),
    ])
}

/// Those of `wanted` that the node does not have.
pub(crate) fn missing(
    node: &Node,
    wanted: BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, String> {
    let differs = |(name, value): &(&'static str, String)| node.annotation(name) != Some(value);
    wanted.into_iter().filter(differs).collect()
}

/// The address other nodes reach `node` at, and the hardware address of its tunnel end; or why it cannot be reached.
pub(crate) fn read(
    node: &Node,
    backend: Backend,
    family: Family,
) -> Result<(IpAddr, Option<Mac>), String> {
    let names = names(family);
    if let Some(other) = node.annotation(BACKEND_TYPE).filter(|kind| *kind != backend.name()) {
        return Err(format!("its backend is {other}, this node's is {}", backend.name()));
    }
    let public = address_in(node, names.public, family);
    match backend {
        Backend::Vxlan { vni, .. } => {
            let text = node.annotation(names.data).ok_or("it has no tunnel end yet")?;
            let data: Data =
                serde_json::from_str(text).map_err(|error| format!("{}: {error}", names.data))?;
            if data.vni != vni {
                return Err(format!("its VNI is {}, this node's is {vni}", data.vni));
            }
            if !data.mac.is_usable() {
                return Err(format!("{}: {} cannot be a tunnel end's", names.data, data.mac));
            }
            let public = public.ok_or_else(|| format!("it has no {family} address yet"))?;
            Ok((public, Some(data.mac)))
        }
        Backend::HostGw => {
            let internal = || node.internal.iter().copied().find(|ip| Family::of(*ip) == family);
            let address = public.or_else(internal);
            Ok((address.ok_or_else(|| format!("it has no {family} address yet"))?, None))
        }
        Backend::None => Err("this node has no overlay".to_owned()),
    }
}

/// The address in an annotation, unless nothing can be sent to it.
fn address_in(node: &Node, name: &str, family: Family) -> Option<IpAddr> {
    let address: IpAddr = node.annotation(name)?.parse().ok()?;
    let usable = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
    (usable && Family::of(address) == family).then_some(address)
}
