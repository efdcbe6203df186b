//! RBAC writes: escalation and bind checks, and role references that never change.

use std::sync::Arc;

use async_trait::async_trait;

use crate::authz::{Authorizer, Escalation};
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::{ApiError, ApiResult, Cause};

/// The plugin.
pub(super) struct RbacWrites {
    escalation: Escalation,
}

impl RbacWrites {
    /// Makes the plugin over the authorizer that knows everybody's rules.
    pub(super) fn new(authorizer: Arc<Authorizer>) -> Self {
        RbacWrites {
            escalation: Escalation::new(authorizer),
        }
    }
}

#[async_trait]
impl Admit for RbacWrites {
    async fn mutate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }

    async fn validate(&self, review: &mut Review, _: &dyn World) -> ApiResult<()> {
        let binding =
            review.group == "rbac.authorization.k8s.io" && review.resource.ends_with("rolebindings");
        if binding
            && review.operation == Operation::Update
            && review.object["roleRef"] != review.old["roleRef"]
        {
            let cause = Cause::new("FieldValueInvalid", "roleRef", "cannot change roleRef");
            return Err(ApiError::invalid(
                &review.group,
                &review.kind,
                &review.name,
                vec![cause],
            ));
        }
        self.escalation.check(review)
    }
}
