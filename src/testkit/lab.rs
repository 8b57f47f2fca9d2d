//! Several machines on one network: a bridge in a namespace of its own, and routers that translate addresses.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::holder::Holder;
use crate::machine::Machine;

/// The network's own address, the machines' default route; a server of "the world outside" may listen on it.
pub const OUTSIDE: &str = "192.168.77.1";

/// The first machine of a network has this host number.
const FIRST_HOST: u32 = 2;
/// Routers are numbered down from here.
const FIRST_ROUTER: u32 = 250;

/// A place to plug machines into.
pub(crate) struct Switch {
    holder: Holder,
    ports: AtomicU32,
}

impl Switch {
    fn new(gateway: &str) -> Arc<Switch> {
        let script = format!(
            "ip link set lo up && ip link add lan type bridge && ip addr add {gateway}/24 dev lan && ip link set lan up"
        );
        Arc::new(Switch { holder: Holder::new(&["--net"], &script), ports: AtomicU32::new(0) })
    }

    /// Gives the namespace a link `eth0`-like of this name on the network.
    pub(crate) fn plug(
        &self,
        holder: &Holder,
        link: &str,
        hardware: &str,
        address: &str,
        gateway: &str,
    ) {
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        let (switch, pid) = (self.holder.init().to_string(), holder.init().to_string());
        let pair = [
            "link", "add", &port, "netns", &switch, "type", "veth", "peer", "name", link, "netns",
            &pid,
        ];
        let status = Command::new("ip").args(pair).status().expect("ip, from iproute2");
        assert!(status.success(), "ip {}: {status}", pair.join(" "));
        self.holder.network(&format!("ip link set {port} master lan up"));
        holder.network(&format!(
            "ip link set lo up && ip link set {link} address {hardware} && ip addr add {address}/24 dev {link} && ip link set {link} up && ip route replace default via {gateway}"
        ));
    }
}

/// A hardware address; a board keeps it while its power is off, and its neighbours remember it.
fn hardware(address: &str) -> String {
    let bytes: Vec<String> =
        address.split('.').map(|b| format!("{:02x}", b.parse::<u8>().expect("IPv4"))).collect();
    format!("02:00:{}", bytes.join(":"))
}

/// The network. Machines may outlive it; what connects them lives as long as one of them.
pub struct Lab {
    lan: Arc<Switch>,
    routers: Vec<Arc<Router>>,
    hosts: u32,
}

/// A router that hides the network behind it.
pub(crate) struct Router {
    _holder: Holder,
    inner: Arc<Switch>,
    gateway: String,
}

/// Where a machine is plugged in, again after each power cycle.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) switch: Arc<Switch>,
    pub(crate) gateway: String,
    pub(crate) hardware: String,
    /// Kept alive for the machine's sake.
    pub(crate) _router: Option<Arc<Router>>,
}

impl Default for Lab {
    fn default() -> Self {
        Lab { lan: Switch::new(OUTSIDE), routers: Vec::new(), hosts: 0 }
    }
}

impl Lab {
    /// A machine on the network, without a node yet.
    pub fn machine(&mut self, name: &str) -> Machine {
        let address = format!("192.168.77.{}", FIRST_HOST + self.hosts);
        self.hosts += 1;
        let wire = Wire {
            switch: self.lan.clone(),
            gateway: OUTSIDE.to_owned(),
            hardware: hardware(&address),
            _router: None,
        };
        Machine::plugged(name, &address, wire)
    }

    /// A machine on a network of its own behind a router: it reaches the others, and none of them reaches it.
    pub fn machine_behind_nat(&mut self, name: &str) -> Machine {
        let number = u32::try_from(self.routers.len()).expect("few routers");
        let router = self.router(number);
        let address = format!("10.99.{number}.2");
        let (switch, gateway) = (router.inner.clone(), router.gateway.clone());
        self.routers.push(router.clone());
        let hardware = hardware(&address);
        Machine::plugged(name, &address, Wire { switch, gateway, hardware, _router: Some(router) })
    }

    fn router(&self, number: u32) -> Arc<Router> {
        let holder = Holder::new(&["--net"], "echo 1 > /proc/sys/net/ipv4/ip_forward");
        let gateway = format!("10.99.{number}.1");
        let inner = Switch::new(&format!("10.99.{number}.254"));
        inner.plug(
            &holder,
            "inside",
            &hardware(&gateway),
            &gateway,
            &format!("10.99.{number}.254"),
        );
        let outer = format!("192.168.77.{}", FIRST_ROUTER - number);
        self.lan.plug(&holder, "outside", &hardware(&outer), &outer, OUTSIDE);
        let rules = [
            "add table ip nat",
            "add chain ip nat post { type nat hook postrouting priority 100; }",
            "add rule ip nat post oifname outside masquerade",
            "add table ip guard",
            "add chain ip guard through { type filter hook forward priority 0; }",
            "add rule ip guard through iifname outside ct state new drop",
        ];
        holder.network(&format!("nft '{}'", rules.join("\n")));
        Arc::new(Router { _holder: holder, inner, gateway })
    }
}

/// What is wrong with a machine's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Packets vanish.
    Drop,
    /// Connections are refused.
    Reject,
    /// Connections are made and kept, and nothing that is said on them arrives.
    Stall,
}

impl Fault {
    pub(crate) fn rules(self) -> String {
        let verdict = match self {
            Fault::Drop => "drop",
            Fault::Reject => "reject with icmpx type admin-prohibited",
            Fault::Stall => "ip length > 64 drop",
        };
        let hook = |name: &str, hook: &str, side: &str| {
            format!(
                "\nadd chain inet fault {name} {{ type filter hook {hook} priority -300; }}\n\
                 add rule inet fault {name} {side} eth0 {verdict}"
            )
        };
        let (input, output, forward) = (
            hook("in", "input", "iifname"),
            hook("out", "output", "oifname"),
            hook("through", "forward", "oifname"),
        );
        format!("add table inet fault{input}{output}{forward}")
    }
}
