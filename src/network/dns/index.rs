//! The cluster's names: Services with their slices by namespace and name, and the addresses that have a name.
//!
//! Shares the objects with the caches they come from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;

use crate::inputs::{Service, Slice};

/// Services, and slices, held at most. What does not fit makes lookups fail instead of deny.
const OBJECTS_MAX: usize = 100_000;

/// A Service with its slices; either may come first.
#[derive(Default)]
pub(crate) struct Entry {
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) slices: Vec<Arc<Slice>>,
}

/// Namespace and name.
pub(crate) type Key<'a> = (&'a str, &'a str);

/// All that lookups know.
pub(crate) struct Index {
    /// The cluster's domain, in lower case.
    pub(crate) zone: Name,
    pub(crate) ttl: u32,
    /// The addresses of the zone's name server, which is this one.
    pub(crate) servers: Vec<IpAddr>,
    /// The highest revision seen.
    pub(crate) serial: u64,
    services_complete: bool,
    slices_complete: bool,
    services: usize,
    slices: usize,
    names: HashMap<Box<str>, HashMap<Box<str>, Entry>>,
    cluster_addresses: HashMap<IpAddr, Arc<Service>>,
    /// Slices that give the address a hostname.
    named_addresses: HashMap<IpAddr, Vec<Arc<Slice>>>,
}

impl Index {
    pub(crate) fn new(zone: Name, ttl: u32, servers: Vec<IpAddr>) -> Self {
        Self {
            zone,
            ttl,
            servers,
            serial: 0,
            services_complete: false,
            slices_complete: false,
            services: 0,
            slices: 0,
            names: HashMap::new(),
            cluster_addresses: HashMap::new(),
            named_addresses: HashMap::new(),
        }
    }

    /// Whether a name that is not here does not exist.
    pub(crate) fn is_complete(&self) -> bool {
        self.services_complete && self.slices_complete
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.names.contains_key(namespace)
    }

    pub(crate) fn entry(&self, (namespace, name): Key<'_>) -> Option<&Entry> {
        self.names.get(namespace)?.get(name)
    }

    pub(crate) fn cluster_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.cluster_addresses.get(&address)
    }

    pub(crate) fn named_address(&self, address: IpAddr) -> &[Arc<Slice>] {
        self.named_addresses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Replaces all Services.
    pub(crate) fn reset_services(&mut self, services: Vec<Arc<Service>>) {
        self.names.retain(|_, entries| {
            entries.retain(|_, entry| {
                entry.service = None;
                !entry.slices.is_empty()
            });
            !entries.is_empty()
        });
        self.cluster_addresses = HashMap::new();
        self.services = 0;
        self.services_complete = true;
        for service in services {
            self.add_service(service);
        }
    }

    /// Replaces all slices.
    pub(crate) fn reset_slices(&mut self, slices: Vec<Arc<Slice>>) {
        self.names.retain(|_, entries| {
            entries.retain(|_, entry| {
                entry.slices = Vec::new();
                entry.service.is_some()
            });
            !entries.is_empty()
        });
        self.named_addresses = HashMap::new();
        self.slices = 0;
        self.slices_complete = true;
        for slice in slices {
            self.add_slice(slice);
        }
    }

    /// Stores a Service, or removes it when there is no `new`.
    pub(crate) fn change_service(&mut self, key: Key<'_>, new: Option<Arc<Service>>) {
        let entry = self.names.get_mut(key.0).and_then(|entries| entries.get_mut(key.1));
        if let Some(old) = entry.and_then(|entry| entry.service.take()) {
            self.services -= 1;
            for address in &old.addresses {
                if self.cluster_addresses.get(address).is_some_and(|held| Arc::ptr_eq(held, &old)) {
                    self.cluster_addresses.remove(address);
                }
            }
        }
        match new {
            Some(service) => self.add_service(service),
            None => self.forget_empty(key),
        }
    }

    /// Stores a slice in place of `old`, or removes that.
    pub(crate) fn change_slice(&mut self, old: Option<&Slice>, new: Option<Arc<Slice>>) {
        if let Some(old) = old {
            self.remove_slice(old);
        }
        if let Some(slice) = new {
            self.remove_slice(&slice);
            self.add_slice(slice);
        }
    }

    fn add_service(&mut self, service: Arc<Service>) {
        if self.services >= OBJECTS_MAX {
            self.services_complete = false;
            return;
        }
        self.saw(&service.metadata.resource_version);
        for address in &service.addresses {
            self.cluster_addresses.insert(*address, service.clone());
        }
        let (namespace, name) = key(&service.metadata.namespace, &service.metadata.name);
        let entry = place(&mut self.names, (namespace, name));
        if entry.service.replace(service.clone()).is_none() {
            self.services += 1;
        }
    }

    fn add_slice(&mut self, slice: Arc<Slice>) {
        if self.slices >= OBJECTS_MAX {
            self.slices_complete = false;
            return;
        }
        self.saw(&slice.metadata.resource_version);
        if slice.service.is_empty() {
            return;
        }
        for address in named(&slice) {
            let slices = self.named_addresses.entry(address).or_default();
            if !slices.iter().any(|held| Arc::ptr_eq(held, &slice)) {
                slices.push(slice.clone());
            }
        }
        let (namespace, _) = key(&slice.metadata.namespace, &None);
        place(&mut self.names, (namespace, &slice.service)).slices.push(slice.clone());
        self.slices += 1;
    }

    /// Removes the slice of that name from the Service that `slice` names.
    fn remove_slice(&mut self, slice: &Slice) {
        let (namespace, name) = key(&slice.metadata.namespace, &slice.metadata.name);
        let key = (namespace, &*slice.service);
        let entry = self.names.get_mut(key.0).and_then(|entries| entries.get_mut(key.1));
        let Some(slices) = entry.map(|entry| &mut entry.slices) else { return };
        let position = slices.iter().position(|held| held.metadata.name.as_deref() == Some(name));
        let Some(held) = position.map(|position| slices.swap_remove(position)) else { return };
        self.slices -= 1;
        for address in named(&held) {
            if let Some(slices) = self.named_addresses.get_mut(&address) {
                slices.retain(|other| !Arc::ptr_eq(other, &held));
                if slices.is_empty() {
                    self.named_addresses.remove(&address);
                }
            }
        }
        self.forget_empty(key);
    }

    fn forget_empty(&mut self, (namespace, name): Key<'_>) {
        let Some(entries) = self.names.get_mut(namespace) else { return };
        if entries.get(name).is_some_and(|it| it.service.is_none() && it.slices.is_empty()) {
            entries.remove(name);
        }
        if entries.is_empty() {
            self.names.remove(namespace);
        }
    }

    fn saw(&mut self, revision: &Option<String>) {
        let revision = revision.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        self.serial = self.serial.max(revision);
    }
}

pub(crate) fn key<'a>(namespace: &'a Option<String>, name: &'a Option<String>) -> Key<'a> {
    (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default())
}

/// The addresses of a slice that have a hostname.
fn named(slice: &Slice) -> impl Iterator<Item = IpAddr> {
    let endpoints = slice.endpoints.iter().filter(|endpoint| endpoint.hostname.is_some());
    endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied())
}

fn place<'a>(
    names: &'a mut HashMap<Box<str>, HashMap<Box<str>, Entry>>,
    (namespace, name): Key<'_>,
) -> &'a mut Entry {
    names.entry(namespace.into()).or_default().entry(name.into()).or_default()
}
