//! Host: a physical (or simulated) machine that was registered before it is used.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{NameRef, ObjectRef};

/// An asset: where it is, what it is, how it is reached.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "Host",
    namespaced,
    status = "HostStatus"
)]
#[kube(category = "mainstay", derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "State", type_ = "string", json_path = ".status.state"))]
#[kube(printcolumn(name = "Power", type_ = "string", json_path = ".status.powerState"))]
#[kube(printcolumn(name = "Rack", type_ = "string", json_path = ".spec.rack"))]
#[kube(printcolumn(name = "SKU", type_ = "string", json_path = ".spec.sku"))]
#[kube(printcolumn(name = "Consumer", type_ = "string", json_path = ".status.consumerRef.name"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct HostSpec {
    /// The Rack it stands in.
    pub rack: String,
    /// Lowest rack unit it takes; 0 when unknown.
    #[serde(default)]
    pub unit: u16,
    /// Class of equal hardware.
    pub sku: String,
    /// Which provider drives it (`local`, `sim`, `qemu`, `metal`, `openstack`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// What one machine of this SKU has; needed where the provider makes the machine (local, sim, qemu).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<HostResources>,
    /// Serial number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Tag of the asset register.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asset_tag: String,
    /// Last day of warranty (`2028-01-01`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warranty_until: Option<String>,
    /// How the management controller is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Bmc>,
    /// The MAC address that network boot uses.
    #[serde(default, rename = "bootMAC", skip_serializing_if = "String::is_empty")]
    pub boot_mac: String,
    /// Network interfaces and where they are plugged in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<HostNic>,
    /// Which disk the system goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<RootDisk>,
    /// Static network configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<HostNetwork>,
    /// Hosts of one power domain fail together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub power_domain: String,
    /// Only this consumer (pool name) may take the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_for: Option<String>,
    /// People work on it: nothing automatic happens.
    #[serde(default)]
    pub maintenance: bool,
    /// Registered as an asset only: never powered, never provisioned.
    #[serde(default)]
    pub unmanaged: bool,
}

/// Size of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostResources {
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Disk for /var in MiB.
    #[serde(rename = "diskMiB")]
    pub disk_mib: u64,
}

/// A management controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bmc {
    /// `redfish://address/redfish/v1/Systems/1` or `ipmi://address`.
    pub address: String,
    /// Secret with `username` and `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<NameRef>,
    /// ConfigMap or Secret with the CA of its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<NameRef>,
}

/// A network interface as registered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostNic {
    /// MAC address.
    pub mac: String,
    /// Switch it is plugged into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub switch: String,
    /// Port of that switch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port: String,
}

/// Hints that choose the system disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootDisk {
    /// World-wide name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wwn: String,
    /// Smallest size in GiB.
    #[serde(default, rename = "minSizeGiB")]
    pub min_size_gib: u64,
}

/// Static network configuration of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostNetwork {
    /// Addresses with prefix length.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Default gateway.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Bond mode; empty means none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bond: String,
}

/// Where a host is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HostState {
    /// Seen for the first time; its fields are checked.
    #[default]
    Registering,
    /// The provider reads its hardware.
    Inspecting,
    /// May be taken by a ComputeNode.
    Available,
    /// Taken; the provider installs it.
    Provisioning,
    /// Runs as the machine of its consumer.
    Provisioned,
    /// Being wiped.
    Deprovisioning,
    /// Out of the pool until a person closes its ticket.
    BreakFix,
    /// Gone for good.
    Retired,
}

/// Power as read back from the provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerState {
    /// Powered.
    On,
    /// Not powered: proof that nothing runs on it.
    Off,
    /// Could not be read.
    #[default]
    Unknown,
}

/// What is known of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostStatus {
    /// Life-cycle state.
    pub state: HostState,
    /// Power as last read back.
    pub power_state: PowerState,
    /// Hardware as inspected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// The one object that uses the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer_ref: Option<ObjectRef>,
    /// What is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageCommit>,
    /// Repairs ever finished on it.
    pub repair_count: u32,
    /// Highest incarnation ever given out on this host.
    pub incarnation: i64,
    /// The provider task under way or done last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_task: Option<HostTask>,
    /// Conditions: Valid, Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Hardware facts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Hardware {
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// NUMA nodes.
    pub numa_nodes: u32,
    /// Disks as the provider names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Interfaces as the provider names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<String>,
    /// Accelerators.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
}

/// A commit of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageCommit {
    /// Content address of the system.
    pub commit: String,
}

/// A provider task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostTask {
    /// Identifier under which the provider resumes it.
    pub id: String,
    /// What it does now.
    pub step: String,
    /// When it began.
    pub started_at: Time,
}

impl HostTask {
    /// Makes a task that begins now.
    pub fn new(id: impl Into<String>, step: impl Into<String>, now: Timestamp) -> Self {
        HostTask {
            id: id.into(),
            step: step.into(),
            started_at: Time(now),
        }
    }
}
