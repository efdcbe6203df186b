//! NamespaceLifecycle: nothing is made in a namespace that is missing or ending, and three namespaces stay.

use async_trait::async_trait;

use super::forbidden;
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::{ApiError, ApiResult, Cause};

/// Namespaces that may not be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// The plugin.
pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Admit for NamespaceLifecycle {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if review.operation == Operation::Delete
            && review.is("", "namespaces", "")
            && IMMORTAL.contains(&review.name.as_str())
        {
            return Err(forbidden(review, "this namespace may not be deleted"));
        }
        if review.namespace.is_empty()
            || review.operation != Operation::Create
            || review.resource == "namespaces"
        {
            return Ok(());
        }
        let find = || world.get("core/namespaces", "", &review.namespace);
        let mut found = find();
        if found.is_none() {
            // It may be a moment old, or made by another server.
            world.catch_up().await;
            found = find();
        }
        let Some(namespace) = found else {
            return Err(ApiError::not_found("", "namespaces", &review.namespace));
        };
        let ending = namespace.scalar("status.phase") == "Terminating"
            || !namespace.scalar("metadata.deletionTimestamp").is_empty();
        if !ending {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            review.namespace
        );
        let message = format!("namespace {} is being terminated", review.namespace);
        Err(forbidden(review, why).cause(Cause::new("NamespaceTerminating", "metadata.namespace", message)))
    }

    async fn validate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }
}
