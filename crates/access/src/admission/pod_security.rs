//! PodSecurity: the namespace's labels say which Pod Security Standard pods must meet; workloads are warned about.

use async_trait::async_trait;
use mainstay_policy::podsecurity::{Policy, Standard, describe, pod_of, violations};
use serde_json::Value;

use super::forbidden;
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::{ApiError, ApiResult, Cause};

/// Existing pods looked at when a namespace's level changes: enough to warn, bounded for large namespaces.
const PODS_CHECKED: usize = 3_000;

/// The plugin.
pub struct PodSecurity {
    default: Standard,
}

impl PodSecurity {
    /// Makes the plugin; `default` holds for namespaces without labels.
    pub fn new(default: Standard) -> Self {
        PodSecurity { default }
    }

    fn policy(&self, review: &Review, world: &dyn World) -> Policy {
        let namespace = world.get("core/namespaces", "", &review.namespace);
        let labels = namespace.map(|namespace| namespace.value()["metadata"]["labels"].clone());
        Policy::of_labels(&labels.unwrap_or_default(), self.default).0
    }

    fn check_pod(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let policy = self.policy(review, world);
        let found = check(policy.enforce, &review.object);
        if !found.is_empty() {
            return Err(forbidden(
                review,
                format!("violates PodSecurity \"{}\": {found}", policy.enforce),
            ));
        }
        let found = check(policy.warn, &review.object);
        if !found.is_empty() {
            review
                .warnings
                .push(format!("would violate PodSecurity \"{}\": {found}", policy.warn));
        }
        Ok(())
    }

    fn warn_workload(&self, review: &mut Review, world: &dyn World) {
        let Some((metadata, spec)) = pod_of(&review.kind, &review.object) else {
            return;
        };
        let policy = self.policy(review, world);
        let found = describe(&violations(policy.warn, metadata, spec));
        if !found.is_empty() {
            review
                .warnings
                .push(format!("would violate PodSecurity \"{}\": {found}", policy.warn));
        }
    }

    fn check_namespace(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let (policy, wrong) = Policy::of_labels(&review.object["metadata"]["labels"], self.default);
        if !wrong.is_empty() {
            let cause = |(label, error): &(String, mainstay_policy::podsecurity::Malformed)| {
                Cause::new(
                    "FieldValueInvalid",
                    format!("metadata.labels[{label}]"),
                    error.to_string(),
                )
            };
            let causes = wrong.iter().map(cause).collect();
            return Err(ApiError::invalid("", "Namespace", &review.name, causes));
        }
        let (before, _) = Policy::of_labels(&review.old["metadata"]["labels"], self.default);
        if review.operation == Operation::Update && before.enforce != policy.enforce {
            let pods = world.list("core/pods", Some(&review.name));
            let violating = pods
                .iter()
                .take(PODS_CHECKED)
                .filter(|pod| !check(policy.enforce, &pod.value()).is_empty());
            let count = violating.count();
            if count > 0 {
                review.warnings.push(format!(
                    "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{}\": {count} pods",
                    review.name, policy.enforce
                ));
            }
        }
        Ok(())
    }
}

fn check(standard: Standard, pod: &Value) -> String {
    describe(&violations(standard, &pod["metadata"], &pod["spec"]))
}

/// Whether a pod's update can change the verdict at all.
fn changes(review: &Review) -> bool {
    review.operation == Operation::Create
        || review.object["spec"] != review.old["spec"]
        || review.object["metadata"]["annotations"] != review.old["metadata"]["annotations"]
}

#[async_trait]
impl Admit for PodSecurity {
    async fn mutate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !matches!(review.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        match (
            review.group.as_str(),
            review.resource.as_str(),
            review.subresource.as_str(),
        ) {
            ("", "namespaces", "") => self.check_namespace(review, world),
            ("", "pods", "" | "ephemeralcontainers") if changes(review) => self.check_pod(review, world),
            (_, _, "") => {
                self.warn_workload(review, world);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
