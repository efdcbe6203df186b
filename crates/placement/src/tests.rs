//! Decisions as texts: what a pod gets told, where it goes, who is pushed out.

use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::json;

use crate::decide::{Options, best, feasible};
use crate::disruption::{Budget, Budgets};
use crate::drain::{AllPresent, DrainContext, DrainRules, move_pods, plan};
use crate::pod::Pod;
use crate::preempt::preempt;
use crate::snapshot::Snapshot;
use crate::testing::{cluster, node, node_with, pod, pod_with};
use crate::volume::VolumeRules;

/// The whole answer for a pod: its node, or the event's text.
fn answer(pod: &Pod, snapshot: &Snapshot, budgets: &Budgets) -> String {
    let options = Options::default();
    let misfit = match feasible(&pod.shape, snapshot, VolumeRules::NONE, &options, 0) {
        Ok(found) => {
            let at = best(&pod.shape, snapshot, &found, &[], &options).expect("a candidate");
            return snapshot.nodes()[at].info.name.to_string();
        }
        Err(misfit) => misfit,
    };
    match preempt(&pod.shape, snapshot, &misfit, VolumeRules::NONE, budgets) {
        Err(none) => format!("{} preemption: {}", misfit.text(), none.0),
        Ok(victims) => {
            let names: Vec<&str> = victims.pods.iter().map(|pod| &*pod.name).collect();
            format!(
                "evict {} from {}",
                names.join(", "),
                snapshot.nodes()[victims.node].info.name
            )
        }
    }
}

fn check(pod: Arc<Pod>, snapshot: &Snapshot, expected: Expect) {
    expected.assert_eq(&answer(&pod, snapshot, &Budgets::default()));
}

#[test]
fn an_extended_resource_that_no_node_has_gives_the_seeds_text() {
    let nodes = ["a", "b", "c"].map(|name| (node(name, "4", "8Gi"), vec![]));
    check(
        pod("p", "cpu=1 example.com/reclaimed-cpu=2"),
        &cluster(nodes.into()),
        expect![
            "0/3 nodes are available: 3 Insufficient example.com/reclaimed-cpu. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
        ],
    );
}

#[test]
fn reasons_are_counted_and_sorted_as_texts() {
    let cordoned = {
        let mut info = (*node("c", "4", "8Gi")).clone();
        info.unschedulable = true;
        Arc::new(info)
    };
    let snapshot = cluster(vec![
        (node("a", "1", "8Gi"), vec![]),
        (node("b", "1", "1Gi"), vec![]),
        (cordoned, vec![]),
    ]);
    check(
        pod("p", "cpu=2 memory=2Gi"),
        &snapshot,
        expect![
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
        ],
    );
}

#[test]
fn an_empty_node_is_better_than_a_half_full_one() {
    let snapshot = cluster(vec![
        (node("a", "4", "8Gi"), vec![pod("x", "cpu=2 memory=4Gi")]),
        (node("b", "4", "8Gi"), vec![]),
    ]);
    check(pod("p", "cpu=1 memory=1Gi"), &snapshot, expect!["b"]);
}

#[test]
fn the_least_important_pods_are_pushed_out() {
    let snapshot = cluster(vec![
        (node("a", "4", "8Gi"), vec![pod("high", "cpu=3 priority=50")]),
        (
            node("b", "4", "8Gi"),
            vec![pod("low", "cpu=2 priority=1"), pod("lower", "cpu=2 priority=0")],
        ),
    ]);
    check(
        pod("p", "cpu=2 priority=100"),
        &snapshot,
        expect!["evict lower from b"],
    );
}

#[test]
fn a_spent_budget_makes_preemption_choose_another_node() {
    let snapshot = cluster(vec![
        (node("a", "2", "8Gi"), vec![pod("kept", "cpu=2 app=kept")]),
        (node("b", "2", "8Gi"), vec![pod("free", "cpu=2 priority=5")]),
    ]);
    let selector = mainstay_semantics::selector::Selector::parse("app=kept").expect("a selector");
    let budget = Budget {
        namespace: "default".into(),
        name: "b".into(),
        selector,
        allowed: 0,
    };
    let text = answer(
        &pod("p", "cpu=2 priority=10"),
        &snapshot,
        &Budgets::new(vec![budget]),
    );
    expect!["evict free from b"].assert_eq(&text);
}

