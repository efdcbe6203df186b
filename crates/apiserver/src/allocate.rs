//! Service addresses and node ports. An address is held by an IPAddress object that is written in the service's own
//! transaction, so that two servers over one store never give the same address twice.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use mainstay_store::{Condition, Key, Op};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::registry::commit::{Goal, canonical};
use crate::registry::meta_text;
use crate::resources::Resource;
use crate::server::Server;
use mainstay_access::hooks::{Operation, Review, World as _};
use mainstay_access::status::{ApiError, ApiResult, Cause};

const SERVICES: &str = "core/services";
const ADDRESSES: &str = "networking.k8s.io/ipaddresses";
/// Held node ports, one entry each; not served.
const PORTS: &str = "core/nodeports";

/// Gives out addresses and ports.
#[derive(Debug)]
pub struct Allocator {
    first: u32,
    size: u32,
    ports: (u16, u16),
    /// Where the next search starts; spreads concurrent creates.
    next: Mutex<u32>,
}

impl Allocator {
    /// Makes an allocator over an IPv4 range such as `10.96.0.0/12`; an unreadable range gives out nothing.
    pub fn new(cidr: &str, ports: (u16, u16)) -> Self {
        let (address, bits) = cidr.split_once('/').unwrap_or((cidr, "32"));
        let address = address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let bits: u32 = bits.parse().unwrap_or(32).min(32);
        let size = 1u32.checked_shl(32 - bits).unwrap_or(u32::MAX);
        Allocator {
            first: u32::from(address),
            size,
            ports,
            next: Mutex::new(0),
        }
    }

    /// The range that addresses are given from.
    pub fn cidr(&self) -> String {
        format!(
            "{}/{}",
            Ipv4Addr::from(self.first),
            32 - self.size.checked_ilog2().unwrap_or(0)
        )
    }

