//! The ports of nodes that lead to a Service, and the one where load balancers ask for its endpoints. Rules of upstream's
//! `pkg/registry/core/service/storage/alloc.go`.

use crate::answer::Result;
use crate::object;
use api::{FieldError, Status};
use schema::service_needs_health_check;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::service::{kind, random};

/// Whether nodes give ports to Services of this type.
pub(super) fn exposes(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

pub(super) fn number(object: &Value, field: &str) -> u64 {
    object.get(field).and_then(Value::as_u64).unwrap_or(0)
}

/// The ports of nodes that a stored Service has.
pub(super) fn ports_of(service: &Value) -> impl Iterator<Item = u16> {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports
        .map(|port| number(port, "nodePort"))
        .chain([number(spec, "healthCheckNodePort")])
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
}

/// The range of node ports, and those that are taken.
pub(super) struct NodePorts<'a> {
    pub(super) range: &'a RangeInclusive<u16>,
    pub(super) taken: BTreeSet<u16>,
}

impl NodePorts<'_> {
    /// Takes a port that was asked for, or says why not.
    fn claim(&mut self, wanted: u64) -> std::result::Result<u16, String> {
        let (start, end) = (self.range.start(), self.range.end());
        match u16::try_from(wanted).ok().filter(|port| self.range.contains(port)) {
            Some(port) if self.taken.insert(port) => Ok(port),
            Some(_) => Err("provided port is already allocated".to_owned()),
            None => Err(format!(
                "provided port is not in the valid range. The range of valid ports is {start}-{end}"
            )),
        }
    }

    /// Takes any port.
    fn any(&mut self, what: &str) -> Result<u16> {
        let size = u32::from(self.range.end() - self.range.start()) + 1;
        let offset = u16::try_from(random(2)? % size).unwrap_or(0);
        let free = (self.range.start() + offset..=*self.range.end())
            .chain(self.range.clone())
            .find(|port| !self.taken.contains(port))
            .ok_or_else(|| Status::internal(format!("failed to allocate {what}: range is full")))?;
        self.taken.insert(free);
        Ok(free)
    }

    /// Gives the ports of a Service what they lack; one number serves a port under several protocols.
    pub(super) fn allocate(
        &mut self,
        service: &mut Value,
        errors: &mut Vec<FieldError>,
    ) -> Result<()> {
        let automatic = kind(service) == "NodePort"
            || service["spec"].get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
        let spec = service.get_mut("spec");
        let Some(ports) = spec.and_then(|s| s.get_mut("ports")).and_then(Value::as_array_mut)
        else {
            return Ok(());
        };
        let mut given = BTreeMap::new();
        for (index, port) in ports.iter().enumerate() {
            let (wanted, port) = (number(port, "nodePort"), number(port, "port"));
            if wanted == 0 || given.get(&port) == Some(&wanted) {
                continue;
            }
            match self.claim(wanted) {
                Ok(_) => drop(given.entry(port).or_insert(wanted)),
                Err(why) => {
                    let field = format!("spec.ports[{index}].nodePort");
                    errors.push(FieldError::invalid(field, wanted, why));
                }
            }
        }
        for port in ports.iter_mut().filter(|port| automatic && number(port, "nodePort") == 0) {
            let node_port = match given.get(&number(port, "port")) {
                Some(shared) => *shared,
                None => u64::from(self.any("a nodePort")?),
            };
            given.insert(number(port, "port"), node_port);
            object::set(port, &["nodePort"], node_port);
        }
        Ok(())
    }

    /// Gives a Service that needs it the port for health checks.
    pub(super) fn allocate_health_check(&mut self, service: &mut Value) -> Result<()> {
        if !service_needs_health_check(&service["spec"]) {
            return Ok(());
        }
        match number(&service["spec"], "healthCheckNodePort") {
            0 => {
                let port = self.any("a HealthCheck NodePort")?;
                object::set(service, &["spec", "healthCheckNodePort"], port);
            }
            wanted => {
                self.claim(wanted).map_err(|why| {
                    let what =
                        format!("failed to allocate requested HealthCheck NodePort {wanted}");
                    Status::internal(format!("{what}: {why}"))
                })?;
            }
        }
        Ok(())
    }
}
