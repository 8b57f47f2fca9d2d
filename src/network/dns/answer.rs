//! The lookup: what the Kubernetes DNS specification 1.1 says about a name, given the index. Pure.
//!
//! Below the zone a name is read from its right end, label by label, as [`Lookup::walk`] shows.

use std::fmt::Write as _;
use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::index::{Entry, Index, Key, key};
use crate::inputs::{Endpoint, Port, Service, Slice};

/// The version of the specification that is served.
const SPECIFICATION: &str = "1.1.0";
/// Records of one answer; a message holds no more than 65535 bytes.
const RECORDS_MAX: usize = 1024;
/// Labels a name may have below the zone: `_port._protocol.service.namespace.svc`.
const LABELS_MAX: usize = 5;
/// Bytes of a name.
const NAME_MAX: usize = 255;
/// What the weights of the records of one SRV answer add up to.
const WEIGHT: usize = 100;
const REFRESH: i32 = 7200;
const RETRY: i32 = 1800;
const EXPIRE: i32 = 86_400;

/// The answer to a question about a name that the cluster owns.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
    /// The name an alias leads to, when the question asks for more than the alias.
    pub(crate) next: Option<Name>,
}

impl Answer {
    pub(crate) fn new(code: ResponseCode) -> Self {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        Self { code, answers, authorities, additionals, next: None }
    }

    /// Lets `turn` choose which address comes first: many clients take just that.
    pub(crate) fn rotate(&mut self, turn: usize) {
        let addresses = |record: &Record| matches!(record.data, RData::A(_) | RData::AAAA(_));
        if self.answers.len() > 1 && self.answers.iter().all(addresses) {
            let length = self.answers.len();
            self.answers.rotate_left(turn % length);
        }
    }
}

/// Answers a question; `None` when the name is not the cluster's.
pub(crate) fn answer(index: &Index, question: &Query) -> Option<Answer> {
    if !index.zone.zone_of(&question.name) {
        return reverse(index, question);
    }
    let mut lookup = Lookup { index, question, answer: Answer::new(ResponseCode::NoError) };
    let below = question.name.num_labels() - index.zone.num_labels();
    let mut buffer = [0; NAME_MAX];
    let mut labels = [""; LABELS_MAX];
    let exists = match split(&question.name, usize::from(below), &mut buffer, &mut labels) {
        Some(labels) => lookup.walk(labels),
        None => false,
    };
    Some(lookup.finish(exists))
}

/// The labels below the zone in lower case, the rightmost first. None: no name of ours looks like this.
fn split<'a>(
    name: &Name,
    count: usize,
    buffer: &'a mut [u8; NAME_MAX],
    labels: &'a mut [&'a str; LABELS_MAX],
) -> Option<&'a [&'a str]> {
    let labels = labels.get_mut(..count)?;
    let mut rest = buffer.as_mut_slice();
    for (label, place) in name.iter().zip(labels.iter_mut().rev()) {
        let (bytes, after) = rest.split_at_mut_checked(label.len())?;
        bytes.copy_from_slice(label);
        bytes.make_ascii_lowercase();
        *place = std::str::from_utf8(bytes).ok()?;
        rest = after;
    }
    Some(labels)
}

/// Answers `…in-addr.arpa` and `…ip6.arpa` of addresses that have a name.
fn reverse(index: &Index, question: &Query) -> Option<Answer> {
    if question.query_type != RecordType::PTR {
        return None;
    }
    let network = question.name.parse_arpa_name().ok()?;
    if network.prefix_len() != network.max_prefix_len() {
        return None;
    }
    let address = network.addr();
    let mut lookup = Lookup { index, question, answer: Answer::new(ResponseCode::NoError) };
    let service = index.cluster_address(address);
    if let Some(name) = service.and_then(|service| service_name(index, metadata_key(service))) {
        lookup.push(RData::PTR(PTR(name)));
    }
    for slice in index.named_address(address) {
        lookup.hostnames_of(slice, address);
    }
    Some(lookup.answer).filter(|answer| !answer.answers.is_empty())
}

