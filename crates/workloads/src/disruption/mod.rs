//! Disruption budgets: counts healthy pods and says how many may be evicted. Watches budgets, pods and the sets behind
//! them; alone writes `status`, except `disruptedPods`, to which the server adds with each granted eviction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mainstay_control::{Controller, Error, ObjectKey, Requeue};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{BudgetStatus, Condition, Deployment, Pod, PodDisruptionBudget, ReplicaSet, StatefulSet};
use crate::owner::{self, controller_of, is_ended, ready_since, scaled};
use crate::pods::set_condition;

/// A granted eviction that did not happen within this time never will (upstream's number).
const GRANT_LIFE_SECONDS: i64 = 120;

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    let budgets = caches.budgets.clone();
    Controller::new("disruption")
        .wake_on(&caches.budgets, |change| vec![change.key.clone()])
        .wake_on(&caches.pods, move |change| {
            let sides: Vec<_> = [&change.old, &change.new].into_iter().flatten().collect();
            let covering = budgets.select(|budget| sides.iter().any(|pod| covers(budget, pod)));
            covering.iter().map(|budget| ObjectKey::of(&**budget)).collect()
        })
        .wait_for(&caches.replica_sets)
        .wait_for(&caches.deployments)
        .wait_for(&caches.stateful_sets)
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let empty = Default::default();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let selector = budget
        .spec
        .selector
        .as_ref()
        .and_then(|selector| selector.selector().ok());
    budget.metadata.namespace == pod.metadata.namespace
        && selector.is_some_and(|selector| selector.matches(labels))
}

/// How many pods there shall be: the sizes of the sets that control these. A pod without a known set counts for itself.
fn expected(pods: &[Arc<Pod>], size_of: &dyn Fn(&Pod) -> Option<(String, i32)>) -> i32 {
    let mut sizes: HashMap<String, i32> = HashMap::new();
    let mut single = 0;
    for pod in pods {
        match size_of(pod) {
            Some((uid, size)) => drop(sizes.insert(uid, size)),
            None => single += 1,
        }
    }
    sizes.values().sum::<i32>() + single
}

fn plan(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], expected: i32, now: Timestamp) -> BudgetStatus {
    let spec = &budget.spec;
    let live: Vec<_> = pods.iter().filter(|pod| !is_ended(pod)).collect();
    let (expected, desired) = match (scaled(&spec.max_unavailable, expected, true), &spec.min_available) {
        (Some(away), _) => (expected, (expected - away).max(0)),
        (None, least) if least.is_string() => (expected, scaled(least, expected, true).unwrap_or(expected)),
        (None, least) => (live.len() as i32, scaled(least, expected, true).unwrap_or(1)),
    };
    let granted: BTreeMap<_, _> = budget
        .status
        .disrupted_pods
        .iter()
        .filter(|(name, at)| {
            let pod = live.iter().find(|pod| pod.metadata.name.as_ref() == Some(*name));
            let waits = pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
            waits && now.as_second() - at.as_second() < GRANT_LIFE_SECONDS
        })
        .map(|(name, at)| (name.clone(), *at))
        .collect();
    let healthy = |pod: &&&Arc<Pod>| {
        let named = pod
            .metadata
            .name
            .as_ref()
            .is_some_and(|name| granted.contains_key(name));
        ready_since(pod).is_some() && pod.metadata.deletion_timestamp.is_none() && !named
    };
    let current = live.iter().filter(healthy).count() as i32;
    let allowed = if expected > 0 {
        (current - desired).max(0)
    } else {
        0
    };
    let mut conditions = budget.status.conditions.clone();
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let condition = Condition {
        kind: "DisruptionAllowed".into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(String::new()),
        observed_generation: budget.metadata.generation,
        ..Condition::default()
    };
    set_condition(&mut conditions, condition, now);
    BudgetStatus {
        observed_generation: budget.metadata.generation.unwrap_or(0),
        disrupted_pods: granted,
        disruptions_allowed: allowed,
        current_healthy: current,
        desired_healthy: desired,
        expected_pods: expected,
        conditions,
    }
}

