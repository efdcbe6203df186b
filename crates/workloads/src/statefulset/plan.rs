//! The decision: the next pod to make or to delete, in the order of numbers, and what the status says. Rules:
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#deployment-and-scaling-guarantees>.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use mainstay_control::Requeue;

use super::template::ordinal;
use crate::kinds::{Pod, StatefulSet, StatefulSetStatus};
use crate::owner::{is_available, is_ended, next_available, ready_since};
use crate::revision::HASH_LABEL;

/// What the decision is made from.
pub(super) struct Seen<'a> {
    pub set: &'a StatefulSet,
    /// The set's pods; all have a number.
    pub pods: &'a [Arc<Pod>],
    /// The revision that the set is on, and the one it goes to, by name.
    pub current: &'a str,
    pub update: &'a str,
}

#[derive(Debug)]
pub(super) enum Step {
    Create { ordinal: i32, revision: String },
    Delete(Arc<Pod>),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub status: StatefulSetStatus,
    pub again: Requeue,
}

/// The revision that a pod was made from, by name.
pub(super) fn revision(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(HASH_LABEL).map(String::as_str)
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The pods by number: those that shall be, and those that are too many.
struct Pods<'a> {
    wanted: std::ops::Range<i32>,
    by_number: BTreeMap<i32, &'a Arc<Pod>>,
    min_ready_seconds: i32,
    now: Timestamp,
}

impl<'a> Pods<'a> {
    fn of(seen: &Seen<'a>, now: Timestamp) -> Self {
        let spec = &seen.set.spec;
        let start = spec.ordinals.start;
        let name = seen.set.metadata.name.as_deref().unwrap_or_default();
        let numbered = |pod: &'a Arc<Pod>| Some((ordinal(name, pod)?, pod));
        Pods {
            wanted: start..start + spec.replicas.unwrap_or(1),
            by_number: seen.pods.iter().filter_map(numbered).collect(),
            min_ready_seconds: spec.min_ready_seconds,
            now,
        }
    }

    fn serves(&self, pod: &Pod) -> bool {
        !is_leaving(pod) && is_available(pod, self.min_ready_seconds, self.now)
    }

    /// Those too many, the last first.
    fn surplus(&self) -> Vec<&'a Arc<Pod>> {
        let outside = self
            .by_number
            .iter()
            .rev()
            .filter(|(number, _)| !self.wanted.contains(number));
        outside.map(|(_, pod)| *pod).collect()
    }
}

pub(super) fn plan(seen: &Seen<'_>, now: Timestamp) -> Plan {
    let pods = Pods::of(seen, now);
    let in_order = seen.set.spec.pod_management_policy.as_deref() != Some("Parallel");
    let steps = steps(seen, &pods, in_order);
    Plan {
        steps,
        status: status(seen, &pods),
        again: next_available(seen.pods, seen.set.spec.min_ready_seconds, now),
    }
}

fn steps(seen: &Seen<'_>, pods: &Pods<'_>, in_order: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for number in pods.wanted.clone() {
        let waits = match pods.by_number.get(&number) {
            None => {
                steps.push(Step::Create {
                    ordinal: number,
                    revision: revision_for(seen, pods, number).to_owned(),
                });
                true
            }
            // An ended pod of this name must go before it can be made anew.
            Some(pod) if is_ended(pod) && !is_leaving(pod) => {
                steps.push(Step::Delete((*pod).clone()));
                true
            }
            Some(pod) => !pods.serves(pod),
        };
        if waits && in_order {
            return steps;
        }
    }
    let surplus = pods.surplus();
    for pod in &surplus {
        if !is_leaving(pod) {
            steps.push(Step::Delete((*pod).clone()));
        }
        if in_order {
            return steps;
        }
    }
    if steps.is_empty() && surplus.is_empty() {
        steps.extend(next_update(seen, pods));
    }
    steps
}

/// Which template a new pod is made from: while an update runs, numbers below its line stay with the revision before.
fn revision_for<'a>(seen: &Seen<'a>, pods: &Pods<'_>, number: i32) -> &'a str {
    let strategy = &seen.set.spec.update_strategy;
    if strategy.kind.as_deref() == Some("OnDelete") {
        return seen.update;
    }
    let below = match strategy.rolling_update.partition {
        Some(partition) if partition > 0 => partition,
        _ => seen.set.status.current_replicas,
    };
    if number < pods.wanted.start + below {
        seen.current
    } else {
        seen.update
    }
}