struct Lookup<'a> {
    index: &'a Index,
    question: &'a Query,
    answer: Answer,
}

impl<'a> Lookup<'a> {
    /// Collects the records of a name; false when there is no such name.
    fn walk(&mut self, labels: &[&str]) -> bool {
        match *labels {
            [] => self.apex(),
            ["dns-version"] => {
                self.push_if(RecordType::TXT, || {
                    RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))
                });
                true
            }
            ["svc" | "pod" | "dns"] => true,
            ["dns", "ns"] => self.push_addresses(&self.index.servers),
            ["pod", _] => true,
            ["pod", _, address] => self.pod(address),
            ["svc", namespace] => self.index.has_namespace(namespace),
            ["svc", namespace, service] => self.service((namespace, service)),
            ["svc", namespace, service, under] => self.under((namespace, service), under),
            ["svc", namespace, service, protocol, port] => {
                let key = (namespace, service);
                port.strip_prefix('_').is_some_and(|port| self.port(key, protocol, port))
            }
            _ => false,
        }
    }

    /// Adds what an answer without records needs.
    fn finish(mut self, exists: bool) -> Answer {
        let pending = !self.index.is_complete();
        if !exists && pending {
            return Answer::new(ResponseCode::ServFail);
        }
        if !exists {
            self.answer.code = ResponseCode::NXDomain;
        }
        if self.answer.answers.is_empty() {
            let soa = self.soa().map(|soa| self.record(self.index.zone.clone(), soa));
            self.answer.authorities.extend(soa);
        }
        self.answer
    }

    fn apex(&mut self) -> bool {
        let soa = if self.question.query_type == RecordType::SOA { self.soa() } else { None };
        if let Some(soa) = soa {
            self.push(soa);
        }
        if let Some(name) = under(self.index, &["ns", "dns"]) {
            self.push_if(RecordType::NS, || RData::NS(NS(name.clone())));
            if self.question.query_type == RecordType::NS {
                self.glue(&name, &self.index.servers);
            }
        }
        true
    }

    fn soa(&self) -> Option<RData> {
        let server = under(self.index, &["ns", "dns"])?;
        let contact = under(self.index, &["hostmaster"])?;
        // Serial numbers wrap around by design.
        let serial = (self.index.serial & u64::from(u32::MAX)) as u32;
        Some(RData::SOA(SOA::new(server, contact, serial, REFRESH, RETRY, EXPIRE, self.index.ttl)))
    }

    fn pod(&mut self, label: &str) -> bool {
        undashed(label).is_some_and(|address| self.push_addresses(&[address]))
    }

    fn service(&mut self, key: Key<'_>) -> bool {
        let Some((service, entry)) = self.find(key) else { return false };
        if let Some(target) = &service.external {
            return self.alias(target);
        }
        if self.question.query_type == RecordType::SRV {
            self.push_ports(key, service, entry, |_| true);
        }
        if !service.headless {
            return self.push_addresses(&service.addresses);
        }
        let mut exists = false;
        for endpoint in entry.slices.iter().flat_map(|slice| &slice.endpoints) {
            if published(service, endpoint) {
                exists |= self.push_addresses(&endpoint.addresses);
            }
        }
        exists
    }

    /// A name directly under a Service: a backend's, or `_protocol`, which has no records but names below it.
    fn under(&mut self, key: Key<'_>, label: &str) -> bool {
        let Some((service, entry)) = self.find(key) else { return false };
        if label.starts_with('_') {
            return has_port(service, entry, |port| {
                port.protocol == label && !port.name.is_empty()
            });
        }
        if !service.headless {
            return false;
        }
        let address = undashed(label);
        let mut exists = false;
        for endpoint in entry.slices.iter().flat_map(|slice| &slice.endpoints) {
            if !published(service, endpoint) {
                continue;
            }
            match (&endpoint.hostname, address) {
                (Some(hostname), _) if **hostname == *label => {
                    exists |= self.push_addresses(&endpoint.addresses);
                }
                (None, Some(address)) if endpoint.addresses.contains(&address) => {
                    exists |= self.push_addresses(&[address]);
                }
                _ => {}
            }
        }
        exists
    }

    fn port(&mut self, key: Key<'_>, protocol: &str, name: &str) -> bool {
        let Some((service, entry)) = self.find(key) else { return false };
        let wanted =
            |port: &Port| port.protocol == protocol && !port.name.is_empty() && *port.name == *name;
        if self.question.query_type == RecordType::SRV {
            self.push_ports(key, service, entry, wanted);
        }
        has_port(service, entry, wanted)
    }

    fn find(&self, key: Key<'_>) -> Option<(&'a Service, &'a Entry)> {
        let entry = self.index.entry(key)?;
        Some((entry.service.as_deref()?, entry))
    }

    /// Adds an alias. Exists whatever is asked for.
    fn alias(&mut self, target: &str) -> bool {
        let Ok(mut target) = Name::from_ascii(target) else { return true };
        target.set_fqdn(true);
        self.push(RData::CNAME(CNAME(target.clone())));
        if !matches!(self.question.query_type, RecordType::CNAME | RecordType::ANY) {
            self.answer.next = Some(target);
        }
        true
    }

    /// Adds the SRV records of the ports that `wanted` selects, and the addresses they lead to.
    fn push_ports(
        &mut self,
        key: Key<'_>,
        service: &'a Service,
        entry: &'a Entry,
        wanted: impl Fn(&Port) -> bool,
    ) {
        let Some(name) = service_name(self.index, key) else { return };
        if !service.headless {
            for port in service.ports.iter().filter(|port| wanted(port)) {
                self.push(RData::SRV(SRV::new(0, WEIGHT as u16, port.number, name.clone())));
            }
            if !self.answer.answers.is_empty() {
                self.glue(&name, &service.addresses);
            }
            return;
        }
        for slice in &entry.slices {
            let endpoints = slice.endpoints.iter().filter(|endpoint| published(service, endpoint));
            for endpoint in endpoints {
                for (target, addresses) in targets(endpoint, &name) {
                    for port in slice.ports.iter().filter(|port| wanted(port)) {
                        self.push(RData::SRV(SRV::new(0, 0, port.number, target.clone())));
                    }
                    if slice.ports.iter().any(&wanted) {
                        self.glue(&target, addresses);
                    }
                }
            }
        }
        self.share_weight();
    }

    fn share_weight(&mut self) {
        let weight = (WEIGHT / self.answer.answers.len().max(1)).max(1) as u16;
        for record in &mut self.answer.answers {
            if let RData::SRV(srv) = &mut record.data {
                srv.weight = weight;
            }
        }
    }

    /// Adds the names that a slice gives to an address.
    fn hostnames_of(&mut self, slice: &Slice, address: IpAddr) {
        let (namespace, _) = key(&slice.metadata.namespace, &None);
        let key = (namespace, &*slice.service);
        let Some((service, _)) = self.find(key).filter(|(service, _)| service.headless) else {
            return;
        };
        let Some(parent) = service_name(self.index, key) else { return };
        for endpoint in &slice.endpoints {
            if !published(service, endpoint) || !endpoint.addresses.contains(&address) {
                continue;
            }
            let hostname = endpoint.hostname.as_deref();
            if let Some(name) = hostname.and_then(|hostname| child(hostname, &parent)) {
                self.push(RData::PTR(PTR(name)));
            }
        }
    }

    /// Adds the addresses the question asks for. True: the name exists, whether or not it has such addresses.
    fn push_addresses(&mut self, addresses: &[IpAddr]) -> bool {
        for address in addresses {
            let data = address_data(*address);
            let wanted = self.question.query_type;
            if wanted == data.record_type() || wanted == RecordType::ANY {
                self.push(data);
            }
        }
        true
    }

    fn push_if(&mut self, kind: RecordType, data: impl FnOnce() -> RData) {
        let wanted = self.question.query_type;
        if wanted == kind || wanted == RecordType::ANY {
            self.push(data());
        }
    }

    /// Adds a record of the name asked for, once.
    fn push(&mut self, data: RData) {
        let answers = &self.answer.answers;
        if answers.len() < RECORDS_MAX && !answers.iter().any(|record| record.data == data) {
            let record = self.record(self.question.name.clone(), data);
            self.answer.answers.push(record);
        }
    }

    /// Adds the addresses of a name that the answer mentions.
    fn glue(&mut self, name: &Name, addresses: &[IpAddr]) {
        for address in addresses {
            if self.answer.additionals.len() < RECORDS_MAX {
                let record = self.record(name.clone(), address_data(*address));
                self.answer.additionals.push(record);
            }
        }
    }

    fn record(&self, name: Name, data: RData) -> Record {
        Record::from_rdata(name, self.index.ttl, data)
    }
}

