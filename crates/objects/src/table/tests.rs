//! Tables as kubectl shows them.

use super::*;
use expect_test::{Expect, expect};

fn now() -> jiff::Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("time")
}

fn show(columns: &Columns<'_>, object: &Value) -> String {
    let definitions = columns.definitions();
    let cells = columns.cells(object, now());
    let pairs = definitions
        .as_array()
        .into_iter()
        .flatten()
        .zip(cells.as_array().into_iter().flatten());
    pairs
        .map(|(column, cell)| {
            let wide = if column["priority"] == 1 { "*" } else { "" };
            format!("{}{wide}: {cell}\n", column["name"].as_str().unwrap_or_default())
        })
        .collect()
}

fn check(group: &str, kind: &str, object: Value, expected: Expect) {
    expected.assert_eq(&show(&Columns::builtin(group, kind), &object));
}

#[test]
fn pods_show_their_most_telling_state() {
    let pod = |status: Value, deleted: bool| {
        let mut pod = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T11:50:30Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}, "status": status});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z".into();
        }
        pod
    };
    let running = json!({"phase": "Running", "podIP": "10.0.0.1", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}], "containerStatuses": [
        {"ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T11:58:00Z"}}},
        {"ready": false, "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    check(
        "",
        "Pod",
        pod(running.clone(), false),
        expect![[r#"
            Name: "p"
            Ready: "1/2"
            Status: "CrashLoopBackOff"
            Restarts: "2 (2m ago)"
            Age: "9m30s"
            IP*: "10.0.0.1"
            Node*: "<none>"
            Nominated Node*: "<none>"
            Readiness Gates*: "<none>"
        "#]],
    );
    let status = |pod: &Value| super::pod::status(pod, now());
    assert_eq!(status(&pod(running, true)), "Terminating");
    assert_eq!(status(&pod(json!({"phase": "Pending"}), false)), "Pending");
    let init = json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]});
    assert_eq!(status(&pod(init, false)), "Init:0/1");
    assert_eq!(
        status(&pod(json!({"phase": "Failed", "reason": "Evicted"}), false)),
        "Evicted"
    );
}

#[test]
fn services_nodes_and_unknown_kinds() {
    check(
        "",
        "Service",
        json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}], "selector": {"a": "b"}}}),
        expect![[r#"
            Name: "s"
            Type: "NodePort"
            Cluster-IP: "10.0.0.1"
            External-IP: "<none>"
            Port(s): "80:30080/TCP"
            Age: "<unknown>"
            Selector*: "a=b"
        "#]],
    );
    check(
        "",
        "Node",
        json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.3"}}}),
        expect![[r#"
            Name: "n"
            Status: "Ready,SchedulingDisabled"
            Roles: "control-plane"
            Age: "<unknown>"
            Version: "v1.36.3"
            Internal-IP*: "<none>"
            External-IP*: "<none>"
            OS-Image*: "<unknown>"
            Kernel-Version*: "<unknown>"
            Container-Runtime*: "<unknown>"
        "#]],
    );
    check(
        "x",
        "Y",
        json!({"metadata": {"name": "y", "creationTimestamp": "2024-01-01T00:00:00Z"}}),
        expect![[r#"
        Name: "y"
        Age: "2y1d"
    "#]],
    );
}

#[test]
fn custom_columns_follow_their_types() {
    let column = |name: &str, kind: &str, path: &str| CustomColumn {
        name: name.into(),
        kind: kind.into(),
        format: String::new(),
        description: String::new(),
        priority: 0,
        path: crate::jsonpath::JsonPath::parse(path).expect("path"),
    };
    let columns = [
        column(
            "Ready",
            "string",
            ".status.conditions[?(@.type==\"Ready\")].status",
        ),
        column("Replicas", "integer", ".spec.replicas"),
        column("Age", "date", ".metadata.creationTimestamp"),
        column("None", "string", ".spec.none"),
    ];
    let object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T11:59:55Z"}, "spec": {"replicas": 3}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    expect![[r#"
        Name: "a"
        Ready: "True"
        Replicas: 3
        Age: "5s"
        None: null
    "#]]
    .assert_eq(&show(&Columns::custom(&columns), &object));
}

#[test]
fn ages_read_like_kubectl() {
    let age = |seconds: i64| {
        cells::elapsed(
            now(),
            jiff::Timestamp::from_second(now().as_second() + seconds).expect("time"),
        )
    };
    let shown: Vec<String> = [
        -5,
        -1,
        0,
        119,
        120,
        125,
        600,
        7200,
        10_800,
        14_460,
        100_000,
        200_000,
        700_000,
        63_072_000,
        300_000_000,
    ]
    .map(age)
    .to_vec();
    assert_eq!(
        shown.join(" "),
        "<invalid> 0s 0s 119s 2m 2m5s 10m 120m 3h 4h1m 27h 2d7h 8d 2y 9y"
    );
}

#[test]
fn every_builtin_row_survives_an_empty_object() {
    for (groups, kinds, columns) in kinds::TABLE {
        let cells = Columns::builtin(groups[0], kinds[0]).cells(&json!({}), now());
        assert_eq!(cells.as_array().map(Vec::len), Some(columns.len()));
    }
}

#[test]
fn device_claims_show_their_state() {
    let claim = |status: Value| json!({"metadata": {"name": "c"}, "status": status});
    let state = |status: Value| {
        show(
            &Columns::builtin("resource.k8s.io", "ResourceClaim"),
            &claim(status),
        )
    };
    assert!(state(json!({})).contains("State: \"pending\""));
    let taken = state(json!({"allocation": {}, "reservedFor": [{"name": "p"}]}));
    assert!(taken.contains("State: \"allocated,reserved\""), "{taken}");
}
