//! What a ruleset consists of: keys and values of the maps, and the kinds of treatment a packet can get.
//!
//! Most Services need no chain of their own. A packet's front (address, protocol, port) is in the set of its [`Kind`],
//! which says how it is treated and how many endpoints there are; there is a chain for each kind, not for each Service. The
//! map `endpoints` leads from the front and a random number to the endpoint. So a change of a Service is a change of a few
//! elements. Maps of verdicts would do with less, but for each change the kernel looks at everything they lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::nft::{Rule, Set, Verdict};

/// Endpoints of one port of a Service that are used; the rest gets no packets.
pub(crate) const ENDPOINTS_MAX: usize = 16_384;
/// Numbers of ports of Services are below this.
pub(crate) const IDS: u32 = 1 << 26;
/// Set in the slots of endpoints of this node.
pub(crate) const LOCAL_SLOT: u32 = 1 << 31;
/// Up to so many endpoints, the chains that choose are always there. To refer to a large map from a new chain, the kernel
/// looks at all of its elements, so such chains are made before there are any.
const PICKS_READY: u16 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    /// From the label of a name.
    pub(crate) fn of(label: &str) -> Self {
        match label {
            "_udp" => Self::Udp,
            "_sctp" => Self::Sctp,
            _ => Self::Tcp,
        }
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Front {
    /// None stands for the addresses of the node.
    pub(crate) address: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Address and port of an endpoint.
pub(crate) type Backend = (IpAddr, u16);

/// Which endpoints packets may go to, and which packets keep their sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    /// The cluster address: all endpoints, masqueraded when it comes from outside of the cluster.
    Cluster,
    /// The cluster address with endpoints of this node only.
    ClusterLocal,
    /// From outside to all endpoints, always masqueraded.
    External,
    /// From outside to endpoints of this node, not masqueraded; from the cluster to all.
    ExternalLocal,
}

/// How packets of a [`Front`] are treated. All that differs between chains is in here, so equal kinds share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind {
    pub(crate) scope: Scope,
    /// Whether the front is a port of the node.
    pub(crate) node: bool,
    /// How many endpoints there are to choose from; with affinity only whether there are.
    pub(crate) any: u16,
    pub(crate) local: u16,
    /// The number of the port, when clients stay with their endpoint.
    pub(crate) affine: Option<u32>,
}

impl Kind {
    /// Whether packets are led somewhere.
    pub(crate) fn leads(self) -> bool {
        self.any > 0 || self.local > 0
    }

    /// The set of the fronts of this kind; those with affinity are in a map of their own.
    pub(crate) fn set(self) -> Option<String> {
        self.affine.is_none().then(|| format!("to-{}", self.chain()))
    }

    /// The chain that leads the packet on.
    pub(crate) fn chain(self) -> String {
        let scope = match self.scope {
            Scope::Cluster => "cluster",
            Scope::ClusterLocal => "cluster-local",
            Scope::External => "external",
            Scope::ExternalLocal => "external-local",
        };
        match self.affine {
            Some(id) => format!("{scope}-affine-{id}-{}-{}", self.any, self.local),
            None => format!("{scope}-{}-{}-{}", front_name(self.node), self.any, self.local),
        }
    }

    /// Where the packet's endpoint is chosen.
    pub(crate) fn choice(self, local: bool) -> Option<Choice> {
        let count = if local { self.local } else { self.any };
        let choice = match self.affine {
            Some(id) => Choice::Affine { id, local },
            None => Choice::Random(Pick { node: self.node, local, count }),
        };
        (count > 0).then_some(choice)
    }

    /// The chains that choose, of those that are shared.
    pub(crate) fn picks(self) -> impl Iterator<Item = Pick> {
        let lists: &[bool] = match self.scope {
            Scope::Cluster | Scope::External => &[false],
            Scope::ClusterLocal => &[true],
            Scope::ExternalLocal => &[false, true],
        };
        lists.iter().filter_map(move |local| match self.choice(*local) {
            Some(Choice::Random(pick)) => Some(pick),
            _ => None,
        })
    }
}

/// A chain that chooses an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Random(Pick),
    Affine { id: u32, local: bool },
}

impl Choice {
    pub(crate) fn chain(self) -> String {
        match self {
            Self::Random(pick) => pick.chain(),
            Self::Affine { id, local } => format!("affinity-{id}-{}", list_name(local)),
        }
    }
}

/// A chain that chooses one of so many endpoints by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pick {
    pub(crate) node: bool,
    pub(crate) local: bool,
    pub(crate) count: u16,
}

impl Pick {
    /// The chains that are always there.
    pub(crate) fn ready() -> impl Iterator<Item = Self> {
        let fronts = [(false, false), (false, true), (true, false), (true, true)];
        let counts =
            move |(node, local)| (1..=PICKS_READY).map(move |count| Self { node, local, count });
        fronts.into_iter().flat_map(counts)
    }

    pub(crate) fn is_ready(self) -> bool {
        self.count <= PICKS_READY
    }

    pub(crate) fn chain(self) -> String {
        format!("pick-{}-{}-{}", front_name(self.node), list_name(self.local), self.count)
    }
}

fn front_name(node: bool) -> &'static str {
    if node { "node" } else { "address" }
}

fn list_name(local: bool) -> &'static str {
    if local { "local" } else { "any" }
}

/// An element of one of the sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    NodeIp(IpAddr),
    ClusterIp(IpAddr),
    /// All fronts of Services.
    Service(Front),
    /// The kind of a front whose packets are led somewhere.
    Led(Front),
    /// A front of which some packets are led nowhere.
    Refused(Front),
    Endpoint {
        front: Front,
        slot: u32,
    },
    HostPort(Front),
    Firewall(Front),
    /// An endpoint of this node: packets from itself to itself are masqueraded.
    Hairpin(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Of a set.
    Nothing,
    Kind(Kind),
    /// Whether there are endpoints elsewhere: then the packet is dropped.
    Refused {
        elsewhere: bool,
    },
    Backend(Backend),
    Verdict(Verdict),
}

/// Rules of a chain; shared, because chains are compared more often than changed.
pub(crate) type Rules = Arc<Vec<Rule>>;

/// Who answers at each front, of those for UDP.
pub(crate) type Datagrams = BTreeMap<Front, Arc<BTreeSet<Backend>>>;

/// The part of the ruleset that one owner asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) elements: BTreeMap<Key, Value>,
    pub(crate) kinds: BTreeSet<Kind>,
    /// Numbers of the owner's ports.
    pub(crate) ids: BTreeSet<u32>,
    /// Chains and sets of this owner alone.
    pub(crate) chains: BTreeMap<String, Rules>,
    pub(crate) sets: BTreeMap<String, Set>,
    /// For UDP: who answers. What connection tracking remembers otherwise is stale.
    pub(crate) datagrams: Datagrams,
    /// Endpoints of this node that a load balancer could use.
    pub(crate) usable_here: usize,
}

/// Who asks for a fragment. Where two ask for different values of one key, the lower owner has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Node,
    Service(Arc<client::Key>),
    Pod(Arc<client::Key>),
}
