//! Services, endpoints and the node's facts in, the table out. Equal input gives equal output, whatever its order.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::endpoints::{Endpoints, Target, of_port};
use super::ruleset::{Chain, Ruleset, Table};
use crate::model::{EndpointSlice, PROXY_NAME_LABEL, Service, ServicePort, group};

/// The bit that says: give this packet the node's address after routing. The same as kube-proxy's, which knows it too.
const MASQUERADE_BIT: &str = "0x4000";
/// How long a client stays with its endpoint unless the Service says otherwise (Kubernetes' default of three hours).
const AFFINITY_SECONDS: u32 = 10_800;
const BY_ADDRESS: &str = "type ipv4_addr . inet_proto . inet_service : verdict ;";
const BY_PORT: &str = "type inet_proto . inet_service : verdict ;";

/// What the rules must know of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name, as endpoints give it.
    pub name: String,
    /// Its addresses: where its node ports are.
    pub addresses: Vec<Ipv4Addr>,
    /// The range of its own pods.
    pub pod_range: Option<Ipv4Net>,
    /// Ranges of all pods of the cluster.
    pub pod_ranges: Vec<Ipv4Net>,
    /// Service addresses that this node answers by itself.
    pub answered_here: Vec<Ipv4Addr>,
}

/// Compiles the table.
pub fn compile(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &NodeFacts) -> Ruleset {
    let slices = group(slices);
    let mut rules = Ruleset::default();
    skeleton(&mut rules, node);
    let mut services: Vec<&Service> = services.iter().map(|service| &**service).collect();
    services.sort_by_key(|service| (service.namespace(), service.name()));
    for service in services.into_iter().filter(|service| is_translated(service)) {
        let own = slices.get(&(service.namespace(), service.name()));
        for port in &service.spec.ports {
            let endpoints = of_port(own.map_or(&[], Vec::as_slice), port, &node.name);
            Translation::new(service, port, endpoints).add(&mut rules, node);
        }
    }
    rules
}

fn is_translated(service: &Service) -> bool {
    let other = service
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
    !other && !service.is_external_name() && !service.is_headless() && !service.addresses().is_empty()
}

fn chain(hook: Option<&'static str>, rules: impl IntoIterator<Item = impl Into<String>>) -> Chain {
    Chain {
        hook,
        rules: rules.into_iter().map(Into::into).collect(),
    }
}

fn set(header: &str, elements: impl IntoIterator<Item = impl ToString>) -> Table {
    Table {
        header: header.to_owned(),
        elements: elements
            .into_iter()
            .map(|element| (element.to_string(), String::new()))
            .collect(),
    }
}

fn mark() -> String {
    format!("meta mark set meta mark or {MASQUERADE_BIT}")
}

/// The sets, maps and chains that are there without any Service.
fn skeleton(rules: &mut Ruleset, node: &NodeFacts) {
    let sets = [
        ("node-addresses", set("type ipv4_addr ;", &node.addresses)),
        ("cluster-addresses", set("type ipv4_addr ;", [""; 0])),
        (
            "pod-ranges",
            set("type ipv4_addr ; flags interval ;", &node.pod_ranges),
        ),
    ];
    let maps = [
        ("addresses", set(BY_ADDRESS, [""; 0])),
        ("node-ports", set(BY_PORT, [""; 0])),
        ("unserved-addresses", set(BY_ADDRESS, [""; 0])),
        ("unserved-node-ports", set(BY_PORT, [""; 0])),
    ];
    rules.sets.extend(sets.map(|(name, set)| (name.to_owned(), set)));
    rules.maps.extend(maps.map(|(name, map)| (name.to_owned(), map)));
    let unserved = "ct state new ip daddr . meta l4proto . th dport vmap @unserved-addresses";
    let unserved_port =
        "ct state new ip daddr @node-addresses meta l4proto . th dport vmap @unserved-node-ports";
    let unknown = "ct state new ip daddr @cluster-addresses goto refuse";
    let chains = [
        (
            "services",
            chain(
                None,
                [
                    "ip daddr . meta l4proto . th dport vmap @addresses",
                    "ip daddr @node-addresses meta l4proto . th dport vmap @node-ports",
                ],
            ),
        ),
        (
            "arriving",
            chain(
                Some("type nat hook prerouting priority -100 ;"),
                ["jump services"],
            ),
        ),
        (
            "sent-here",
            chain(Some("type nat hook output priority -100 ;"), ["jump services"]),
        ),
        (
            "leaving",
            chain(Some("type nat hook postrouting priority 100 ;"), leaving(node)),
        ),
        (
            "filter-input",
            chain(Some("type filter hook input priority 0 ;"), [unserved_port]),
        ),
        (
            "filter-forward",
            chain(
                Some("type filter hook forward priority 0 ;"),
                [unserved, unserved_port, unknown],
            ),
        ),
        (
            "filter-output",
            chain(
                Some("type filter hook output priority 0 ;"),
                [unserved, unserved_port, unknown],
            ),
        ),
        (
            "refuse",
            chain(None, ["meta l4proto tcp reject with tcp reset", "reject"]),
        ),
    ];
    rules
        .chains
        .extend(chains.map(|(name, chain)| (name.to_owned(), chain)));
}

