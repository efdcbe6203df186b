//! Where things are: Region → DataCenter → Zone → Rack (failure domains in this order).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A geographic region.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "Region",
    category = "mainstay",
    derive = "PartialEq"
)]
#[kube(printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"))]
#[serde(rename_all = "camelCase")]
pub struct RegionSpec {
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// A building with machines.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "DataCenter",
    shortname = "dc",
    category = "mainstay"
)]
#[kube(
    derive = "PartialEq",
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region")
)]
#[serde(rename_all = "camelCase")]
pub struct DataCenterSpec {
    /// The Region it is in.
    pub region: String,
    /// Street address, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
}

/// A part of a data centre with its own power, cooling and network.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "Zone",
    category = "mainstay",
    derive = "PartialEq"
)]
#[kube(printcolumn(name = "DataCenter", type_ = "string", json_path = ".spec.dataCenter"))]
#[serde(rename_all = "camelCase")]
pub struct ZoneSpec {
    /// The DataCenter it is in.
    pub data_center: String,
    /// Independent power feeds, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub power_feeds: Vec<String>,
}

/// A rack with hosts.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "Rack",
    category = "mainstay",
    derive = "PartialEq"
)]
#[kube(printcolumn(name = "Zone", type_ = "string", json_path = ".spec.zone"))]
#[kube(printcolumn(name = "Units", type_ = "integer", json_path = ".spec.units"))]
#[serde(rename_all = "camelCase")]
pub struct RackSpec {
    /// The Zone it stands in.
    pub zone: String,
    /// Height in rack units.
    #[serde(default = "full_height")]
    pub units: u16,
    /// Power distribution units by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pdus: Vec<String>,
    /// Top-of-rack switches by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<String>,
    /// Row in the room, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub row: String,
}

/// The usual height of a rack in units.
fn full_height() -> u16 {
    42
}