fn metadata_key(service: &Service) -> Key<'_> {
    key(&service.metadata.namespace, &service.metadata.name)
}

fn published(service: &Service, endpoint: &Endpoint) -> bool {
    endpoint.ready || service.publish_not_ready
}

/// Whether a Service, or a published backend of a headless one, has such a port.
fn has_port(service: &Service, entry: &Entry, wanted: impl Fn(&Port) -> bool) -> bool {
    if !service.headless {
        return service.ports.iter().any(wanted);
    }
    entry.slices.iter().any(|slice| {
        slice.ports.iter().any(&wanted)
            && slice.endpoints.iter().any(|endpoint| published(service, endpoint))
    })
}

/// The names of a backend: its hostname, or one for each address.
fn targets<'a>(endpoint: &'a Endpoint, parent: &Name) -> Vec<(Name, &'a [IpAddr])> {
    if let Some(hostname) = &endpoint.hostname {
        return child(hostname, parent)
            .map(|name| (name, &*endpoint.addresses))
            .into_iter()
            .collect();
    }
    let addresses = endpoint.addresses.chunks(1);
    addresses
        .filter_map(|address| Some((child(&dashed(*address.first()?), parent)?, address)))
        .collect()
}

fn service_name(index: &Index, (namespace, name): Key<'_>) -> Option<Name> {
    under(index, &[name, namespace, "svc"])
}

