//! Defaults as kubectl users know them.

use super::*;
use expect_test::{Expect, expect};
use serde_json::json;

fn check(kind: (&str, &str, &str), mut value: Value, expected: Expect) {
    let root = Types::builtin().root(kind.0, kind.1, kind.2).expect("known kind");
    apply(root, &mut value);
    let once = value.clone();
    apply(root, &mut value);
    assert_eq!(once, value, "defaulting twice changes nothing");
    expected.assert_eq(&value.to_string());
}

#[test]
fn a_pod_gets_its_defaults() {
    check(
        ("", "v1", "Pod"),
        json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}], "volumes": [{"name": "v"}]}}),
        expect![[
            r#"{"spec":{"containers":[{"image":"i","imagePullPolicy":"Always","name":"c","ports":[{"containerPort":80,"protocol":"TCP"}],"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"1"}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30,"volumes":[{"emptyDir":{},"name":"v"}]},"status":{"phase":"Pending"}}"#
        ]],
    );
}

#[test]
fn a_deployment_and_a_service_get_their_defaults() {
    check(
        ("apps", "v1", "Deployment"),
        json!({"spec": {"selector": {}, "template": {"spec": {"containers": []}}}}),
        expect![[
            r#"{"spec":{"progressDeadlineSeconds":600,"replicas":1,"revisionHistoryLimit":10,"selector":{},"strategy":{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"},"template":{"spec":{"containers":[],"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}},"status":{}}"#
        ]],
    );
    check(
        ("", "v1", "Service"),
        json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "x"}, {"port": 82, "targetPort": 8082}]}}),
        expect![[
            r#"{"spec":{"internalTrafficPolicy":"Cluster","ports":[{"port":80,"protocol":"TCP","targetPort":80},{"port":81,"protocol":"TCP","targetPort":"x"},{"port":82,"protocol":"TCP","targetPort":8082}],"sessionAffinity":"None","type":"ClusterIP"},"status":{"loadBalancer":{}}}"#
        ]],
    );
}

#[test]
fn every_line_names_a_known_type_and_field() {
    let types = Types::builtin();
    for line in TABLE {
        let found = types
            .definitions()
            .find(|(_, object)| short_name(&object.name) == line.type_name());
        let (_, object) = found.unwrap_or_else(|| panic!("no type {}", line.type_name()));
        if let Line::Field(_, field, _) = line {
            assert!(
                types.field(object, field).is_some(),
                "no field {field} in {}",
                line.type_name()
            );
        }
    }
}

#[test]
fn images_decide_the_pull_policy() {
    for (image, policy) in [
        ("img", "Always"),
        ("img:1", "IfNotPresent"),
        ("r:5000/img", "Always"),
        ("r/i:latest", "Always"),
        ("i@sha256:a", "IfNotPresent"),
    ] {
        let mut container = json!({"image": image});
        functions::container(container.as_object_mut().expect("object"));
        assert_eq!(container["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn a_job_with_a_uid_selects_its_own_pods() {
    let mut job =
        json!({"metadata": {"name": "j", "uid": "u1"}, "spec": {"template": {"spec": {"containers": []}}}});
    apply(
        Types::builtin().root("batch", "v1", "Job").expect("known kind"),
        &mut job,
    );
    assert_eq!(
        job["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}})
    );
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
}
