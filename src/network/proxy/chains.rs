//! The rules of all chains. Each chain is made from values, never read back.

use std::net::IpAddr;

use super::Node;
use super::values::{Backend, Choice, Kind, LOCAL_SLOT, Pick, Scope};
use crate::inputs::Range;
use crate::nft::{
    AddressType, Base, Connection, Expression, Family, Found, Hook, Refusal, Register, Rule,
    Verdict,
};

/// The bit of the packet mark that asks for masquerading, as kube-proxy has it.
const MASQUERADE_BIT: u32 = 0x4000;
const PRE_ROUTING: u32 = 0;
const LOCAL_OUT: u32 = 3;
const POST_ROUTING: u32 = 4;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// Who may use a load balancer is decided before its packets are led on.
const PRIORITY_FIREWALL: i32 = PRIORITY_DESTINATION_NAT - 10;
/// What has been led nowhere is refused before routing: a node may have no route for cluster addresses.
const PRIORITY_REFUSE: i32 = PRIORITY_DESTINATION_NAT + 10;
/// `RTN_LOCAL`
const LOCAL_ADDRESS: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`
const STATE_NEW: u32 = 8;
/// `IPS_DST_NAT`
const STATUS_DESTINATION_NAT: u32 = 32;
const TCP: u8 = 6;

/// Where the parts of a lookup are.
#[derive(Clone, Copy)]
struct Layout {
    family: Family,
    words: u32,
}

impl Layout {
    fn new(family: Family) -> Self {
        Self { family, words: family.address_bytes() / 4 }
    }

    fn protocol(self) -> Register {
        Register(self.words)
    }

    fn port(self) -> Register {
        Register(self.words + 1)
    }

    /// Follows the front, because both are the key of an endpoint.
    fn slot(self) -> Register {
        Register(self.words + 2)
    }

    fn backend(self) -> Register {
        Register(self.words + 3)
    }

    fn backend_port(self) -> Register {
        Register(self.words * 2 + 3)
    }

    fn source(self, to: Register) -> Expression {
        let offset = if self.family == Family::V4 { 12 } else { 8 };
        Expression::Payload { base: Base::Network, offset, length: self.words * 4, to }
    }

    fn destination(self, to: Register) -> Expression {
        let offset = if self.family == Family::V4 { 16 } else { 24 };
        Expression::Payload { base: Base::Network, offset, length: self.words * 4, to }
    }

    /// Loads protocol and port behind the address.
    fn transport(self) -> [Expression; 2] {
        let port =
            Expression::Payload { base: Base::Transport, offset: 2, length: 2, to: self.port() };
        [Expression::Protocol { to: self.protocol() }, port]
    }

    /// Loads the front of the packet.
    fn front(self) -> Rule {
        let mut rule = vec![self.destination(ADDRESS)];
        rule.extend(self.transport());
        rule
    }

    /// Loads the front that stands for all addresses of the node.
    fn node_front(self) -> Rule {
        let mut rule =
            vec![Expression::Load { to: ADDRESS, value: vec![0; self.words as usize * 4] }];
        rule.extend(self.transport());
        rule
    }

    /// Loads the front of packets for one of the node's addresses.
    fn for_node(self) -> Rule {
        let mut rule = vec![self.destination(ADDRESS), within("node-ips", ADDRESS)];
        rule.extend(self.node_front());
        rule
    }

    /// Loads the front of a packet, which is one of the node's ports or not.
    fn any_front(self, node: bool) -> Rule {
        if node { self.node_front() } else { self.front() }
    }

    fn find_host_port(self) -> Expression {
        let found = Found::Register(self.backend());
        Expression::Lookup { set: "host-ports".to_owned(), key: ADDRESS, found }
    }

    fn nat(self) -> Expression {
        let (address, port) = (self.backend(), self.backend_port());
        Expression::DestinationNat { family: self.family, address, port }
    }

    /// Goes on if the address in the range, or not in it.
    fn compare(self, load: Expression, range: Range, equal: bool) -> Rule {
        let value = octets(range.first());
        let xor = vec![0; value.len()];
        vec![
            load,
            Expression::Bitwise { register: ADDRESS, mask: range.mask(), xor },
            Expression::Compare { register: ADDRESS, equal, value },
        ]
    }

    fn from(self, range: Range, equal: bool) -> Rule {
        self.compare(self.source(ADDRESS), range, equal)
    }

    fn to(self, range: Range, equal: bool) -> Rule {
        self.compare(self.destination(ADDRESS), range, equal)
    }

    fn not_to(self, address: IpAddr) -> Rule {
        let compare =
            Expression::Compare { register: ADDRESS, equal: false, value: octets(address) };
        vec![self.destination(ADDRESS), compare]
    }
}

/// The address of the packet that is looked at.
const ADDRESS: Register = Register(0);

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn within(set: &str, key: Register) -> Expression {
    Expression::Lookup { set: set.to_owned(), key, found: Found::Nothing }
}

fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.to_owned()))
}

fn jump(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(chain.to_owned()))
}

fn equals(register: Register, value: u32) -> Expression {
    Expression::Compare { register, equal: true, value: value.to_ne_bytes().to_vec() }
}

fn bits(register: Register, mask: u32, xor: u32) -> Expression {
    let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
    Expression::Bitwise { register, mask, xor }
}

/// Asks for masquerading.
fn mark() -> Rule {
    vec![
        Expression::Mark { to: ADDRESS },
        bits(ADDRESS, !MASQUERADE_BIT, MASQUERADE_BIT),
        Expression::SetMark { from: ADDRESS },
    ]
}

fn is_local(of: AddressType) -> Rule {
    vec![Expression::AddressType { of, to: ADDRESS }, equals(ADDRESS, LOCAL_ADDRESS)]
}

/// A chain that sees packets by itself.
pub(crate) struct BaseChain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
}

/// Packets from pods and from outside pass before routing, those of the node's processes on their way out.
pub(crate) fn base() -> [BaseChain; 7] {
    let chain =
        |name, kind, number, priority| BaseChain { name, hook: Hook { kind, number, priority } };
    [
        chain("firewall-prerouting", "filter", PRE_ROUTING, PRIORITY_FIREWALL),
        chain("firewall-output", "filter", LOCAL_OUT, PRIORITY_FIREWALL),
        chain("nat-prerouting", "nat", PRE_ROUTING, PRIORITY_DESTINATION_NAT),
        chain("nat-output", "nat", LOCAL_OUT, PRIORITY_DESTINATION_NAT),
        chain("nat-postrouting", "nat", POST_ROUTING, PRIORITY_SOURCE_NAT),
        chain("filter-prerouting", "filter", PRE_ROUTING, PRIORITY_REFUSE),
        chain("filter-output", "filter", LOCAL_OUT, PRIORITY_REFUSE),
    ]
}

/// The rules of the chains that always exist.
pub(crate) fn fixed(node: &Node) -> Vec<(String, Vec<Rule>)> {
    let layout = Layout::new(node.family);
    let mut firewall = layout.front();
    let found = Found::Verdict;
    firewall.push(Expression::Lookup { set: "firewall".to_owned(), key: ADDRESS, found });
    // What has been led on goes to an endpoint, which may be at an address and port of some other Service.
    let new = vec![
        Expression::Connection { what: Connection::State, to: ADDRESS },
        bits(ADDRESS, STATE_NEW, 0),
        equals(ADDRESS, STATE_NEW),
        Expression::Connection { what: Connection::Status, to: ADDRESS },
        bits(ADDRESS, STATUS_DESTINATION_NAT, 0),
        equals(ADDRESS, 0),
        jump("check"),
    ];
    let named = [
        ("firewall-prerouting", vec![firewall.clone()]),
        ("firewall-output", vec![firewall]),
        ("nat-prerouting", vec![vec![jump("lead")]]),
        ("nat-output", vec![vec![jump("lead")]]),
        ("nat-postrouting", postrouting(layout)),
        ("filter-prerouting", vec![new.clone()]),
        ("filter-output", vec![new]),
        ("lead", lead(layout, node)),
        (lead_name(false), vec![]),
        (lead_name(true), vec![]),
        ("check", check(layout, node)),
        ("reject", reject(layout)),
    ];
    let named = named.into_iter().map(|(name, rules)| (name.to_owned(), rules));
    named.chain(Pick::ready().map(|it| (it.chain(), pick(it, node.family)))).collect()
}

/// Services by address, then Services by the node's port, then host ports.
fn lead(layout: Layout, node: &Node) -> Vec<Rule> {
    let affine = || {
        let (set, found) = ("affine".to_owned(), Found::Verdict);
        Expression::Lookup { set, key: ADDRESS, found }
    };
    let mut by_address = layout.front();
    by_address.push(affine());
    let mut by_port = layout.for_node();
    by_port.push(affine());
    let node_kinds =
        vec![layout.destination(ADDRESS), within("node-ips", ADDRESS), jump(lead_name(true))];
    let mut host_address = layout.front();
    host_address.extend([layout.find_host_port(), layout.nat()]);
    let mut host_port = is_local(AddressType::Destination);
    host_port.extend(layout.to(loopback(layout.family), false));
    host_port.extend(layout.not_to(node.cluster_dns));
    host_port.extend(layout.node_front());
    host_port.extend([layout.find_host_port(), layout.nat()]);
    let address_kinds = vec![jump(lead_name(false))];
    vec![address_kinds, by_address, node_kinds, by_port, host_address, host_port]
}

/// The chain that looks for the front among those of all kinds.
pub(crate) fn lead_name(node: bool) -> &'static str {
    if node { "lead-node" } else { "lead-address" }
}

/// Its rules, one for each kind.
pub(crate) fn lead_kinds(kinds: &[Kind], family: Family) -> Vec<Rule> {
    let layout = Layout::new(family);
    let rule = |kind: &Kind| {
        let set = kind.set()?;
        let mut rule = layout.any_front(kind.node);
        rule.extend([within(&set, ADDRESS), goto(&kind.chain())]);
        Some(rule)
    };
    kinds.iter().filter_map(rule).collect()
}

/// Packets of the loopback interface cannot leave the node under another address.
fn loopback(family: Family) -> Range {
    match family {
        Family::V4 => Range::new(IpAddr::from([127, 0, 0, 0]), 8),
        Family::V6 => Range::new(IpAddr::from(1_u128.to_be_bytes()), 128),
    }
}

/// Refuses what has been led nowhere.
fn check(layout: Layout, node: &Node) -> Vec<Rule> {
    let fronts = [layout.front(), layout.for_node()];
    let refuse = |front: &Rule, set: &str, verdict: Expression| {
        let mut rule = front.clone();
        rule.extend([within(set, ADDRESS), verdict]);
        rule
    };
    let mut rules: Vec<Rule> = Vec::new();
    for front in &fronts {
        rules.push(refuse(front, "refused", goto("reject")));
        rules.push(refuse(front, "dropped", Expression::Verdict(Verdict::Drop)));
    }
    // Met a change halfway, and is tried again by its sender.
    let mut halfway = vec![layout.destination(ADDRESS), within("cluster-ips", ADDRESS)];
    halfway.extend(layout.transport());
    halfway.extend([within("services", ADDRESS), Expression::Verdict(Verdict::Drop)]);
    let no_such_port =
        vec![layout.destination(ADDRESS), within("cluster-ips", ADDRESS), goto("reject")];
    let mut unallocated = layout.not_to(node.cluster_dns);
    unallocated.extend(layout.to(node.service_cidr, true));
    unallocated.push(Expression::Verdict(Verdict::Drop));
    rules.extend([halfway, no_such_port, unallocated]);
    rules
}

fn reject(layout: Layout) -> Vec<Rule> {
    let family = layout.family;
    let protocol = Expression::Compare { register: ADDRESS, equal: true, value: vec![TCP] };
    vec![
        vec![
            Expression::Protocol { to: ADDRESS },
            protocol,
            Expression::Refuse { family, how: Refusal::TcpReset },
        ],
        vec![Expression::Refuse { family, how: Refusal::PortUnreachable }],
    ]
}

fn postrouting(layout: Layout) -> Vec<Rule> {
    let marked = vec![
        Expression::Mark { to: ADDRESS },
        bits(ADDRESS, MASQUERADE_BIT, 0),
        equals(ADDRESS, MASQUERADE_BIT),
        Expression::Mark { to: ADDRESS },
        bits(ADDRESS, !MASQUERADE_BIT, 0),
        Expression::SetMark { from: ADDRESS },
        Expression::Masquerade,
    ];
    let hairpin = vec![
        Expression::Connection { what: Connection::Status, to: ADDRESS },
        bits(ADDRESS, STATUS_DESTINATION_NAT, 0),
        equals(ADDRESS, STATUS_DESTINATION_NAT),
        layout.source(ADDRESS),
        layout.destination(Register(layout.words)),
        within("hairpin", ADDRESS),
        Expression::Masquerade,
    ];
    vec![marked, hairpin]
}

/// The chain of a kind: masquerading, then the choice of an endpoint.
pub(crate) fn kind(kind: Kind, node: &Node) -> Vec<Rule> {
    let layout = Layout::new(node.family);
    let choose = |local: bool| {
        let chain = kind.choice(local).map(Choice::chain);
        chain.map(|chain| vec![goto(&chain)]).unwrap_or_default()
    };
    let marked_unless_from_cluster = || {
        let mut rule =
            if node.masquerade_all { vec![] } else { layout.from(node.cluster_cidr, false) };
        rule.extend(mark());
        rule
    };
    let rules = match kind.scope {
        Scope::Cluster => vec![marked_unless_from_cluster(), choose(false)],
        Scope::ClusterLocal => vec![marked_unless_from_cluster(), choose(true)],
        Scope::External => vec![mark(), choose(false)],
        Scope::ExternalLocal if kind.any == 0 => vec![choose(true)],
        Scope::ExternalLocal => {
            let mut cluster = layout.from(node.cluster_cidr, true);
            cluster.extend(choose(false));
            let mut own = is_local(AddressType::Source);
            own.extend(mark());
            own.extend(choose(false));
            vec![cluster, own, choose(true)]
        }
    };
    rules.into_iter().filter(|rule| !rule.is_empty()).collect()
}

/// The chain that chooses by chance. What finds nothing has met a change halfway, and is tried again by its sender.
pub(crate) fn pick(pick: Pick, family: Family) -> Vec<Rule> {
    let layout = Layout::new(family);
    let mut rule = layout.any_front(pick.node);
    let offset = if pick.local { LOCAL_SLOT } else { 0 };
    rule.extend([
        Expression::Random { modulus: u32::from(pick.count), offset, to: layout.slot() },
        Expression::Lookup {
            set: "endpoints".to_owned(),
            key: ADDRESS,
            found: Found::Register(layout.backend()),
        },
        layout.nat(),
    ]);
    vec![rule, vec![Expression::Verdict(Verdict::Drop)]]
}

/// The chain that leads clients to the endpoint they had, and others to one by chance. Names are those of the sets.
pub(crate) fn affinity(backends: &[(String, Backend)], family: Family) -> Vec<Rule> {
    let layout = Layout::new(family);
    let lead = |set: &String, (address, port): &Backend| {
        let port = port.to_be_bytes();
        [
            Expression::Update { set: set.clone(), key: ADDRESS },
            Expression::Load { to: layout.backend(), value: octets(*address) },
            Expression::Load { to: layout.backend_port(), value: vec![port[0], port[1], 0, 0] },
            layout.nat(),
        ]
    };
    let known = backends.iter().map(|(set, backend)| {
        let mut rule = vec![layout.source(ADDRESS), within(set, ADDRESS)];
        rule.extend(lead(set, backend));
        rule
    });
    let chance = backends.iter().zip((1..=backends.len()).rev()).map(|((set, backend), left)| {
        let modulus = u32::try_from(left).unwrap_or(u32::MAX);
        let mut rule = match modulus {
            1 => vec![],
            _ => {
                let random = Expression::Random { modulus, offset: 0, to: ADDRESS };
                vec![random, equals(ADDRESS, 0)]
            }
        };
        rule.push(layout.source(ADDRESS));
        rule.extend(lead(set, backend));
        rule
    });
    known.chain(chance).collect()
}

/// The chain that lets only some use a load balancer's address.
pub(crate) fn sources(ranges: &[Range], balancer: IpAddr, node: &Node) -> Vec<Rule> {
    let layout = Layout::new(node.family);
    let mut ranges: Vec<Range> =
        ranges.iter().filter(|it| Family::of(it.first()) == node.family).copied().collect();
    // Packets of the node to an address that is its own come from that address.
    if ranges.iter().any(|range| node.addresses.iter().any(|it| range.contains(*it))) {
        ranges.push(Range::one(balancer));
    }
    let pass = ranges.into_iter().map(|range| {
        let mut rule = layout.from(range, true);
        rule.push(Expression::Verdict(Verdict::Return));
        rule
    });
    pass.chain([vec![Expression::Verdict(Verdict::Drop)]]).collect()
}
