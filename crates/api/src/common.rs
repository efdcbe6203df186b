//! Small shapes that several kinds share: references, probes, endpoints, free-form objects.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object whose fields this crate does not know (kept as given).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Free(pub Map<String, Value>);

impl Free {
    /// Tells whether the object has no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl JsonSchema for Free {
    fn schema_name() -> Cow<'static, str> {
        "Free".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// Names an object of a known kind in the same namespace (or a cluster-scoped one).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct NameRef {
    /// The object's name.
    pub name: String,
}

impl NameRef {
    /// Makes a reference to `name`.
    pub fn new(name: impl Into<String>) -> Self {
        NameRef { name: name.into() }
    }
}

/// Names an object of any kind in the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
}

/// A host name or address with a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// DNS name or IP address; empty while unknown.
    #[serde(default)]
    pub host: String,
    /// TCP port; 0 while unknown.
    #[serde(default)]
    pub port: i32,
}

impl Endpoint {
    /// Tells whether both parts are known.
    pub fn is_known(&self) -> bool {
        !self.host.is_empty() && self.port > 0
    }
}

/// An address of a machine, as on a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address itself.
    pub address: String,
}

/// How the life of a machine is probed from outside. Exactly one of the actions is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Opens a TCP connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocket>,
    /// Asks for an HTTP page; 200 to 399 is success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    /// Sends an ICMP echo request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Free>,
    /// Wait after provisioning before the first probe.
    #[serde(default)]
    pub initial_delay_seconds: u32,
    /// Time between probes.
    #[serde(default = "ten")]
    pub period_seconds: u32,
    /// Time after which one probe has failed.
    #[serde(default = "one")]
    pub timeout_seconds: u32,
    /// Failures in a row after which the condition turns False.
    #[serde(default = "three")]
    pub failure_threshold: u32,
    /// Successes in a row after which the condition turns True again.
    #[serde(default = "one")]
    pub success_threshold: u32,
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn ten() -> u32 {
    10
}

/// A TCP port to connect to on the machine's internal address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TcpSocket {
    /// The port.
    pub port: u16,
}

/// A page to get from the machine's internal address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpGet {
    /// Path and query; empty means `/`.
    #[serde(default)]
    pub path: String,
    /// The port.
    pub port: u16,
}

/// A taint as NodePools and NodeConfigs write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeTaint {
    /// Taint key.
    pub key: String,
    /// Taint value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}
