//! The checks of [`crate::validate`] as an admission plugin of the management plane: whatever client writes a
//! ClusterDeployment or a NodePool gets the same answer as from `mainstay up`, and nothing is stored.

use std::time::Duration;

use async_trait::async_trait;
use mainstay_access::hooks::{Admit, Operation, Review, World};
use mainstay_access::{ApiError, ApiResult, Cause};
use mainstay_api::{API_VERSION, GROUP};
use serde_json::Value;

use crate::validate::FieldError;
use crate::validate::set::{KINDS, Surroundings, check};

/// Kinds whose specs are checked, most of them against the inventory. The inventory itself may be registered in any order.
const CHECKED: [&str; 3] = ["ClusterDeployment", "NodePool", "OSImage"];
/// The server's caches may be a moment behind what the same client wrote just before.
const CATCH_UP: Duration = Duration::from_millis(20);
/// How often they are looked at again before an object is refused.
const TRIES: usize = 25;

/// Refuses clusters and pools that cannot be built.
pub struct FitsInventory {
    surroundings: Surroundings,
}

impl FitsInventory {
    /// Makes the plugin.
    pub fn new(surroundings: Surroundings) -> Self {
        FitsInventory { surroundings }
    }

    /// What is wrong with an object and was not wrong before: a running cluster whose inventory shrank can still be
    /// changed, as long as the change makes nothing worse.
    fn problems(&self, review: &Review, world: &dyn World) -> Vec<FieldError> {
        let live = live(world);
        let of = |object: &Value| -> Vec<FieldError> {
            let mut object = object.clone();
            object["apiVersion"] = API_VERSION.into();
            object["kind"] = review.kind.as_str().into();
            let found = check(&[object], &live, &self.surroundings);
            found.into_iter().map(|problem| problem.error).collect()
        };
        let new = of(&review.object);
        if new.is_empty() || review.old.is_null() {
            return new;
        }
        let before = of(&review.old);
        new.into_iter().filter(|error| !before.contains(error)).collect()
    }
}

fn live(world: &dyn World) -> Vec<Value> {
    let plural = |kind: &str| format!("{GROUP}/{}s", kind.to_lowercase()).replace("policys", "policies");
    KINDS
        .iter()
        .flat_map(|kind| world.list(&plural(kind), None))
        .map(|object| object.value())
        .collect()
}

/// Whether a write is one that a person answers for: controllers make pools from what was checked before.
fn applies(review: &Review) -> bool {
    let write = matches!(review.operation, Operation::Create | Operation::Update);
    let owned = review.object["metadata"]["ownerReferences"]
        .as_array()
        .is_some_and(|owners| !owners.is_empty());
    write
        && review.group == GROUP
        && review.subresource.is_empty()
        && CHECKED.contains(&review.kind.as_str())
        && !owned
        && review.object["metadata"]["deletionTimestamp"].is_null()
        && review.object["spec"] != review.old["spec"]
}

#[async_trait]
impl Admit for FitsInventory {
    async fn mutate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !applies(review) {
            return Ok(());
        }
        let mut errors = self.problems(review, world);
        for _ in 0..TRIES {
            if errors.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(CATCH_UP).await;
            errors = self.problems(review, world);
        }
        if errors.is_empty() {
            return Ok(());
        }
        let causes = errors.iter().map(|error| {
            let message = format!("{} ({})", error.message, error.rule.id());
            Cause::new("FieldValueInvalid", error.field.clone(), message)
        });
        Err(ApiError::invalid(
            GROUP,
            &review.kind,
            &review.name,
            causes.collect(),
        ))
    }
}
