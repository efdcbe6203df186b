//! Extended resources: in pods they are whole numbers and requests equal limits; on nodes names in kubernetes.io
//! that Kubernetes does not define are refused.

use async_trait::async_trait;
use mainstay_semantics::quantity::Quantity;
use mainstay_semantics::resource_name::{is_extended, is_hugepage, is_native};
use serde_json::{Map, Value};

use super::{creates_pod, items};
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::{ApiError, ApiResult, Cause};

/// The plugin.
pub(super) struct ExtendedResources;

/// Native resources a node reports.
const NODE_NATIVE: &[&str] = &["cpu", "memory", "ephemeral-storage", "pods", "storage"];

fn refuse(kind: &str, review: &Review, causes: Vec<Cause>) -> ApiResult<()> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("", kind, &review.name, causes))
}

fn node_causes(review: &Review) -> Vec<Cause> {
    let mut causes = Vec::new();
    for list in ["capacity", "allocatable"] {
        let fields = review.object["status"][list].as_object();
        for (name, amount) in fields.into_iter().flatten() {
            let field = format!("status.{list}.{name}");
            let known = NODE_NATIVE.contains(&name.as_str())
                || is_hugepage(name)
                || name.starts_with("attachable-volumes-");
            if !known && !is_extended(name) {
                let why =
                    "names in kubernetes.io are reserved, and other names need a domain (example.com/name)";
                causes.push(Cause::new("FieldValueInvalid", &field, why));
            }
            let whole = || Quantity::from_json(amount).is_ok_and(|amount| amount.is_integer());
            if is_extended(name) && !whole() {
                causes.push(Cause::new("FieldValueInvalid", field, "must be an integer"));
            }
        }
    }
    causes
}

fn pod_causes(pod: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for list in ["containers", "initContainers"] {
        for (number, container) in items(&pod["spec"][list]).enumerate() {
            let field = format!("spec.{list}[{number}].resources");
            causes.extend(container_causes(&field, &container["resources"]));
        }
    }
    causes
}

fn container_causes(field: &str, resources: &Value) -> Vec<Cause> {
    let empty = Map::new();
    let side = |name: &str| resources[name].as_object().unwrap_or(&empty);
    let (requests, limits) = (side("requests"), side("limits"));
    let mut causes = Vec::new();
    let extended = |name: &&String| !is_native(name) && is_extended(name);
    for name in limits.keys().filter(extended) {
        let Ok(limit) = Quantity::from_json(&limits[name]) else {
            continue;
        };
        if !limit.is_integer() {
            causes.push(Cause::new(
                "FieldValueInvalid",
                format!("{field}.limits[{name}]"),
                "must be an integer",
            ));
        }
        let request = requests.get(name).map(Quantity::from_json);
        let equal = request.is_none_or(|request| request.is_ok_and(|request| request == limit));
        if !equal {
            let why = format!("must be equal to {name} limit of {}", limit.canonical());
            causes.push(Cause::new("FieldValueInvalid", format!("{field}.requests"), why));
        }
    }
    for name in requests
        .keys()
        .filter(extended)
        .filter(|name| !limits.contains_key(*name))
    {
        let why = "Limit must be set for non overcommitable resources";
        causes.push(Cause::new(
            "FieldValueRequired",
            format!("{field}.limits[{name}]"),
            why,
        ));
    }
    causes
}

#[async_trait]
impl Admit for ExtendedResources {
    async fn mutate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }

    async fn validate(&self, review: &mut Review, _: &dyn World) -> ApiResult<()> {
        if creates_pod(review) {
            return refuse("Pod", review, pod_causes(&review.object));
        }
        let written = matches!(review.operation, Operation::Create | Operation::Update);
        let node = review.group.is_empty() && review.resource == "nodes";
        if written && node && review.object["status"] != review.old["status"] {
            return refuse("Node", review, node_causes(review));
        }
        Ok(())
    }
}