/// After routing: packets with the mark, and pods' packets that leave the cluster, get the node's address.
fn leaving(node: &NodeFacts) -> Vec<String> {
    let mut rules = vec![format!(
        "meta mark and {MASQUERADE_BIT} == {MASQUERADE_BIT} meta mark set meta mark xor {MASQUERADE_BIT} masquerade fully-random"
    )];
    if let Some(range) = node.pod_range.filter(|_| !node.pod_ranges.is_empty()) {
        rules.push(format!(
            "ip saddr {range} ip daddr != @pod-ranges ip daddr != 224.0.0.0/4 masquerade fully-random"
        ));
    }
    rules
}

/// One port of one Service on its way into the table.
struct Translation<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    endpoints: Endpoints,
    protocol: String,
    /// `namespace/name/protocol/port`.
    id: String,
}

impl<'a> Translation<'a> {
    fn new(service: &'a Service, port: &'a ServicePort, endpoints: Endpoints) -> Self {
        let protocol = port.protocol();
        let id = format!(
            "{}/{}/{protocol}/{}",
            service.namespace(),
            service.name(),
            port.port
        );
        Translation {
            service,
            port,
            endpoints,
            protocol,
            id,
        }
    }

    fn add(&self, rules: &mut Ruleset, node: &NodeFacts) {
        let (inside, outside) = (self.inside_is_local(), self.outside_is_local());
        let external = self.external_addresses();
        let balancers = self.balancer_addresses();
        let has_outside = self.port.node_port > 0 || !external.is_empty() || !balancers.is_empty();
        self.add_targets(rules, inside || (outside && has_outside));
        for address in self.cluster_addresses(node) {
            let set = rules
                .sets
                .get_mut("cluster-addresses")
                .expect("the skeleton has it");
            set.elements.insert(address.to_string(), String::new());
            let verdict = self.dispatch_inside(rules, inside);
            self.lead_address(rules, address, verdict, inside);
        }
        if has_outside {
            self.dispatch_outside(rules, outside);
        }
        let everywhere = format!("goto outside/{}", self.id);
        for address in external {
            self.lead_address(rules, address, Some(everywhere.clone()), outside);
        }
        for address in balancers {
            let verdict = self
                .dispatch_balancer(rules)
                .unwrap_or_else(|| everywhere.clone());
            self.lead_address(rules, address, Some(verdict), outside);
        }
        if self.port.node_port > 0 {
            let key = format!("{} . {}", self.protocol, self.port.node_port);
            self.lead(rules, "node-ports", &key, Some(everywhere), outside);
        }
    }

    fn inside_is_local(&self) -> bool {
        self.service.spec.internal_traffic_policy == "Local"
    }

    fn outside_is_local(&self) -> bool {
        self.service.spec.external_traffic_policy == "Local"
    }

    fn cluster_addresses(&self, node: &NodeFacts) -> Vec<Ipv4Addr> {
        let own = self.service.addresses().into_iter().filter_map(v4);
        own.filter(|address| !node.answered_here.contains(address))
            .collect()
    }

