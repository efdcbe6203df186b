//! Disruption budgets of the cluster, for preemption.

use mainstay_control::{Cache, CancellationToken, Scope};
use mainstay_placement::{Budget, Budgets};
use mainstay_semantics::selector::{LabelSelector, Selector};
use serde::Deserialize;

mainstay_control::projection! {
    /// What placement reads of a PodDisruptionBudget.
    pub struct BudgetView = "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" namespaced {
        /// The spec.
        pub spec: BudgetSpec,
        /// The status.
        pub status: BudgetStatus,
    }
}

/// A budget's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BudgetSpec {
    /// Which pods it protects.
    pub selector: Option<LabelSelector>,
}

/// A budget's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// How many pods may go now.
    pub disruptions_allowed: i64,
}

/// Starts the cache of budgets.
pub fn start(client: &kube::Client, stop: CancellationToken) -> Cache<BudgetView> {
    Cache::start(client, Scope::default(), stop)
}

/// Reads all budgets.
pub fn current(cache: &Cache<BudgetView>) -> Budgets {
    let convert = |view: &BudgetView| Budget {
        namespace: view.metadata.namespace.clone().unwrap_or_default(),
        name: view.metadata.name.clone().unwrap_or_default(),
        selector: LabelSelector::optional(view.spec.selector.as_ref())
            .unwrap_or_else(|_| Selector::nothing()),
        allowed: view.status.disruptions_allowed,
    };
    Budgets::new(cache.list().iter().map(|view| convert(view)).collect())
}
