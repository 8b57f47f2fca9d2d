//! A DHCP client as a state machine: packets and time go in, packets and leases come out. No sockets here.
//!
//! `Selecting -> Requesting -> Bound -> Renewing -> Rebinding -> Selecting`; a refusal starts over from the front. After
//! the link was down, a lease is confirmed first (RFC 2131, 3.2): it may have come up in another network.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, DhcpOptions, Flags, Message, MessageType, Opcode, OptionCode};

const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(32);
/// A REQUEST is repeated this often before we start over.
const REQUESTS_MAX: u32 = 4;
/// Renewals are repeated after half of the time left, but not faster than this.
const RENEW_STEP_MIN: Duration = Duration::from_secs(10);
const LEASE_MIN: Duration = Duration::from_secs(60);
const SERVERS_MAX: usize = 4;

/// What a server granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) name_servers: Vec<Ipv4Addr>,
    pub(crate) domain: Option<String>,
    pub(crate) time_servers: Vec<Ipv4Addr>,
    pub(crate) server: Ipv4Addr,
    pub(crate) duration: Duration,
    pub(crate) renew: Duration,
    pub(crate) rebind: Duration,
}

/// What the shell around the machine is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send to this address, port 67.
    Send(Ipv4Addr, Box<Message>),
    Configure(Lease),
    /// The address may not be used any more.
    Withdraw(Ipv4Addr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Selecting {
        tries: u32,
    },
    Requesting {
        offer: Lease,
        tries: u32,
    },
    Bound {
        lease: Lease,
        since: Instant,
    },
    /// Asking whether a lease holds where the link is now.
    Confirming {
        lease: Lease,
        since: Instant,
        tries: u32,
    },
    /// Asking for more time: the server itself at first, later anyone.
    Extending {
        lease: Lease,
        since: Instant,
        anyone: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Client {
    mac: [u8; 6],
    hostname: String,
    transaction: u32,
    state: State,
    due: Instant,
}

impl Client {
    /// `seed` should differ between boards and starts.
    pub(crate) fn new(mac: [u8; 6], hostname: &str, seed: u32, now: Instant) -> Client {
        let hostname = hostname.to_owned();
        Client { mac, hostname, transaction: seed, state: State::Selecting { tries: 0 }, due: now }
    }

    /// When [`Client::on_time`] wants to be called.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    pub(crate) fn on_time(&mut self, now: Instant) -> Vec<Action> {
        if now < self.due {
            return Vec::new();
        }
        match self.state.clone() {
            State::Selecting { tries } => self.discover(tries, now),
            State::Requesting { tries, .. } if tries >= REQUESTS_MAX => self.discover(0, now),
            State::Requesting { offer, tries } => self.request(offer, tries, now),
            State::Bound { lease, since } => self.extend(lease, since, now),
            // Nobody objects, so it may be used on.
            State::Confirming { lease, since, tries } if tries >= REQUESTS_MAX => {
                self.due = (since + lease.renew).max(now);
                self.state = State::Bound { lease, since };
                Vec::new()
            }
            State::Confirming { lease, since, tries } => self.confirm(lease, since, tries, now),
            State::Extending { lease, since, .. } => self.extend(lease, since, now),
        }
    }

    /// The link has come up.
    pub(crate) fn on_carrier(&mut self, now: Instant) -> Vec<Action> {
        match self.state.clone() {
            State::Selecting { .. } | State::Requesting { .. } => self.discover(0, now),
            State::Bound { lease, since }
            | State::Confirming { lease, since, .. }
            | State::Extending { lease, since, .. } => self.confirm(lease, since, 0, now),
        }
    }

    pub(crate) fn on_packet(&mut self, message: &Message, now: Instant) -> Vec<Action> {
        let ours = message.opcode() == Opcode::BootReply
            && message.xid() == self.transaction
            && message.chaddr().starts_with(&self.mac);
        let Some(kind) = message.opts().msg_type().filter(|_| ours) else { return Vec::new() };
        match (self.state.clone(), kind) {
            (State::Selecting { .. }, MessageType::Offer) => {
                lease(message).map_or_else(Vec::new, |offer| self.request(offer, 0, now))
            }
            (State::Requesting { offer, .. }, MessageType::Ack) => {
                self.bind(message, offer.server, now)
            }
            (State::Extending { lease, .. }, MessageType::Ack) => {
                self.bind(message, lease.server, now)
            }
            (State::Confirming { .. }, MessageType::Ack) => {
                self.bind(message, Ipv4Addr::UNSPECIFIED, now)
            }
            (State::Requesting { .. }, MessageType::Nak) => {
                self.start_over(now);
                Vec::new()
            }
            (
                State::Extending { lease, .. } | State::Confirming { lease, .. },
                MessageType::Nak,
            ) => {
                self.start_over(now);
                vec![Action::Withdraw(lease.address)]
            }
            _ => Vec::new(),
        }
    }

    fn start_over(&mut self, now: Instant) {
        self.state = State::Selecting { tries: 0 };
        self.due = now + FIRST_RETRY;
    }

    fn discover(&mut self, tries: u32, now: Instant) -> Vec<Action> {
        self.transaction = self.transaction.wrapping_add(1);
        self.state = State::Selecting { tries: tries.saturating_add(1) };
        self.due = now + retry(tries);
        vec![Action::Send(Ipv4Addr::BROADCAST, Box::new(self.message(MessageType::Discover)))]
    }

    fn request(&mut self, offer: Lease, tries: u32, now: Instant) -> Vec<Action> {
        let mut message = self.message(MessageType::Request);
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.address));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(offer.server));
        self.state = State::Requesting { offer, tries: tries.saturating_add(1) };
        self.due = now + retry(tries);
        vec![Action::Send(Ipv4Addr::BROADCAST, Box::new(message))]
    }

    fn confirm(&mut self, lease: Lease, since: Instant, tries: u32, now: Instant) -> Vec<Action> {
        self.transaction = self.transaction.wrapping_add(1);
        let mut message = self.message(MessageType::Request);
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(lease.address));
        self.state = State::Confirming { lease, since, tries: tries.saturating_add(1) };
        self.due = now + retry(tries);
        vec![Action::Send(Ipv4Addr::BROADCAST, Box::new(message))]
    }

    fn bind(&mut self, message: &Message, server: Ipv4Addr, now: Instant) -> Vec<Action> {
        let Some(lease) =
            lease(message).filter(|lease| lease.server == server || server.is_unspecified())
        else {
            return Vec::new();
        };
        self.due = now + lease.renew;
        self.state = State::Bound { lease: lease.clone(), since: now };
        vec![Action::Configure(lease)]
    }

    /// Renews, rebinds or gives the lease up, by the time that is left of it.
    fn extend(&mut self, lease: Lease, since: Instant, now: Instant) -> Vec<Action> {
        let age = now.saturating_duration_since(since);
        if age >= lease.duration {
            self.start_over(now);
            self.due = now;
            return vec![Action::Withdraw(lease.address)];
        }
        let anyone = age >= lease.rebind;
        let next = if anyone { lease.duration } else { lease.rebind };
        let left = next.saturating_sub(age);
        self.due = now + (left / 2).max(RENEW_STEP_MIN).min(left);
        self.transaction = self.transaction.wrapping_add(1);
        let mut message = self.message(MessageType::Request);
        message.set_ciaddr(lease.address);
        message.set_flags(Flags::default());
        let target = if anyone { Ipv4Addr::BROADCAST } else { lease.server };
        let server = if anyone { Ipv4Addr::UNSPECIFIED } else { lease.server };
        self.state = State::Extending { lease: Lease { server, ..lease }, since, anyone };
        vec![Action::Send(target, Box::new(message))]
    }

    fn message(&self, kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_opcode(Opcode::BootRequest).set_xid(self.transaction).set_chaddr(&self.mac);
        // We cannot take unicast before we have an address.
        message.set_flags(Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::Hostname(self.hostname.clone()));
        let identifier = [1].into_iter().chain(self.mac).collect();
        options.insert(DhcpOption::ClientIdentifier(identifier));
        options.insert(DhcpOption::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::DomainName,
            OptionCode::NtpServers,
            OptionCode::AddressLeaseTime,
            OptionCode::Renewal,
            OptionCode::Rebinding,
        ]));
        message
    }
}