    fn external_addresses(&self) -> Vec<Ipv4Addr> {
        let texts = self.service.spec.external_ips.iter();
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    fn balancer_addresses(&self) -> Vec<Ipv4Addr> {
        let ingress = self.service.status.load_balancer.ingress.iter();
        ingress
            .filter(|ingress| ingress.ip_mode != "Proxy")
            .filter_map(|ingress| ingress.ip.parse().ok())
            .collect()
    }

    /// The chains that choose among endpoints, and one chain for each of these.
    fn add_targets(&self, rules: &mut Ruleset, with_local: bool) {
        let mut all = self.endpoints.cluster.clone();
        self.add_choice(rules, "cluster", &self.endpoints.cluster);
        if with_local {
            self.add_choice(rules, "local", &self.endpoints.local);
            // Nothing ready in the cluster can still mean something leaving here.
            all.extend(&self.endpoints.local);
        }
        for target in all {
            self.add_target(rules, target);
        }
    }

    fn affinity(&self) -> Option<u32> {
        let spec = &self.service.spec;
        (spec.session_affinity == "ClientIP").then(|| {
            spec.session_affinity_config
                .client_ip
                .timeout_seconds
                .unwrap_or(AFFINITY_SECONDS)
        })
    }

    fn target_name(&self, (address, port): Target) -> String {
        format!("{}/{address}/{port}", self.id)
    }

    fn add_choice(&self, rules: &mut Ruleset, kind: &str, targets: &[Target]) {
        if targets.is_empty() {
            return;
        }
        let mut lines = Vec::new();
        if self.affinity().is_some() {
            lines.extend(targets.iter().map(|target| {
                let name = self.target_name(*target);
                format!("ip saddr @affinity/{name} goto endpoint/{name}")
            }));
        }
        let choices: Vec<String> = targets
            .iter()
            .enumerate()
            .map(|(number, target)| format!("{number} : goto endpoint/{}", self.target_name(*target)))
            .collect();
        lines.push(format!(
            "numgen random mod {} vmap {{ {} }}",
            targets.len(),
            choices.join(", ")
        ));
        rules
            .chains
            .insert(format!("{kind}/{}", self.id), chain(None, lines));
    }

    fn add_target(&self, rules: &mut Ruleset, target: Target) {
        let (address, port) = target;
        let name = self.target_name(target);
        // A pod that reaches itself must see the answer come from somebody else.
        let mut lines = vec![format!("ip saddr {address} {}", mark())];
        if let Some(seconds) = self.affinity() {
            lines.push(format!("update @affinity/{name} {{ ip saddr }}"));
            let header = format!("type ipv4_addr ; flags dynamic,timeout ; timeout {seconds}s ;");
            rules
                .sets
                .insert(format!("affinity/{name}"), set(&header, [""; 0]));
        }
        lines.push(format!("meta l4proto {} dnat to {address}:{port}", self.protocol));
        rules
            .chains
            .insert(format!("endpoint/{name}"), chain(None, lines));
    }

    /// How packets to the Service's own address go on; none when nobody serves it here.
    fn dispatch_inside(&self, rules: &mut Ruleset, local: bool) -> Option<String> {
        let (kind, targets) = if local {
            ("local", &self.endpoints.local)
        } else {
            ("cluster", &self.endpoints.cluster)
        };
        if targets.is_empty() {
            return None;
        }
        if rules.sets["pod-ranges"].elements.is_empty() {
            return Some(format!("goto {kind}/{}", self.id));
        }
        // Who is no pod reaches Services through this node only: the answer must come back here.
        let name = format!("inside/{}", self.id);
        let lines = [
            format!("ip saddr != @pod-ranges ip saddr != @node-addresses {}", mark()),
            format!("goto {kind}/{}", self.id),
        ];
        rules
            .chains
            .entry(name.clone())
            .or_insert_with(|| chain(None, lines));
        Some(format!("goto {name}"))
    }

    /// How packets from outside go on: with policy Local they keep their sender and stay on this node; pods and the node
    /// itself are no outside and may go anywhere.
    fn dispatch_outside(&self, rules: &mut Ruleset, local: bool) {
        let anywhere = format!("goto cluster/{}", self.id);
        let mut lines = Vec::new();
        match (local, self.endpoints.cluster.is_empty()) {
            (false, true) => {}
            (false, false) => lines.extend([mark(), anywhere]),
            (true, none) => {
                if !none {
                    lines.extend([
                        format!("ip saddr @pod-ranges {anywhere}"),
                        format!("ip saddr @node-addresses {} {anywhere}", mark()),
                    ]);
                }
                if !self.endpoints.local.is_empty() {
                    lines.push(format!("goto local/{}", self.id));
                }
            }
        }
        rules
            .chains
            .insert(format!("outside/{}", self.id), chain(None, lines));
    }

    /// The check of who may use a load balancer's address, when the Service limits that.
    fn dispatch_balancer(&self, rules: &mut Ruleset) -> Option<String> {
        let ranges: Vec<Ipv4Net> = self
            .service
            .spec
            .load_balancer_source_ranges
            .iter()
            .filter_map(|text| text.trim().parse().ok())
            .collect();
        if ranges.is_empty() {
            return None;
        }
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let lines = [
            format!("ip saddr != {{ {} }} drop", ranges.join(", ")),
            format!("goto outside/{}", self.id),
        ];
        let name = format!("balancer/{}", self.id);
        rules.chains.insert(name.clone(), chain(None, lines));
        Some(format!("goto {name}"))
    }

    fn lead_address(&self, rules: &mut Ruleset, address: Ipv4Addr, verdict: Option<String>, local: bool) {
        let key = format!("{address} . {} . {}", self.protocol, self.port.port);
        self.lead(rules, "addresses", &key, verdict, local);
    }

    /// Enters a key into a map and, when nobody (here) serves it, what becomes of its packets. The first Service wins a
    /// key that two ask for.
    fn lead(&self, rules: &mut Ruleset, map: &str, key: &str, verdict: Option<String>, local: bool) {
        let (here, anywhere) = (&self.endpoints.local, &self.endpoints.cluster);
        let unserved = match (anywhere.is_empty(), local && here.is_empty()) {
            (true, _) if here.is_empty() => Some("goto refuse"),
            // Somebody else serves it; this node must not answer for them.
            (_, true) => Some("drop"),
            _ => None,
        };
        let mut enter = |map: &str, verdict: String| {
            let map = rules.maps.get_mut(map).expect("the skeleton has it");
            map.elements.entry(key.to_owned()).or_insert(verdict);
        };
        if let Some(verdict) = verdict {
            enter(map, verdict);
        }
        if let Some(verdict) = unserved {
            enter(&format!("unserved-{map}"), verdict.to_owned());
        }
    }
}

fn v4(address: std::net::IpAddr) -> Option<Ipv4Addr> {
    match address {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    }
}
