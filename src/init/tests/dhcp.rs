//! A made-up server plays with the client.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};

use crate::dhcp::{Action, Client, Lease};
use crate::link::parse_mac;
use crate::settings::Dns;
use crate::told::Told;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// What the server says to a request, with a lease of an hour.
fn reply(request: &Message, kind: MessageType) -> Message {
    let mut message = Message::default();
    message
        .set_opcode(Opcode::BootReply)
        .set_xid(request.xid())
        .set_chaddr(&MAC)
        .set_yiaddr(ADDRESS);
    for option in [
        DhcpOption::MessageType(kind),
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::Router(vec![SERVER]),
        DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 0, 2, 3)]),
        DhcpOption::DomainName("home.arpa".to_owned()),
    ] {
        message.opts_mut().insert(option);
    }
    message
}

fn sent(actions: Vec<Action>) -> (Ipv4Addr, Message) {
    match actions.as_slice() {
        [Action::Send(target, message)] => (*target, (**message).clone()),
        other => panic!("expected one packet, got {other:?}"),
    }
}

/// A client that has its lease since `now`.
fn bound(now: Instant) -> (Client, Lease) {
    let mut client = Client::new(MAC, "board", 41, now);
    let (target, discover) = sent(client.on_time(now));
    assert_eq!((target, discover.xid()), (Ipv4Addr::BROADCAST, 42));
    assert!(discover.opts().has_msg_type(MessageType::Discover));
    let (_, request) = sent(client.on_packet(&reply(&discover, MessageType::Offer), now));
    let wanted = request.opts().get(OptionCode::RequestedIpAddress);
    assert_eq!(wanted, Some(&DhcpOption::RequestedIpAddress(ADDRESS)));
    let actions = client.on_packet(&reply(&request, MessageType::Ack), now);
    let [Action::Configure(lease)] = actions.as_slice() else { panic!("no lease: {actions:?}") };
    (client, lease.clone())
}

#[test]
fn an_offer_becomes_a_lease() {
    let now = Instant::now();
    let (client, lease) = bound(now);
    assert_eq!((lease.address, lease.prefix, lease.router), (ADDRESS, 24, Some(SERVER)));
    assert_eq!(client.due(), now + Duration::from_secs(1800));
    assert_eq!(resolv_conf(Dns::default(), &[&lease]), "search home.arpa\nnameserver 10.0.2.3\n");
}

/// The file for the leases of several interfaces.
fn resolv_conf(own: Dns, leases: &[&Lease]) -> String {
    let mut told = Told::new(own, leases.len());
    for (number, lease) in leases.iter().enumerate() {
        told.note(number, Some((*lease).clone()));
    }
    told.resolv_conf()
}

#[test]
fn what_several_networks_say_is_joined_and_the_owner_comes_first() {
    let (_, lease) = bound(Instant::now());
    let other =
        Lease { name_servers: vec![ADDRESS], domain: Some("lan".to_owned()), ..lease.clone() };
    let joined = "search home.arpa lan\nnameserver 10.0.2.3\nnameserver 10.0.2.15\n";
    assert_eq!(resolv_conf(Dns::default(), &[&lease, &other, &lease]), joined);
    let own = Dns { servers: vec!["9.9.9.9".parse().unwrap()], search: vec!["own".to_owned()] };
    assert_eq!(resolv_conf(own, &[&lease]), "search own\nnameserver 9.9.9.9\n");
}

#[test]
fn a_lease_is_renewed_then_rebound_then_given_up() {
    let now = Instant::now();
    let (mut client, _) = bound(now);
    assert!(client.on_time(now + Duration::from_secs(1799)).is_empty());
    let (target, renewal) = sent(client.on_time(now + Duration::from_secs(1800)));
    assert_eq!((target, renewal.ciaddr()), (SERVER, ADDRESS));
    let (target, _) = sent(client.on_time(now + Duration::from_secs(3150)));
    assert_eq!(target, Ipv4Addr::BROADCAST);
    assert_eq!(client.on_time(now + Duration::from_secs(3600)), [Action::Withdraw(ADDRESS)]);
    let (_, message) = sent(client.on_time(now + Duration::from_secs(3600)));
    assert!(message.opts().has_msg_type(MessageType::Discover));
}

#[test]
fn a_renewed_lease_counts_from_the_renewal() {
    let now = Instant::now();
    let (mut client, _) = bound(now);
    let later = now + Duration::from_secs(1800);
    let (_, renewal) = sent(client.on_time(later));
    let actions = client.on_packet(&reply(&renewal, MessageType::Ack), later);
    assert!(matches!(actions.as_slice(), [Action::Configure(_)]));
    assert_eq!(client.due(), later + Duration::from_secs(1800));
}

#[test]
fn any_server_may_rebind() {
    let now = Instant::now();
    let (mut client, _) = bound(now);
    let (_, rebind) = sent(client.on_time(now + Duration::from_secs(3200)));
    let mut ack = reply(&rebind, MessageType::Ack);
    ack.opts_mut().insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 2, 9)));
    assert!(matches!(client.on_packet(&ack, now).as_slice(), [Action::Configure(_)]));
}

