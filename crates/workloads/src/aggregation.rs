//! ClusterRole aggregation: a role with an aggregation rule holds the union of the selected roles' rules. Watches
//! ClusterRoles; alone writes the rules of aggregated ones.

use std::sync::Arc;

use mainstay_control::{Controller, Error, ObjectKey, Requeue};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::ClusterRole;

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let roles = context.caches.cluster_roles.clone();
    Controller::new("clusterrole-aggregation")
        .wake_on(&context.caches.cluster_roles, move |_| {
            let aggregated = roles.select(|role| role.aggregation_rule.is_some());
            aggregated.iter().map(|role| ObjectKey::of(&**role)).collect()
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// The rules an aggregated role shall have: those of the selected roles by name, each once.
fn union(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<Value>> {
    let rule = role.aggregation_rule.as_ref()?;
    let selectors: Vec<_> = rule
        .cluster_role_selectors
        .iter()
        .filter_map(|selector| selector.selector().ok())
        .collect();
    let empty = Default::default();
    let selected = |other: &&Arc<ClusterRole>| {
        let labels = other.metadata.labels.as_ref().unwrap_or(&empty);
        other.metadata.name != role.metadata.name && selectors.iter().any(|selector| selector.matches(labels))
    };
    let mut sources: Vec<_> = all.iter().filter(selected).collect();
    sources.sort_by_key(|role| role.metadata.name.clone());
    let mut rules: Vec<Value> = Vec::new();
    for rule in sources.into_iter().flat_map(|role| role.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let roles = &context.caches.cluster_roles;
    let Some(role) = roles.get(&key) else {
        return Ok(Requeue::Never);
    };
    if let Some(rules) = union(&role, &roles.list())
        && rules != role.rules.clone().unwrap_or_default()
    {
        let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
        context.patch::<ClusterRole>(&key, None, patch).await?;
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::decoded;

    #[test]
    fn an_aggregated_role_is_the_union_of_what_it_selects() {
        let role = |name: &str, label: &str, rules: Value| -> Arc<ClusterRole> {
            Arc::new(decoded(
                json!({"metadata": {"name": name, "labels": {"into": label}}, "rules": rules}),
            ))
        };
        let all = [
            role("b", "view", json!([{"verbs": ["list"]}, {"verbs": ["get"]}])),
            role("a", "view", json!([{"verbs": ["get"]}])),
            role("c", "edit", json!([{"verbs": ["delete"]}])),
        ];
        let view = decoded(
            json!({"metadata": {"name": "view"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"into": "view"}}]}}),
        );
        assert_eq!(
            json!(union(&view, &all)),
            json!([{"verbs": ["get"]}, {"verbs": ["list"]}])
        );
    }
}
