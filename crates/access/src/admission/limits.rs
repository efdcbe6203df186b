//! LimitRanger: defaults and bounds of the namespace's LimitRanges for pods and volume claims.

use async_trait::async_trait;
use mainstay_policy::limitrange::{apply_defaults, claim_errors, default_limit_range, pod_errors};
use serde_json::Value;

use super::forbidden;
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::ApiResult;

/// The plugin.
pub(super) struct LimitRanger;

fn ranges(review: &Review, world: &dyn World) -> Vec<Value> {
    let found = world.list("core/limitranges", Some(&review.namespace));
    found.iter().map(|range| range.value()).collect()
}

/// Pods are bound at creation and at a resize; their other updates cannot change resources.
fn bounds_pod(review: &Review) -> bool {
    let create = review.operation == Operation::Create && review.is("", "pods", "");
    create || review.operation == Operation::Update && review.is("", "pods", "resize")
}

fn bounds_claim(review: &Review) -> bool {
    let written = matches!(review.operation, Operation::Create | Operation::Update);
    written && review.is("", "persistentvolumeclaims", "")
}

#[async_trait]
impl Admit for LimitRanger {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if super::creates_pod(review) {
            for range in ranges(review, world) {
                apply_defaults(&range, &mut review.object);
            }
        }
        if review.is("", "limitranges", "") && review.operation != Operation::Delete {
            default_limit_range(&mut review.object);
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let errors = match (bounds_pod(review), bounds_claim(review)) {
            (true, _) => collect(review, world, pod_errors),
            (_, true) => collect(review, world, claim_errors),
            _ => return Ok(()),
        };
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(review, one)),
            many => Err(forbidden(review, format!("[{}]", many.join(", ")))),
        }
    }
}

fn collect(review: &Review, world: &dyn World, check: fn(&Value, &Value) -> Vec<String>) -> Vec<String> {
    ranges(review, world)
        .iter()
        .flat_map(|range| check(range, &review.object))
        .collect()
}
