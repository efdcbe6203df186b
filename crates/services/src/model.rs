//! What of Services and EndpointSlices counts for packets and names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mainstay_control::projection;
use serde::Deserialize;

/// On a slice: the Service it belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// On a Service: another program than the node translates it.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

projection! {
    /// A Service.
    pub struct Service = "" "v1" "Service" "services" namespaced {
        /// What it asks for.
        pub spec: ServiceSpec,
        /// What a load balancer answered.
        pub status: ServiceStatus,
    }
}

/// See [`Service`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub kind: String,
    /// The first address; `None` for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Addresses that lead to nodes by other means.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// The name an ExternalName Service stands for.
    pub external_name: String,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// None or ClientIP.
    pub session_affinity: String,
    /// How long a client stays with its endpoint.
    pub session_affinity_config: AffinityConfig,
    /// Cluster or Local.
    pub internal_traffic_policy: String,
    /// Cluster or Local.
    pub external_traffic_policy: String,
    /// Who may use the load balancer's addresses; empty: everybody.
    pub load_balancer_source_ranges: Vec<String>,
}

/// See [`ServiceSpec`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AffinityConfig {
    /// Of ClientIP.
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIp,
}

/// See [`AffinityConfig`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIp {
    /// Unset: three hours.
    pub timeout_seconds: Option<u32>,
}

/// A Service's port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Empty when it is the only one.
    pub name: String,
    /// TCP, UDP or SCTP; empty: TCP.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// The port on every node; 0 for none.
    pub node_port: u16,
}

/// See [`Service`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Addresses of the load balancer.
    pub load_balancer: LoadBalancer,
}

/// See [`ServiceStatus`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Addresses.
    pub ingress: Vec<Ingress>,
}

/// See [`LoadBalancer`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// The address.
    pub ip: String,
    /// `Proxy`: packets must go through the balancer, even from here.
    pub ip_mode: String,
}

projection! {
    /// Some endpoints of a Service.
    pub struct EndpointSlice = "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" namespaced {
        /// IPv4, IPv6 or FQDN.
        pub address_type: String,
        /// The endpoints.
        pub endpoints: Option<Vec<Endpoint>>,
        /// The ports that each of them serves.
        pub ports: Option<Vec<EndpointPort>>,
    }
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses; the first counts.
    pub addresses: Vec<String>,
    /// Whether it may be used.
    pub conditions: EndpointConditions,
    /// Its name in a headless Service.
    pub hostname: Option<String>,
    /// Where it runs.
    pub node_name: Option<String>,
}

/// Conditions of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Unset counts as true.
    pub ready: Option<bool>,
    /// Unset counts as `ready`.
    pub serving: Option<bool>,
    /// Unset counts as false.
    pub terminating: Option<bool>,
}

impl EndpointConditions {
    /// Takes new connections.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Is about to end and still answers.
    pub fn is_leaving(&self) -> bool {
        self.terminating.unwrap_or(false) && self.serving.unwrap_or_else(|| self.is_ready())
    }
}

/// A port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: Option<String>,
    /// The number; none: every port.
    pub port: Option<u16>,
    /// Unset: TCP.
    pub protocol: Option<String>,
}

impl Service {
    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Has no address of its own: its name stands for its endpoints.
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }

    /// Stands for a name elsewhere.
    pub fn is_external_name(&self) -> bool {
        self.spec.kind == "ExternalName"
    }

    /// Its own addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        for text in self.spec.cluster_ips.iter().chain([&self.spec.cluster_ip]) {
            if let Ok(address) = text.parse()
                && !all.contains(&address)
            {
                all.push(address);
            }
        }
        all
    }
}

impl ServicePort {
    /// In lower case, as packet filters and SRV names want it.
    pub fn protocol(&self) -> String {
        lower(&self.protocol)
    }
}

impl EndpointPort {
    /// In lower case.
    pub fn protocol(&self) -> String {
        lower(self.protocol.as_deref().unwrap_or_default())
    }

    /// Whether this is what the slice says of a Service's port.
    pub fn serves(&self, port: &ServicePort) -> bool {
        self.name.as_deref().unwrap_or_default() == port.name && self.protocol() == port.protocol()
    }
}

fn lower(protocol: &str) -> String {
    match protocol {
        "" => "tcp".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

impl EndpointSlice {
    /// The Service's namespace and name.
    pub fn service(&self) -> Option<(&str, &str)> {
        let label = self.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
        Some((self.metadata.namespace.as_deref()?, label))
    }
}

/// Slices by the namespace and name of their Service.
pub type SlicesOf<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// Groups slices by their Service, each group in the order of names, so that equal input compiles to equal output.
pub fn group(slices: &[std::sync::Arc<EndpointSlice>]) -> SlicesOf<'_> {
    let mut groups = SlicesOf::new();
    for slice in slices {
        if let Some(service) = slice.service() {
            groups.entry(service).or_default().push(slice);
        }
    }
    for group in groups.values_mut() {
        group.sort_by_key(|slice| slice.metadata.name.as_deref());
    }
    groups
}