fn retry(tries: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << tries.min(8)).min(LONGEST_RETRY)
}

/// Reads an offer or acknowledgement; None when it lacks what makes a lease, or makes no sense.
fn lease(message: &Message) -> Option<Lease> {
    let options = message.opts();
    let address = message.yiaddr();
    let mask = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => u32::from(*mask),
        _ => u32::MAX << 8,
    };
    let prefix = u8::try_from(mask.leading_ones()).ok()?;
    let special = address.is_broadcast() || address.is_loopback() || address.is_multicast();
    if special
        || address.is_unspecified()
        || prefix == 0
        || mask.count_ones() != mask.leading_ones()
    {
        return None;
    }
    let Some(DhcpOption::ServerIdentifier(server)) = options.get(OptionCode::ServerIdentifier)
    else {
        return None;
    };
    let (duration, renew, rebind) = times(options)?;
    let router = match options.get(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => {
            routers.first().copied().filter(|router| !router.is_unspecified())
        }
        _ => None,
    };
    let name_servers = match options.get(OptionCode::DomainNameServer) {
        Some(DhcpOption::DomainNameServer(servers)) => {
            servers.iter().take(SERVERS_MAX).copied().collect()
        }
        _ => Vec::new(),
    };
    let time_servers = match options.get(OptionCode::NtpServers) {
        Some(DhcpOption::NtpServers(servers)) => {
            servers.iter().take(SERVERS_MAX).copied().collect()
        }
        _ => Vec::new(),
    };
    let domain = match options.get(OptionCode::DomainName) {
        Some(DhcpOption::DomainName(name)) => {
            Some(name.trim_end_matches('\0').to_owned()).filter(|name| is_domain(name))
        }
        _ => None,
    };
    Some(Lease {
        address,
        prefix,
        router,
        name_servers,
        domain,
        time_servers,
        server: *server,
        duration,
        renew,
        rebind,
    })
}

/// How long a lease lasts, and when to renew and to rebind it; times that make no sense give way to the usual shares.
fn times(options: &DhcpOptions) -> Option<(Duration, Duration, Duration)> {
    let given = |code| match options.get(code) {
        Some(
            DhcpOption::AddressLeaseTime(seconds)
            | DhcpOption::Renewal(seconds)
            | DhcpOption::Rebinding(seconds),
        ) => Some(Duration::from_secs((*seconds).into())),
        _ => None,
    };
    let duration = given(OptionCode::AddressLeaseTime)?.max(LEASE_MIN);
    let rebind =
        given(OptionCode::Rebinding).filter(|time| *time < duration).unwrap_or(duration / 8 * 7);
    let renew = given(OptionCode::Renewal)
        .filter(|time| *time < rebind)
        .unwrap_or(rebind.min(duration / 2));
    Some((duration, renew, rebind))
}

/// Letters, digits, dots, hyphens: what may stand in resolv.conf without changing its meaning.
pub(crate) fn is_domain(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-')
}