#[test]
fn spread_and_anti_affinity_keep_pods_apart() {
    let zones = [("a", "1"), ("b", "2")]
        .map(|(name, zone)| node_with(name, json!({"cpu": "8", "memory": "8Gi"}), &[("zone", zone)]));
    let [a, b] = zones;
    let snapshot = cluster(vec![
        (a, vec![pod("w0", "cpu=1 app=w")]),
        (b, vec![pod("big", "cpu=5")]),
    ]);
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "w"}}}]});
    check(
        pod_with("w1", "cpu=1 app=w", spread.clone()),
        &snapshot,
        expect!["b"],
    );
    check(
        pod_with("w1", "cpu=4 app=w", spread),
        &snapshot,
        expect![
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
        ],
    );
    let away = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "w"}}}]}}});
    check(pod_with("x", "cpu=1", away), &snapshot, expect!["b"]);
}

#[test]
fn existing_anti_affinity_and_missing_affinity_have_their_own_words() {
    let away = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "w"}}}]}}});
    let snapshot = cluster(vec![(
        node("a", "8", "8Gi"),
        vec![pod_with("lonely", "cpu=1", away)],
    )]);
    check(
        pod("w", "cpu=1 app=w"),
        &snapshot,
        expect![
            "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        ],
    );
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    check(
        pod_with("p", "cpu=1", near.clone()),
        &snapshot,
        expect![
            "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        ],
    );
    check(pod_with("db0", "cpu=1 app=db", near), &snapshot, expect!["a"]);
}

#[test]
fn taints_ports_and_selectors_filter() {
    let mut info = (*node("a", "4", "8Gi")).clone();
    info.taints = serde_json::from_value(json!([{"key": "gpu", "value": "y", "effect": "NoSchedule"}]))
        .expect("taints");
    let snapshot = cluster(vec![
        (Arc::new(info), vec![]),
        (node("b", "4", "8Gi"), vec![pod("x", "cpu=1 port=80")]),
        (
            node_with("c", json!({"cpu": "4", "memory": "8Gi"}), &[("disk", "ssd")]),
            vec![],
        ),
    ]);
    let selected = json!({"nodeSelector": {"disk": "hdd"}});
    check(
        pod_with("p", "cpu=1", selected),
        &snapshot,
        expect![
            "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: y}, 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        ],
    );
    check(pod("q", "cpu=1 port=80"), &snapshot, expect!["c"]);
    let tolerant =
        json!({"tolerations": [{"key": "gpu", "operator": "Exists"}], "preemptionPolicy": "Never"});
    check(
        pod_with("r", "cpu=5", tolerant),
        &snapshot,
        expect![
            "0/3 nodes are available: 3 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
        ],
    );
}

#[test]
fn a_drain_needs_a_place_for_every_pod() {
    let mut snapshot = cluster(vec![
        (node("a", "4", "8Gi"), vec![pod("x", "cpu=2"), pod("y", "cpu=2")]),
        (node("b", "4", "8Gi"), vec![pod("z", "cpu=1")]),
    ]);
    let (rules, budgets) = (DrainRules::default(), Budgets::default());
    let context = DrainContext {
        rules: &rules,
        budgets: &budgets,
        owners: &AllPresent,
        now: 0,
    };
    let drain = plan(&snapshot.nodes()[0], &context).expect("nothing blocks");
    let stuck = move_pods(&mut snapshot, 0, &drain.moving, &|_| true, &mut 0).expect_err("b is too small");
    assert_eq!(&*stuck.name, "y");
    assert_eq!(snapshot.nodes()[0].pods.len(), 2, "a failed move changes nothing");
    move_pods(&mut snapshot, 0, &drain.moving[..1], &|_| true, &mut 0).expect("one fits");
    assert_eq!(snapshot.nodes()[1].pods.len(), 2);
}

#[test]
fn a_pod_that_claims_devices_is_left_to_a_scheduler_that_allocates_them() {
    check(
        pod_with(
            "p",
            "",
            json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}),
        ),
        &cluster(vec![(node("a", "4", "8Gi"), vec![])]),
        expect![
            "0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        ],
    );
}