/// The set that scales a pod: its Deployment if there is one, else its ReplicaSet or StatefulSet.
fn size_of(context: &Context, pod: &Pod) -> Option<(String, i32)> {
    let caches = &context.caches;
    let uid = controller_of(&pod.metadata)?.uid.clone();
    if let Some(key) = owner::owner_key::<StatefulSet>(&pod.metadata) {
        return Some((uid, caches.stateful_sets.get(&key)?.spec.replicas.unwrap_or(1)));
    }
    let set = caches
        .replica_sets
        .get(&owner::owner_key::<ReplicaSet>(&pod.metadata)?)?;
    let deployment =
        owner::owner_key::<Deployment>(&set.metadata).and_then(|key| caches.deployments.get(&key));
    match deployment {
        Some(deployment) => Some((
            deployment.metadata.uid.clone()?,
            deployment.spec.replicas.unwrap_or(1),
        )),
        None => Some((uid, set.spec.replicas.unwrap_or(1))),
    }
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(budget) = context.caches.budgets.get(&key) else {
        return Ok(Requeue::Never);
    };
    let pods = context.caches.pods.select(|pod| covers(&budget, pod));
    let expected = expected(&pods, &|pod| size_of(&context, pod));
    let status = plan(&budget, &pods, expected, context.clock.now());
    if status != budget.status {
        let mut patch =
            json!({"metadata": {"resourceVersion": budget.metadata.resource_version}, "status": status});
        let gone = budget
            .status
            .disrupted_pods
            .keys()
            .filter(|name| !status.disrupted_pods.contains_key(*name));
        for name in gone {
            patch["status"]["disruptedPods"][name] = serde_json::Value::Null;
        }
        context
            .patch::<PodDisruptionBudget>(&key, Some("status"), patch)
            .await?;
    }
    let waiting = !status.disrupted_pods.is_empty();
    Ok(if waiting {
        Requeue::After(Duration::from_secs(GRANT_LIFE_SECONDS.unsigned_abs()))
    } else {
        Requeue::Never
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded, pod};
    use serde_json::Value;

    /// (allowed, healthy, desired, expected) for three pods, two of them ready, of a set of four.
    fn check(spec: Value, granted: Value) -> (i32, i32, i32, i32) {
        let budget = decoded(
            json!({"metadata": {"name": "b", "namespace": "default"}, "spec": spec, "status": {"disruptedPods": granted}}),
        );
        let pods: Vec<Arc<Pod>> = vec![
            Arc::new(pod("a").ready(1).into()),
            Arc::new(pod("b").ready(1).into()),
            Arc::new(pod("c").into()),
        ];
        let expected = expected(&pods, &|_| Some(("uid-web".into(), 4)));
        let status = plan(&budget, &pods, expected, at(1000));
        (
            status.disruptions_allowed,
            status.current_healthy,
            status.desired_healthy,
            status.expected_pods,
        )
    }

    #[test]
    fn budgets_count_against_what_there_shall_be() {
        assert_eq!(check(json!({"minAvailable": 1}), json!({})), (1, 2, 1, 3));
        assert_eq!(check(json!({"minAvailable": "50%"}), json!({})), (0, 2, 2, 4));
        assert_eq!(check(json!({"maxUnavailable": 3}), json!({})), (1, 2, 1, 4));
    }

    #[test]
    fn granted_evictions_count_as_gone_for_a_while() {
        assert_eq!(
            check(json!({"minAvailable": 1}), json!({"a": at(950).to_string()})),
            (0, 1, 1, 3)
        );
        assert_eq!(
            check(json!({"minAvailable": 1}), json!({"a": at(800).to_string()})),
            (1, 2, 1, 3)
        );
    }
}
