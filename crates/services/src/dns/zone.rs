//! Which names there are: built anew from all Services and slices, then only read.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::wire::Data;
use crate::model::{EndpointSlice, Service, SlicesOf, group};

/// The version of the specification that this zone follows, told at `dns-version`.
const VERSION: &str = "1.1.0";

/// All names of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    domain: String,
    /// Ranges whose addresses only this zone can name.
    ranges: Vec<IpNet>,
    /// Records by lower-case name. A name without records exists: something stands below it.
    names: HashMap<String, BTreeSet<Data>>,
}

/// What a zone says of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// Its records, of all types.
    Records(&'a BTreeSet<Data>),
    /// Made up on the spot from the name itself.
    Made(Data),
    /// The name is the zone's business and does not exist.
    Nothing,
    /// Somebody else's name.
    Elsewhere,
}

impl Zone {
    /// Builds the zone. `ranges` are the cluster's ranges of pods and Services.
    pub fn build(
        domain: &str,
        ranges: &[IpNet],
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
    ) -> Zone {
        let mut zone = Zone {
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            ranges: ranges.to_vec(),
            names: HashMap::new(),
        };
        let apex = zone.domain.clone();
        zone.exists(&apex);
        zone.exists(&format!("svc.{apex}"));
        zone.exists(&format!("pod.{apex}"));
        zone.add(&format!("dns-version.{apex}"), Data::Txt(VERSION.to_owned()));
        zone.add(&apex, Data::Ns(zone.server()));
        let slices = group(slices);
        for service in services {
            zone.service(service, &slices);
        }
        zone
    }

    /// The domain of the cluster's names.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The name of who answers.
    pub(super) fn server(&self) -> String {
        format!("ns.dns.{}", self.domain)
    }

    fn exists(&mut self, name: &str) -> &mut BTreeSet<Data> {
        self.names.entry(name.to_ascii_lowercase()).or_default()
    }

    fn add(&mut self, name: &str, data: Data) {
        self.exists(name).insert(data);
    }

    fn service(&mut self, service: &Service, slices: &SlicesOf<'_>) {
        let namespace = format!("{}.svc.{}", service.namespace(), self.domain);
        let name = format!("{}.{namespace}", service.name());
        self.exists(&namespace);
        self.exists(&name);
        if service.is_external_name() {
            let target = service.spec.external_name.trim_end_matches('.').to_owned();
            self.add(&name, Data::Cname(target));
        } else if service.is_headless() {
            let own = slices.get(&(service.namespace(), service.name()));
            for slice in own.into_iter().flatten() {
                self.endpoints(&name, slice);
            }
        } else {
            self.addresses(service, &name);
        }
    }

    fn addresses(&mut self, service: &Service, name: &str) {
        for address in service.addresses() {
            self.add(name, data(address));
            self.add(&reverse(address), Data::Ptr(name.to_owned()));
        }
        for port in &service.spec.ports {
            self.port(name, &port.name, &port.protocol(), port.port, name, 100);
        }
    }

    /// An SRV record for a named port.
    fn port(&mut self, name: &str, port: &str, protocol: &str, number: u16, target: &str, weight: u16) {
        if port.is_empty() {
            return;
        }
        let below = format!("_{protocol}.{name}");
        self.exists(&below);
        let data = Data::Srv {
            weight,
            port: number,
            target: target.to_owned(),
        };
        self.add(&format!("_{port}.{below}"), data);
    }

    /// The endpoints of a headless Service: its name has all their addresses, and each has a name of its own.
    fn endpoints(&mut self, name: &str, slice: &EndpointSlice) {
        let ready = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| endpoint.conditions.is_ready());
        for endpoint in ready {
            for address in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                let host = match &endpoint.hostname {
                    Some(hostname) if !hostname.is_empty() => format!("{hostname}.{name}"),
                    _ => format!("{}.{name}", dashed(address)),
                };
                self.add(name, data(address));
                self.add(&host, data(address));
                if endpoint.hostname.is_some() {
                    self.add(&reverse(address), Data::Ptr(host.clone()));
                }
                for port in slice.ports.iter().flatten() {
                    let (label, number) = (port.name.as_deref().unwrap_or_default(), port.port.unwrap_or(0));
                    self.port(name, label, &port.protocol(), number, &host, 100);
                }
            }
        }
    }

    pub(super) fn find(&self, name: &str) -> Known<'_> {
        let name = name.to_ascii_lowercase();
        if let Some(records) = self.names.get(&name) {
            return Known::Records(records);
        }
        if let Some(address) = address_of_reverse(&name) {
            let ours = self.ranges.iter().any(|range| range.contains(&address));
            return if ours { Known::Nothing } else { Known::Elsewhere };
        }
        let Some(inside) = name
            .strip_suffix(&self.domain)
            .and_then(|rest| rest.strip_suffix('.'))
        else {
            return Known::Elsewhere;
        };
        match pod_address(inside) {
            Some(address) => Known::Made(data(address)),
            None => Known::Nothing,
        }
    }
}

/// The record of an address.
fn data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    }
}

/// An address as one label.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// `10-244-1-7.NAMESPACE.pod`: any address has such a name, as in upstream's default.
fn pod_address(inside: &str) -> Option<IpAddr> {
    let mut labels = inside.split('.');
    let (label, _namespace, kind, end) = (labels.next()?, labels.next()?, labels.next()?, labels.next());
    if kind != "pod" || end.is_some() {
        return None;
    }
    let v4 = label.replace('-', ".").parse().ok();
    v4.or_else(|| label.replace('-', ":").parse().ok())
}

/// The name under which an address' name is asked for.
pub(super) fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let digits = format!("{:032x}", u128::from(address));
            let reversed: Vec<String> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", reversed.join("."))
        }
    }
}

fn address_of_reverse(name: &str) -> Option<IpAddr> {
    if let Some(numbers) = name.strip_suffix(".in-addr.arpa") {
        let forward: Vec<&str> = numbers.rsplit('.').collect();
        return forward.join(".").parse().ok();
    }
    let digits: String = name.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    let value = u128::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| digits.len() == 32)?;
    Some(IpAddr::V6(value.into()))
}