/// A name below the zone; None when it would be too long.
fn under(index: &Index, labels: &[&str]) -> Option<Name> {
    let mut name = Name::new();
    for label in labels {
        name = name.append_label(label.as_bytes()).ok()?;
    }
    name.append_domain(&index.zone).ok()
}

fn child(label: &str, parent: &Name) -> Option<Name> {
    Name::new().append_label(label.as_bytes()).ok()?.append_domain(parent).ok()
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// An address as a label: `10-42-0-7`.
fn dashed(address: IpAddr) -> String {
    let mut text = String::with_capacity(40);
    // Writing to a string cannot fail.
    let _ = write!(text, "{address}");
    text.replace(['.', ':'], "-")
}

/// The address that a label spells: four numbers, or an IPv6 address with dashes for colons.
fn undashed(label: &str) -> Option<IpAddr> {
    let spelled = |separator: u8, buffer: &mut [u8; 39]| -> Option<IpAddr> {
        let bytes = buffer.get_mut(..label.len())?;
        for (place, byte) in bytes.iter_mut().zip(label.bytes()) {
            *place = if byte == b'-' { separator } else { byte };
        }
        std::str::from_utf8(bytes).ok()?.parse().ok()
    };
    let mut buffer = [0; 39];
    let v4 = spelled(b'.', &mut buffer).filter(IpAddr::is_ipv4);
    v4.or_else(|| spelled(b':', &mut buffer).filter(IpAddr::is_ipv6))
}
