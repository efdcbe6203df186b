//! OSImage: the node operating system as a treefile and what was composed from it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Free, NameRef};

/// What the image is made of.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "OSImage",
    namespaced,
    status = "OSImageStatus"
)]
#[kube(category = "mainstay", derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Ref", type_ = "string", json_path = ".status.ref"))]
#[kube(printcolumn(name = "Commit", type_ = "string", json_path = ".status.commit"))]
#[kube(printcolumn(name = "Kernel", type_ = "string", json_path = ".status.versions.kernel"))]
#[kube(printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct OSImageSpec {
    /// Where the treefile comes from.
    #[serde(default)]
    pub treefile: Treefile,
    /// Package sources that the treefile's `repos` name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<PackageSource>,
    /// Version of the node agent put into the image; empty means the manager's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent_version: String,
    /// Kernel arguments of every machine with this image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
    /// Kernel settings written into the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// What to produce besides the commit: `raw`, `qcow2`, `vhd`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Keys that sign the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing: Option<Signing>,
    /// How many commits are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// One of three places a treefile can come from; none means the built-in node image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Treefile {
    /// The treefile itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inline: Option<Free>,
    /// ConfigMap with key `treefile.json` or `treefile.yaml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<NameRef>,
    /// A file on the manager's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A package repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageSource {
    /// The id that treefiles name.
    pub name: String,
    /// `rpm-md` or `deb`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Base URL.
    pub url: String,
    /// Secret or ConfigMap with the key that signs the packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpg_key_ref: Option<NameRef>,
    /// Snapshot digest, or `latest`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot: String,
}

/// Keys for signing commits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signing {
    /// Secret with a GPG private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpg_key_ref: Option<NameRef>,
    /// Secret with an ed25519 private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ed25519_ref: Option<NameRef>,
}

/// How much is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Retention {
    /// Commits kept besides those that machines run.
    pub commits: u32,
}

/// What was composed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OSImageStatus {
    /// Branch of the repository.
    #[serde(rename = "ref", skip_serializing_if = "String::is_empty")]
    pub reference: String,
    /// Newest composed commit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// Digest of everything that went in; equal inputs are composed once.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub inputs_digest: String,
    /// Versions of kernel, containerd, runc, systemd and the agent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// Number of packages.
    pub packages: u32,
    /// Size of the deployed tree.
    pub size_bytes: u64,
    /// Disk images made from the commit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskImage>,
    /// `Good` or `KnownBad`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub verdict: String,
    /// Why the image is known to be bad.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub verdict_reason: String,
    /// Generation that `commit` was composed from.
    pub observed_generation: i64,
    /// Conditions: Composed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A disk image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskImage {
    /// `raw`, `qcow2` or `vhd`.
    pub format: String,
    /// Checksum of the file.
    pub sha256: String,
    /// Where to get it.
    pub url: String,
}