#[test]
fn a_refusal_starts_over() {
    let now = Instant::now();
    let (mut client, _) = bound(now);
    let (_, renewal) = sent(client.on_time(now + Duration::from_secs(1800)));
    let actions = client.on_packet(&reply(&renewal, MessageType::Nak), now);
    assert_eq!(actions, [Action::Withdraw(ADDRESS)]);
}

#[test]
fn a_lease_is_confirmed_when_the_link_comes_back() {
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    let asked = || {
        let (mut client, _) = bound(now);
        let (target, request) = sent(client.on_carrier(later));
        let options = request.opts();
        let wanted = options.get(OptionCode::RequestedIpAddress);
        assert_eq!(wanted, Some(&DhcpOption::RequestedIpAddress(ADDRESS)));
        assert_eq!(options.get(OptionCode::ServerIdentifier), None);
        assert_eq!((target, request.ciaddr()), (Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED));
        assert!(options.has_msg_type(MessageType::Request));
        (client, request)
    };
    let (mut client, request) = asked();
    let actions = client.on_packet(&reply(&request, MessageType::Ack), later);
    assert!(matches!(actions.as_slice(), [Action::Configure(_)]));
    assert_eq!(client.due(), later + Duration::from_secs(1800));
    let (mut client, request) = asked();
    let actions = client.on_packet(&reply(&request, MessageType::Nak), later);
    assert_eq!(actions, [Action::Withdraw(ADDRESS)]);
    let (_, discover) = sent(client.on_time(client.due()));
    assert!(discover.opts().has_msg_type(MessageType::Discover));
    // Without an answer the lease is what it was.
    let (mut client, _) = asked();
    for _ in 0..3 {
        sent(client.on_time(client.due()));
    }
    assert!(client.on_time(client.due()).is_empty());
    assert_eq!(client.due(), now + Duration::from_secs(1800));
}

#[test]
fn a_search_begins_anew_when_the_link_comes_up() {
    let mut now = Instant::now();
    let mut client = Client::new(MAC, "board", 1, now);
    for _ in 0..6 {
        now = client.due();
        sent(client.on_time(now));
    }
    assert_eq!(client.due(), now + Duration::from_secs(32));
    let (_, discover) = sent(client.on_carrier(now));
    assert!(discover.opts().has_msg_type(MessageType::Discover));
    assert_eq!(client.due(), now + Duration::from_secs(2));
    client.on_packet(&reply(&discover, MessageType::Offer), now);
    let (_, discover) = sent(client.on_carrier(now));
    assert!(discover.opts().has_msg_type(MessageType::Discover));
}

#[test]
fn strangers_and_nonsense_are_ignored() {
    let now = Instant::now();
    let mut client = Client::new(MAC, "board", 1, now);
    let (_, discover) = sent(client.on_time(now));
    let mut other_mac = reply(&discover, MessageType::Offer);
    other_mac.set_chaddr(&[1, 2, 3, 4, 5, 6]);
    let mut other_transaction = reply(&discover, MessageType::Offer);
    other_transaction.set_xid(99);
    let mut no_address = reply(&discover, MessageType::Offer);
    no_address.set_yiaddr(Ipv4Addr::UNSPECIFIED);
    let mut torn_mask = reply(&discover, MessageType::Offer);
    torn_mask.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 255, 0)));
    let early = reply(&discover, MessageType::Ack);
    for message in [other_mac, other_transaction, no_address, torn_mask, early] {
        assert!(client.on_packet(&message, now).is_empty(), "{message:?}");
    }
}

#[test]
fn unanswered_requests_back_off_and_start_over() {
    let mut now = Instant::now();
    let mut client = Client::new(MAC, "board", 1, now);
    let (_, discover) = sent(client.on_time(now));
    client.on_packet(&reply(&discover, MessageType::Offer), now);
    let mut kinds = Vec::new();
    for _ in 0..5 {
        now = client.due();
        let (_, message) = sent(client.on_time(now));
        kinds.extend(message.opts().msg_type());
    }
    use MessageType::{Discover, Request};
    assert_eq!(kinds, [Request, Request, Request, Discover, Discover]);
}

#[test]
fn a_domain_cannot_smuggle_lines_into_resolv_conf() {
    let now = Instant::now();
    let mut client = Client::new(MAC, "board", 1, now);
    let (_, discover) = sent(client.on_time(now));
    let (_, request) = sent(client.on_packet(&reply(&discover, MessageType::Offer), now));
    let mut ack = reply(&request, MessageType::Ack);
    ack.opts_mut().insert(DhcpOption::DomainName("x\nnameserver 6.6.6.6".to_owned()));
    let actions = client.on_packet(&ack, now);
    let [Action::Configure(lease)] = actions.as_slice() else { panic!("no lease") };
    assert_eq!(lease.domain, None);
}

#[test]
fn ethernet_addresses_are_read() {
    assert_eq!(parse_mac("52:54:00:00:00:01\n"), Some(MAC));
    assert_eq!(parse_mac("00:00"), None);
    assert_eq!(parse_mac("zz:54:00:00:00:01"), None);
}
