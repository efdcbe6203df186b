//! Whole plans as text.

use super::*;
use crate::testing::{at, decoded};
use expect_test::{Expect, expect};

struct World {
    spec: Value,
    template: Value,
    sets: Vec<ReplicaSet>,
    status: Value,
    pods: Vec<Pod>,
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A Deployment `web` of image `v2` with this size.
fn web(replicas: i32) -> World {
    World {
        spec: json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}}),
        template: template("v2"),
        sets: Vec::new(),
        status: json!({}),
        pods: Vec::new(),
    }
}

impl World {
    fn spec(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    /// A set with an image, its size and how many are available; `desired` is what the Deployment asked when scaled.
    fn set(mut self, image: &str, size: i32, available: i32, desired: i32) -> Self {
        let number = self.sets.len() + 1;
        let mut template = template(image);
        template["metadata"]["labels"]["pod-template-hash"] = image.into();
        self.sets.push(decoded(json!({
            "metadata": {"name": format!("web-{image}"), "namespace": "default", "uid": format!("uid-{image}"),
                "creationTimestamp": at(number as i64).to_string(),
                "annotations": {"deployment.kubernetes.io/revision": number.to_string(),
                    "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                    "deployment.kubernetes.io/max-replicas": (desired + (desired + 3) / 4).to_string()}},
            "spec": {"replicas": size, "template": template},
            "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available},
        })));
        self
    }

    fn pod(mut self, image: &str) -> Self {
        self.pods.push(decoded(json!({"metadata": {"name": "p", "ownerReferences": [{"apiVersion": "apps/v1",
            "kind": "ReplicaSet", "name": format!("web-{image}"), "uid": format!("uid-{image}"), "controller": true}]}})));
        self
    }

    fn plan(mut self) -> Plan {
        self.spec["template"] = self.template;
        let deployment = decoded(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "generation": 1,
                "annotations": {"deployment.kubernetes.io/revision": self.sets.len().max(1).to_string()}},
            "spec": self.spec, "status": self.status,
        }));
        let seen = Seen {
            deployment: Arc::new(deployment),
            sets: self.sets.into_iter().map(Arc::new).collect(),
            pods: self.pods.into_iter().map(Arc::new).collect(),
        };
        plan(&seen, at(1000))
    }

    fn check(self, expected: Expect) {
        let plan = self.plan();
        let steps: Vec<String> = plan.steps.iter().map(text).collect();
        let condition = |condition: &crate::kinds::Condition| {
            format!(
                "{}={} {}",
                condition.kind,
                condition.status,
                condition.reason.as_deref().unwrap_or("-")
            )
        };
        let conditions: Vec<_> = plan.status.conditions.iter().map(condition).collect();
        expected.assert_eq(&format!("{}; {}", steps.join(", "), conditions.join(", ")));
    }
}

fn text(step: &Step) -> String {
    match step {
        Step::Annotate(annotations) => format!("annotate {annotations}"),
        Step::Create { replicas, .. } => format!("create {replicas}"),
        Step::Update {
            set,
            replicas,
            annotations,
        } => {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            replicas.map_or_else(
                || format!("annotate {name} {annotations}"),
                |size| format!("{name} to {size}"),
            )
        }
        Step::Remove(set) => format!("remove {}", set.metadata.name.as_deref().unwrap_or_default()),
    }
}

#[test]
fn the_first_set_gets_all_replicas() {
    web(3).check(expect![
        "create 3; Available=False MinimumReplicasUnavailable, Progressing=True NewReplicaSetCreated"
    ]);
}

#[test]
fn a_rolling_update_begins_with_the_surge() {
    web(4).set("v1", 4, 4, 4).check(expect![[r#"annotate {"deployment.kubernetes.io/revision":"2"}, create 1; Available=True MinimumReplicasAvailable, Progressing=True NewReplicaSetCreated"#]]);
}

#[test]
fn old_pods_go_while_enough_are_available() {
    web(4).set("v1", 4, 4, 4).set("v2", 1, 0, 4).check(expect![
        "web-v1 to 3; Available=True MinimumReplicasAvailable, Progressing=True ReplicaSetUpdated"
    ]);
}

#[test]
fn unhealthy_old_pods_go_first_and_nothing_goes_below_the_minimum() {
    web(4).set("v1", 3, 2, 4).set("v2", 2, 1, 4).check(expect![
        "web-v1 to 2; Available=True MinimumReplicasAvailable, Progressing=True ReplicaSetUpdated"
    ]);
    web(4).set("v1", 3, 3, 4).set("v2", 2, 0, 4).check(expect![
        "; Available=True MinimumReplicasAvailable, Progressing=True ReplicaSetUpdated"
    ]);
}

#[test]
fn a_finished_rollout_forgets_sets_beyond_the_limit() {
    web(2)
        .spec("revisionHistoryLimit", json!(1))
        .set("v0", 0, 0, 2)
        .set("v1", 0, 0, 2)
        .set("v2", 2, 2, 2)
        .check(expect![
            "remove web-v0; Available=True MinimumReplicasAvailable, Progressing=True NewReplicaSetAvailable"
        ]);
}

#[test]
fn a_rollback_reuses_the_old_set_under_a_new_number() {
    web(2).set("v2", 0, 0, 2).set("v3", 2, 2, 2).check(expect![[r#"annotate {"deployment.kubernetes.io/revision":"3"}, annotate web-v2 {"deployment.kubernetes.io/revision":"3","deployment.kubernetes.io/revision-history":"1"}; Available=True MinimumReplicasAvailable, Progressing=True ReplicaSetUpdated"#]]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let recreate = |world: World| world.spec("strategy", json!({"type": "Recreate"}));
    recreate(web(2)).set("v1", 2, 2, 2).check(expect![[r#"annotate {"deployment.kubernetes.io/revision":"2"}, web-v1 to 0; Available=True MinimumReplicasAvailable, Progressing=True ReplicaSetUpdated"#]]);
    recreate(web(2)).set("v1", 0, 0, 2).pod("v1").check(expect![[r#"annotate {"deployment.kubernetes.io/revision":"2"}; Available=False MinimumReplicasUnavailable, Progressing=True ReplicaSetUpdated"#]]);
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    web(10).set("v1", 4, 4, 5).set("v2", 2, 2, 5).check(expect!["web-v1 to 9, web-v2 to 4; Available=False MinimumReplicasUnavailable, Progressing=True ReplicaSetUpdated"]);
}

#[test]
fn a_paused_deployment_only_scales() {
    web(3)
        .spec("paused", json!(true))
        .set("v1", 2, 2, 2)
        .check(expect![
            "web-v1 to 3; Available=False MinimumReplicasUnavailable, Progressing=Unknown DeploymentPaused"
        ]);
}

#[test]
fn a_rollout_without_progress_times_out() {
    let mut world = web(2).set("v2", 2, 0, 2);
    world.status = json!({"replicas": 2, "updatedReplicas": 2, "conditions": [{"type": "Progressing", "status": "True",
        "reason": "ReplicaSetUpdated", "lastUpdateTime": at(300).to_string()}]});
    world.check(expect![
        "; Available=False MinimumReplicasUnavailable, Progressing=False ProgressDeadlineExceeded"
    ]);
}