    /// The address of the `kubernetes` Service: the first of the range.
    pub fn api_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first.wrapping_add(1))
    }

    /// Whether [`Allocator::assign`] may choose something for objects of this kind.
    pub fn chooses_for(&self, resource: &Resource) -> bool {
        &*resource.store == SERVICES
    }

    /// Fills in a service's addresses and ports; keeps what it has.
    ///
    /// # Errors
    /// 422 for an address or port that cannot be had, 500 when the range is full.
    pub fn assign(
        &self,
        server: &Server,
        resource: &Resource,
        object: &mut Value,
        old: &Value,
    ) -> ApiResult<()> {
        if !self.chooses_for(resource) {
            return Ok(());
        }
        let kind = object["spec"]["type"].as_str().unwrap_or("ClusterIP").to_string();
        if kind == "ExternalName" {
            return Ok(());
        }
        self.assign_address(server, object, old)?;
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            self.assign_ports(server, object, old)?;
        }
        Ok(())
    }

    fn assign_address(&self, server: &Server, object: &mut Value, old: &Value) -> ApiResult<()> {
        let mut address = object["spec"]["clusterIP"]
            .as_str()
            .unwrap_or_default()
            .to_string();
        if address.is_empty() {
            address = old["spec"]["clusterIP"].as_str().unwrap_or_default().to_string();
        }
        if address.is_empty() {
            address = self.free_address(server)?.to_string();
        } else if address != "None" && old["spec"]["clusterIP"] != address.as_str() {
            self.check_address(server, object, &address)?;
        }
        let spec = &mut object["spec"];
        spec["clusterIP"] = address.as_str().into();
        if spec["clusterIPs"][0] != address.as_str() {
            spec["clusterIPs"] = json!([address]);
        }
        if spec["ipFamilies"].is_null() {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        if spec["ipFamilyPolicy"].is_null() {
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
        Ok(())
    }

    fn check_address(&self, server: &Server, object: &Value, address: &str) -> ApiResult<()> {
        let parsed: Option<Ipv4Addr> = address.parse().ok();
        let inside = parsed.is_some_and(|ip| u32::from(ip).wrapping_sub(self.first) < self.size);
        let why = match (inside, server.caches().get(ADDRESSES, "", address)) {
            (false, _) => "the provided IP is not in the valid range for service IPs",
            (true, Some(_)) => "provided IP is already allocated",
            (true, None) => return Ok(()),
        };
        let text = format!("Invalid value: [{address:?}]: failed to allocate IP {address}: {why}");
        let cause = Cause::new("FieldValueInvalid", "spec.clusterIPs", text);
        Err(ApiError::invalid(
            "",
            "Service",
            meta_text(object, "name"),
            vec![cause],
        ))
    }

    /// Goes round the range from where it stopped; the lowest addresses are left for those who choose theirs.
    fn free_address(&self, server: &Server) -> ApiResult<Ipv4Addr> {
        let reserved = (self.size / 16).clamp(0, 256).max(self.size.min(10));
        let span = self.size.saturating_sub(reserved + 1);
        let mut next = self.next.lock();
        for _ in 0..span {
            *next = (*next + 1) % span;
            let address = Ipv4Addr::from(self.first + reserved + *next);
            if server.caches().get(ADDRESSES, "", &address.to_string()).is_none() {
                return Ok(address);
            }
        }
        Err(ApiError::internal(
            "failed to allocate a serviceIP: range is full",
        ))
    }

    fn assign_ports(&self, server: &Server, object: &mut Value, old: &Value) -> ApiResult<()> {
        let name = meta_text(object, "name").to_string();
        let held = ports(old);
        let mut given: HashSet<u64> = ports(object).into_iter().collect();
        for (number, port) in object["spec"]["ports"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let wanted = port["nodePort"].as_u64().unwrap_or(0);
            if wanted > 0 {
                let taken = server.caches().get(PORTS, "", &wanted.to_string()).is_some();
                let inside = (u64::from(self.ports.0)..=u64::from(self.ports.1)).contains(&wanted);
                if !held.contains(&wanted) && (taken || !inside) {
                    let why = if inside {
                        "provided port is already allocated"
                    } else {
                        "provided port is not in the valid range"
                    };
                    let field = format!("spec.ports[{number}].nodePort");
                    let cause = Cause::new(
                        "FieldValueInvalid",
                        field,
                        format!("Invalid value: {wanted}: {why}"),
                    );
                    return Err(ApiError::invalid("", "Service", &name, vec![cause]));
                }
                continue;
            }
            let kept = old["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|other| other["port"] == port["port"] && other["protocol"] == port["protocol"]);
            let found = kept
                .and_then(|other| other["nodePort"].as_u64())
                .filter(|port| *port > 0);
            let chosen = match found {
                Some(port) => port,
                None => self.free_port(server, &given)?,
            };
            given.insert(chosen);
            port["nodePort"] = chosen.into();
        }
        Ok(())
    }

    fn free_port(&self, server: &Server, given: &HashSet<u64>) -> ApiResult<u64> {
        let span = u64::from(self.ports.1 - self.ports.0) + 1;
        let start = server.random_below(span);
        (0..span)
            .map(|step| u64::from(self.ports.0) + (start + step) % span)
            .find(|port| !given.contains(port) && server.caches().get(PORTS, "", &port.to_string()).is_none())
            .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))
    }

    /// Adds what a service's write takes and gives back to its transaction.
    pub(crate) fn ride_along(
        &self,
        server: &Server,
        review: &Review,
        goal: &Goal<'_>,
        conditions: &mut Vec<Condition>,
        ops: &mut Vec<Op>,
    ) {
        if !review.is("", "services", review.subresource.as_str()) {
            return;
        }
        let new = match goal {
            Goal::Create(value) | Goal::Replace(value, _) => *value,
            Goal::Delete(..) => &Value::Null,
        };
        let old = if review.operation == Operation::Create {
            &Value::Null
        } else {
            &review.old
        };
        let (before, after) = (held(old), held(new));
        for (resource, name) in after.iter().filter(|one| !before.contains(one)) {
            let key = Key::new(resource, "", name);
            conditions.push(Condition::Absent(key.clone()));
            ops.push(Op::put(key, canonical(&holder(server, resource, name, new))));
        }
        for (resource, name) in before.iter().filter(|one| !after.contains(one)) {
            ops.push(Op::delete(Key::new(resource, "", name)));
        }
    }
}

fn ports(service: &Value) -> Vec<u64> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| port["nodePort"].as_u64())
        .filter(|port| *port > 0)
        .collect()
}

/// The entries that a service holds.
fn held(service: &Value) -> Vec<(&'static str, String)> {
    let addresses = service["spec"]["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let addresses = addresses
        .filter(|address| *address != "None")
        .map(|address| (ADDRESSES, address.to_string()));
    let mut found: Vec<_> = addresses.collect();
    let mut ports = ports(service);
    ports.sort_unstable();
    ports.dedup();
    found.extend(ports.into_iter().map(|port| (PORTS, port.to_string())));
    found
}

fn holder(server: &Server, resource: &str, name: &str, service: &Value) -> Value {
    let parent = json!({
        "group": "", "resource": "services",
        "namespace": meta_text(service, "namespace"), "name": meta_text(service, "name"),
    });
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": if resource == ADDRESSES { "IPAddress" } else { "NodePort" },
        "metadata": {
            "name": name,
            "uid": mainstay_base::ids::new_uid(),
            "creationTimestamp": mainstay_base::clock::rfc3339_seconds(server.clock.now()),
            "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": parent},
    })
}
