//! Tenant: the only truth about who owns which namespaces, with which limits.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::Free;

/// What a tenant may have.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "Tenant",
    status = "TenantStatus"
)]
#[kube(category = "mainstay", derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"))]
#[kube(printcolumn(name = "CostCentre", type_ = "string", json_path = ".spec.costCentre"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// Who owns it.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Its namespaces.
    #[serde(default)]
    pub namespaces: TenantNamespaces,
    /// Limits over all its namespaces.
    #[serde(default)]
    pub quota: TenantQuota,
    /// LimitRange spec put into each namespace.
    #[serde(default, skip_serializing_if = "Free::is_empty")]
    pub limit_range: Free,
    /// Pod Security level of its namespaces: `privileged`, `baseline` (default) or `restricted`.
    #[serde(default = "baseline")]
    pub pod_security: String,
    /// PriorityClasses it may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority_classes: Vec<String>,
    /// StorageClasses it may use; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage_classes: Vec<String>,
    /// Ingress limits.
    #[serde(default)]
    pub ingress: TenantIngress,
    /// NodePools reserved for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_pools: Vec<String>,
    /// Tolerations that its pods get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Free>,
    /// Network isolation.
    #[serde(default)]
    pub network: TenantNetwork,
    /// Share among tenants.
    #[serde(default = "one")]
    pub weight: u32,
    /// For the bill.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cost_centre: String,
}

fn baseline() -> String {
    "baseline".to_string()
}

fn one() -> u32 {
    1
}

/// A user, group or service account that owns a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: String,
    /// Token issuer; empty means any authenticator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Name.
    pub name: String,
    /// Namespace of a service account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// Rules for the tenant's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantNamespaces {
    /// Most namespaces; absent means unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Prefix that new names must have.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Existing namespaces taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopt: Vec<String>,
}

/// Quota across namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantQuota {
    /// Limits by resource name.
    #[serde(default)]
    pub hard: BTreeMap<String, String>,
    /// Quota scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// Ingress limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantIngress {
    /// IngressClasses it may use; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Host name patterns it may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
}

/// Network isolation of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantNetwork {
    /// `DefaultDeny` (default) or `Open`.
    #[serde(default = "default_deny")]
    pub isolation: String,
    /// Namespaces and tenants that may connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
}

fn default_deny() -> String {
    "DefaultDeny".to_string()
}

/// What a tenant has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TenantStatus {
    /// Its namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<OwnedNamespace>,
    /// Usage over all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, String>,
    /// Conditions: Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A namespace of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnedNamespace {
    /// Name.
    pub name: String,
    /// UID: a namesake made later is another namespace.
    pub uid: String,
    /// Who created it.
    #[serde(default)]
    pub owner: String,
}
