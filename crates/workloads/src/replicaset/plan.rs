//! The decision: create or delete how many, which ones, and what the status says.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use mainstay_control::{Error, Requeue};

use crate::kinds::{Condition, Pod, ReplicaSet, ReplicaSetStatus};
use crate::owner::{controller_of, is_active, is_available, next_available, ready_since};
use crate::pods::{BURST, set_condition};

/// What the decision is made from.
pub(crate) struct Seen {
    pub set: Arc<ReplicaSet>,
    /// The pods that are the set's.
    pub pods: Vec<Arc<Pod>>,
    /// All pods of the namespace: siblings of one Deployment count when crowded nodes are relieved first.
    pub all: Vec<Arc<Pod>>,
}

#[derive(Debug)]
pub(crate) enum Step {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub step: Step,
    pub status: ReplicaSetStatus,
    pub again: Requeue,
}

impl Plan {
    /// The status with the outcome of the step: condition ReplicaFailure while creates or deletes fail.
    pub(crate) fn status_after(&self, outcome: &Result<(), Error>, now: Timestamp) -> ReplicaSetStatus {
        let mut status = self.status.clone();
        let Err(error) = outcome else {
            status
                .conditions
                .retain(|condition| condition.kind != "ReplicaFailure");
            return status;
        };
        let reason = if matches!(self.step, Step::Delete(_)) {
            "FailedDelete"
        } else {
            "FailedCreate"
        };
        let failure = Condition {
            kind: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(mainstay_base::error::chain(error)),
            ..Condition::default()
        };
        set_condition(&mut status.conditions, failure, now);
        status
    }
}

pub(crate) fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let set = &seen.set;
    let active: Vec<_> = seen.pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    let step = if set.metadata.deletion_timestamp.is_some() || active.len() == wanted {
        Step::Nothing
    } else if active.len() < wanted {
        Step::Create((wanted - active.len()).min(BURST))
    } else {
        Step::Delete(first_to_go(
            seen,
            &active,
            (active.len() - wanted).min(BURST),
            now,
        ))
    };
    Plan {
        step,
        status: status(seen, &active, now),
        again: next_available(&active, set.spec.min_ready_seconds, now),
    }
}

fn status(seen: &Seen, active: &[Arc<Pod>], now: Timestamp) -> ReplicaSetStatus {
    let set = &seen.set;
    let template = &set.spec.template["metadata"]["labels"];
    let labelled = |pod: &&Arc<Pod>| {
        let of = |key: &str| pod.metadata.labels.as_ref()?.get(key);
        template.as_object().is_none_or(|labels| {
            labels
                .iter()
                .all(|(key, value)| of(key).map(String::as_str) == value.as_str())
        })
    };
    let count = |keep: &dyn Fn(&&Arc<Pod>) -> bool| active.iter().filter(keep).count() as i32;
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: count(&labelled),
        ready_replicas: count(&|pod| ready_since(pod).is_some()),
        available_replicas: count(&|pod| is_available(pod, set.spec.min_ready_seconds, now)),
        terminating_replicas: seen
            .pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some())
            .count() as i32,
        observed_generation: set.metadata.generation.unwrap_or(0),
        conditions: set.status.conditions.clone(),
    }
}

/// The pods to delete, by the order of
/// <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset>.
fn first_to_go(seen: &Seen, active: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let crowd = crowd(seen);
    let mut ranked = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let phase = match pod.status.phase.as_deref() {
            Some("Pending") | None => 0,
            Some("Unknown") => 1,
            Some(_) => 2,
        };
        let ready = ready_since(pod);
        let neighbours = pod
            .spec
            .node_name
            .as_ref()
            .and_then(|node| crowd.get(node))
            .copied()
            .unwrap_or(0);
        let restarts = pod
            .status
            .container_statuses
            .iter()
            .map(|container| container.restart_count)
            .max()
            .unwrap_or(0);
        let created = pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(now, |time| time.0);
        (
            (
                pod.spec.node_name.is_some(),
                phase,
                ready.is_some(),
                deletion_cost(pod),
            ),
            (
                Reverse(neighbours),
                Reverse(ready),
                Reverse(restarts),
                Reverse(created),
            ),
        )
    });
    ranked.truncate(count);
    ranked
}

fn deletion_cost(pod: &Pod) -> i32 {
    let text = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Active pods per node of this set and of its siblings: sets with the same controller.
fn crowd(seen: &Seen) -> HashMap<String, usize> {
    let uid = seen.set.metadata.uid.as_deref();
    let family = controller_of(&seen.set.metadata).map(|owner| owner.name.as_str());
    let related = |pod: &Pod| {
        controller_of(&pod.metadata).is_some_and(|owner| {
            let sibling = family.is_some_and(|family| {
                owner
                    .name
                    .rsplit_once('-')
                    .is_some_and(|(parent, _)| owner.kind == "ReplicaSet" && parent == family)
            });
            Some(owner.uid.as_str()) == uid || sibling
        })
    };
    let mut crowd = HashMap::new();
    for pod in seen.all.iter().filter(|pod| is_active(pod) && related(pod)) {
        *crowd
            .entry(pod.spec.node_name.clone().unwrap_or_default())
            .or_default() += 1;
    }
    crowd
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod, replica_set};
    use expect_test::{Expect, expect};

    fn check(wanted: i32, pods: Vec<Pod>, expected: Expect) {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let seen = Seen {
            set: Arc::new(replica_set("web", wanted)),
            all: pods.clone(),
            pods,
        };
        let plan = plan(&seen, at(100));
        let step = match &plan.step {
            Step::Nothing => "nothing".to_string(),
            Step::Create(count) => format!("create {count}"),
            Step::Delete(pods) => {
                let names: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
                format!("delete {}", names.join(" "))
            }
        };
        let status = &plan.status;
        let counts = (status.replicas, status.ready_replicas, status.available_replicas);
        expected.assert_eq(&format!("{step}; {counts:?}"));
    }

    #[test]
    fn missing_pods_are_created_and_ended_ones_replaced() {
        check(
            3,
            vec![pod("a").ready(10).into(), pod("b").phase("Failed").into()],
            expect!["create 2; (1, 1, 1)"],
        );
    }

    #[test]
    fn pods_being_deleted_do_not_count() {
        check(
            1,
            vec![pod("a").deleting().into()],
            expect!["create 1; (0, 0, 0)"],
        );
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = vec![
            pod("old").on("n1").ready(10).into(),
            pod("young").on("n2").ready(90).into(),
            pod("unready").on("n3").phase("Running").into(),
            pod("pending").on("n4").phase("Pending").into(),
            pod("unassigned").phase("Pending").into(),
        ];
        check(
            1,
            pods,
            expect!["delete unassigned pending unready young; (5, 2, 2)"],
        );
    }

    #[test]
    fn cost_comes_before_crowds_and_crowds_before_age() {
        let pods = vec![
            pod("alone").on("n1").ready(50).into(),
            pod("crowded").on("n2").ready(10).into(),
            pod("crowded-too").on("n2").ready(20).into(),
            pod("cheap").on("n3").ready(10).cost(-5).into(),
        ];
        check(1, pods, expect!["delete cheap crowded-too crowded; (4, 4, 4)"]);
    }
}