/// The last pod that has not the new template, once all above it serve.
fn next_update(seen: &Seen<'_>, pods: &Pods<'_>) -> Option<Step> {
    let strategy = &seen.set.spec.update_strategy;
    if strategy.kind.as_deref() == Some("OnDelete") {
        return None;
    }
    let first = pods.wanted.start + strategy.rolling_update.partition.unwrap_or(0);
    for number in (first..pods.wanted.end).rev() {
        let pod = pods.by_number.get(&number)?;
        if revision(pod) != Some(seen.update) {
            return (!is_leaving(pod)).then(|| Step::Delete((*pod).clone()));
        }
        if !pods.serves(pod) {
            return None;
        }
    }
    None
}

fn status(seen: &Seen<'_>, pods: &Pods<'_>) -> StatefulSetStatus {
    let count = |keep: &dyn Fn(&Pod) -> bool| pods.by_number.values().filter(|pod| keep(pod)).count() as i32;
    let is_of = |name: &str, pod: &Pod| !is_leaving(pod) && revision(pod) == Some(name);
    let mut status = StatefulSetStatus {
        replicas: pods.by_number.len() as i32,
        ready_replicas: count(&|pod| !is_leaving(pod) && ready_since(pod).is_some()),
        available_replicas: count(&|pod| pods.serves(pod)),
        current_replicas: count(&|pod| is_of(seen.current, pod)),
        updated_replicas: count(&|pod| is_of(seen.update, pod)),
        current_revision: seen.current.to_owned(),
        update_revision: seen.update.to_owned(),
        observed_generation: seen.set.metadata.generation.unwrap_or(0),
        collision_count: seen.set.status.collision_count,
    };
    let all = pods.wanted.len() as i32;
    let rolls = seen.set.spec.update_strategy.kind.as_deref() != Some("OnDelete");
    if rolls && status.updated_replicas == all && status.ready_replicas == all && status.replicas == all {
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn set(replicas: i32, extra: Value) -> StatefulSet {
        let mut spec = json!({"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]});
        for (name, value) in extra.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        decoded(
            json!({"metadata": {"name": "db", "namespace": "default", "uid": "u", "generation": 1}, "spec": spec,
            "status": {"currentReplicas": replicas, "currentRevision": "db-old"}}),
        )
    }

    /// A pod by name, revision and state: `ready`, `starting`, `failed` or `leaving`.
    fn pod(name: &str, revision: &str, state: &str) -> Arc<Pod> {
        let mut object = json!({
            "metadata": {"name": name, "namespace": "default", "labels": {HASH_LABEL: revision}},
            "status": {"phase": if state == "failed" { "Failed" } else { "Running" }},
        });
        if state == "ready" || state == "leaving" {
            object["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "lastTransitionTime": at(1).to_string()}]);
        }
        if state == "leaving" {
            object["metadata"]["deletionTimestamp"] = at(5).to_string().into();
        }
        Arc::new(decoded(object))
    }

    fn check(set: &StatefulSet, pods: &[Arc<Pod>], current: &str, expected: Expect) {
        let plan = plan(
            &Seen {
                set,
                pods,
                current,
                update: "db-new",
            },
            at(100),
        );
        let text = |step: &Step| match step {
            Step::Create { ordinal, revision } => format!("create {ordinal} as {revision}"),
            Step::Delete(pod) => format!("delete {}", pod.metadata.name.as_deref().unwrap_or_default()),
        };
        let steps: Vec<String> = plan.steps.iter().map(text).collect();
        let status = &plan.status;
        expected.assert_eq(&format!(
            "{} | replicas {} ready {} current {} updated {} on {}",
            steps.join(", "),
            status.replicas,
            status.ready_replicas,
            status.current_replicas,
            status.updated_replicas,
            status.current_revision
        ));
    }

    #[test]
    fn pods_come_one_after_the_other_and_in_parallel_all_at_once() {
        let first = [pod("db-0", "db-new", "starting")];
        check(
            &set(3, json!({})),
            &[],
            "db-new",
            expect!["create 0 as db-new | replicas 0 ready 0 current 0 updated 0 on db-new"],
        );
        check(
            &set(3, json!({})),
            &first,
            "db-new",
            expect![" | replicas 1 ready 0 current 1 updated 1 on db-new"],
        );
        check(
            &set(
                3,
                json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}),
            ),
            &[],
            "db-new",
            expect![
                "create 5 as db-new, create 6 as db-new, create 7 as db-new | replicas 0 ready 0 current 0 updated 0 on db-new"
            ],
        );
    }

    #[test]
    fn the_last_goes_first_and_only_when_the_rest_serves() {
        let ready = ["db-0", "db-1", "db-2"].map(|name| pod(name, "db-new", "ready"));
        check(
            &set(1, json!({})),
            &ready,
            "db-new",
            expect!["delete db-2 | replicas 3 ready 3 current 3 updated 3 on db-new"],
        );
        let broken = [pod("db-0", "db-new", "starting"), pod("db-1", "db-new", "ready")];
        check(
            &set(1, json!({})),
            &broken,
            "db-new",
            expect![" | replicas 2 ready 1 current 2 updated 2 on db-new"],
        );
        let leaving = [
            pod("db-0", "db-new", "ready"),
            pod("db-1", "db-new", "ready"),
            pod("db-2", "db-new", "leaving"),
        ];
        check(
            &set(1, json!({})),
            &leaving,
            "db-new",
            expect![" | replicas 3 ready 2 current 2 updated 2 on db-new"],
        );
    }

    #[test]
    fn an_ended_pod_makes_room_for_its_successor() {
        check(
            &set(2, json!({})),
            &[pod("db-0", "db-new", "failed"), pod("db-1", "db-new", "ready")],
            "db-new",
            expect!["delete db-0 | replicas 2 ready 1 current 2 updated 2 on db-new"],
        );
    }

    #[test]
    fn an_update_goes_from_the_last_down_to_the_partition_and_waits_for_each() {
        let old = ["db-0", "db-1", "db-2"].map(|name| pod(name, "db-old", "ready"));
        check(
            &set(3, json!({})),
            &old,
            "db-old",
            expect!["delete db-2 | replicas 3 ready 3 current 3 updated 0 on db-old"],
        );
        let two = [old[0].clone(), old[1].clone(), pod("db-2", "db-new", "ready")];
        let partition = json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}});
        check(
            &set(3, partition),
            &two,
            "db-old",
            expect![" | replicas 3 ready 3 current 2 updated 1 on db-old"],
        );
        let done = ["db-0", "db-1"].map(|name| pod(name, "db-new", "ready"));
        check(
            &set(2, json!({})),
            &done,
            "db-old",
            expect![" | replicas 2 ready 2 current 2 updated 2 on db-new"],
        );
    }

    #[test]
    fn during_an_update_a_lost_pod_comes_back_as_it_was() {
        let mut half = set(3, json!({}));
        half.status.current_replicas = 2;
        let pods = [pod("db-1", "db-old", "ready"), pod("db-2", "db-new", "ready")];
        check(
            &half,
            &pods,
            "db-old",
            expect!["create 0 as db-old | replicas 2 ready 2 current 1 updated 1 on db-old"],
        );
    }

    #[test]
    fn a_pod_has_its_name_its_host_and_its_claim() {
        let set = set(1, json!({}));
        let pod = super::super::template::pod(&set, &set.spec.template, 0, "db-new");
        let spec = &pod["spec"];
        expect![[r#""db-0" "db" [{"name":"data","persistentVolumeClaim":{"claimName":"data-db-0"}}]"#]]
            .assert_eq(&format!(
                "{} {} {}",
                spec["hostname"], spec["subdomain"], spec["volumes"]
            ));
        let claims = super::super::template::claims(&set, 0);
        assert_eq!(claims[0]["metadata"]["name"], "data-db-0");
        assert_eq!(claims[0]["metadata"]["labels"], json!({"app": "db"}));
        let numbered = |name: &str| ordinal("db", &decoded(json!({"metadata": {"name": name}})));
        assert_eq!(
            ["db-10", "db-0", "db-01", "db-x", "dbx-1"].map(numbered),
            [Some(10), Some(0), None, None, None]
        );
    }
}
