//! Validation as kubectl users meet it: each object with everything that is wrong with it.

use crate::model::Builtin;
use crate::types::Types;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

fn find(api: &str, kind: &str) -> Builtin {
    let (group, version) = crate::types::split_api_version(api);
    Builtin::find(group, version, kind).expect("known kind")
}

fn text(errors: Vec<crate::error::FieldError>) -> String {
    errors
        .iter()
        .map(|error| format!("{} {error}\n", error.reason.as_str()))
        .collect()
}

fn create(api: &str, kind: &str, name: &str, body: Value, expected: Expect) {
    let model = find(api, kind);
    let mut value = body;
    value["metadata"] = json!({"name": name, "namespace": "d"});
    model.default(&mut value);
    expected.assert_eq(&text(model.validate_create(&value, true)));
}

fn pod(spec: Value, expected: Expect) {
    create("v1", "Pod", "p", json!({"spec": spec}), expected);
}

#[test]
fn pods_are_checked() {
    pod(json!({"containers": [{"name": "c", "image": "i"}]}), expect![""]);
    pod(
        json!({"containers": []}),
        expect![[r#"
            FieldValueRequired spec.containers: Required value
        "#]],
    );
    pod(
        json!({"restartPolicy": "Sometimes", "containers": [
            {"name": "c", "ports": [{"containerPort": 70000}], "volumeMounts": [{"name": "v", "mountPath": "/x"}]},
            {"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2", "foo": "1"}}}]}),
        expect![[r#"
            FieldValueDuplicate spec.containers[1].name: Duplicate value: "c"
            FieldValueNotFound spec.containers[0].volumeMounts[0].name: Not found: "v"
            FieldValueNotSupported spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            FieldValueRequired spec.containers[0].image: Required value
            FieldValueInvalid spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            FieldValueInvalid spec.containers[1].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            FieldValueInvalid spec.containers[1].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
        "#]],
    );
}

#[test]
fn workloads_are_checked() {
    create(
        "apps/v1",
        "Deployment",
        "Bad_Name",
        json!({"spec": {"replicas": -1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
        expect![[r#"
            FieldValueInvalid metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            FieldValueInvalid spec.replicas: Invalid value: -1: must be greater than or equal to 0
            FieldValueInvalid spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`
            FieldValueNotSupported spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
        "#]],
    );
    create(
        "apps/v1",
        "StatefulSet",
        "db",
        json!({"spec": {"serviceName": "db", "selector": {"matchLabels": {"a": "b"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "none", "mountPath": "/none"}]}]}}}}),
        expect![[r#"
            FieldValueNotFound spec.template.spec.containers[0].volumeMounts[1].name: Not found: "none"
        "#]],
    );
    create(
        "batch/v1",
        "CronJob",
        "c",
        json!({"spec": {"schedule": "61 * * *", "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}}}),
        expect![[r#"
            FieldValueInvalid spec.schedule: Invalid value: "61 * * *": expected exactly 5 fields, found 4: [61 * * *]
            FieldValueNotSupported spec.jobTemplate.spec.template.spec.restartPolicy: Unsupported value: "Always": supported values: "OnFailure", "Never"
        "#]],
    );
}

#[test]
fn other_kinds_are_checked() {
    create(
        "v1",
        "Service",
        "s",
        json!({"spec": {"ports": [{"port": 0}, {"port": 80, "name": "a"}]}}),
        expect![[r#"
            FieldValueRequired spec.ports[0].name: Required value
            FieldValueInvalid spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
            FieldValueInvalid spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive
        "#]],
    );
    create(
        "v1",
        "ConfigMap",
        "c",
        json!({"data": {"a/b": "1"}}),
        expect![[r#"
            FieldValueInvalid data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
        "#]],
    );
    create(
        "policy/v1",
        "PodDisruptionBudget",
        "b",
        json!({"spec": {"minAvailable": 1, "maxUnavailable": "x%"}}),
        expect![[r#"
            FieldValueInvalid spec: Invalid value: {"maxUnavailable":"x%","minAvailable":1}: minAvailable and maxUnavailable cannot be both set
            FieldValueInvalid spec.maxUnavailable: Invalid value: "x%": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
        "#]],
    );
    create(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        "system:x",
        json!({"roleRef": {"kind": "Rolle", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "a"}, {"kind": "User", "name": "u"}]}),
        expect![[r#"
            FieldValueNotSupported roleRef.kind: Unsupported value: "Rolle": supported values: "Role", "ClusterRole"
            FieldValueRequired subjects[0].namespace: Required value
        "#]],
    );
}

#[test]
fn metadata_is_checked() {
    let model = find("v1", "ConfigMap");
    let value = json!({"metadata": {"labels": {"a b": "c", "x": "y z"}, "finalizers": ["noslash"], "ownerReferences": [
        {"apiVersion": "v1", "name": "x", "uid": "1", "controller": true}, {"apiVersion": "v1", "kind": "Pod", "name": "y", "uid": "2", "controller": true}]}});
    let errors = model.validate_create(&value, true);
    let causes: Vec<String> = errors
        .iter()
        .map(|error| format!("{}|{}", error.reason.as_str(), error.field))
        .collect();
    expect![[r#"
        FieldValueRequired|metadata.name
        FieldValueRequired|metadata.namespace
        FieldValueInvalid|metadata.labels
        FieldValueInvalid|metadata.labels
        FieldValueInvalid|metadata.ownerReferences.kind
        FieldValueInvalid|metadata.ownerReferences
        FieldValueInvalid|metadata.finalizers[0]"#]]
    .assert_eq(&causes.join("\n"));
}

fn update(api: &str, kind: &str, old: Value, new: Value, expected: Expect) {
    let model = find(api, kind);
    let fill = |mut value: Value| {
        value["metadata"]["name"] = "x".into();
        model.default(&mut value);
        value
    };
    expected.assert_eq(&text(model.validate_update(&fill(new), &fill(old))));
}

#[test]
fn changes_are_checked() {
    let pod = |restart: &str, image: &str, seconds: i64| json!({"spec": {"restartPolicy": restart, "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}], "containers": [{"name": "c", "image": image}]}});
    update(
        "v1",
        "Pod",
        pod("Always", "a:1", 1),
        pod("Always", "b:2", 5),
        expect![""],
    );
    update(
        "v1",
        "Pod",
        pod("Always", "a:1", 1),
        pod("Never", "a:1", 1),
        expect![[r#"
            FieldValueForbidden spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
        "#]],
    );
    update(
        "v1",
        "ConfigMap",
        json!({"immutable": true, "data": {"a": "1"}, "metadata": {"deletionTimestamp": "x", "finalizers": ["a/b"]}}),
        json!({"immutable": true, "data": {"a": "2"}, "metadata": {"deletionTimestamp": "x", "finalizers": ["a/b", "c/d"]}}),
        expect![[r#"
            FieldValueForbidden metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers ["c/d"]
            FieldValueForbidden metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers ["c/d"]
            FieldValueForbidden data: Forbidden: field is immutable when `immutable` is set
        "#]],
    );
}

#[test]
fn every_line_names_a_known_type_and_field() {
    let types = Types::builtin();
    for line in super::TABLE {
        let found = types
            .definitions()
            .find(|(_, object)| super::short_name(&object.name) == line.type_name());
        let (_, object) = found.unwrap_or_else(|| panic!("no type {}", line.type_name()));
        if let super::Line::Field(_, field, _) = line {
            assert!(
                types.field(object, field).is_some(),
                "no field {field} in {}",
                line.type_name()
            );
        }
    }
}

#[test]
fn device_claims_are_checked() {
    let class = json!({"deviceClassName": "gpu.example.com"});
    let claim = |requests: Value, more: Value| {
        let mut devices = json!({"requests": requests});
        let more = more.as_object().cloned().unwrap_or_default();
        devices.as_object_mut().expect("an object").extend(more);
        json!({"spec": {"devices": devices}})
    };
    let check = |requests: Value, more: Value, expected: Expect| {
        create(
            "resource.k8s.io/v1",
            "ResourceClaim",
            "c",
            claim(requests, more),
            expected,
        );
    };
    let either =
        json!({"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "gpu.example.com"}]});
    check(
        json!([{"name": "a", "exactly": class}, either]),
        json!({"constraints": [{"requests": ["a", "b", "b/x"], "matchAttribute": "d.x/numa"}]}),
        expect![""],
    );
    check(
        json!([{"name": "a"}, {"name": "a", "exactly": class, "firstAvailable": either["firstAvailable"]}]),
        json!({"config": [{"requests": ["a/y"]}]}),
        expect![[r#"
            FieldValueInvalid spec.devices.config[0].requests[0]: Invalid value: "a/y": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
            FieldValueDuplicate spec.devices.requests[1].name: Duplicate value: "a"
            FieldValueRequired spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required
            FieldValueInvalid spec.devices.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set
        "#]],
    );
    check(
        json!([{"name": "a", "exactly": {"allocationMode": "All", "count": 2}},
            {"name": "b", "exactly": {"deviceClassName": "gpu.example.com", "allocationMode": "Some"}}]),
        json!({}),
        expect![[r#"
            FieldValueRequired spec.devices.requests[0].exactly.deviceClassName: Required value
            FieldValueInvalid spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'
            FieldValueNotSupported spec.devices.requests[1].exactly.allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount"
        "#]],
    );
}

#[test]
fn a_slice_of_devices_is_checked_and_keeps_its_place() {
    let slice = |spec: Value| {
        let mut slice = json!({"metadata": {"name": "s"}, "spec": spec});
        slice["spec"]["driver"] = "d.example.com".into();
        slice
    };
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
    create(
        "resource.k8s.io/v1",
        "ResourceSlice",
        "s",
        slice(
            json!({"nodeName": "n", "allNodes": true, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 0}}),
        ),
        expect![[r#"
            FieldValueInvalid spec: Invalid value: "{`nodeName`, `allNodes`}": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set
            FieldValueInvalid spec.pool.resourceSliceCount: Invalid value: 0: must be greater than or equal to 1
        "#]],
    );
    let model = find("resource.k8s.io/v1", "ResourceSlice");
    let (old, new) = (
        slice(json!({"nodeName": "n", "pool": pool})),
        slice(json!({"nodeName": "m", "pool": pool})),
    );
    expect![[r#"
        FieldValueInvalid spec.nodeName: Invalid value: "m": field is immutable
    "#]]
    .assert_eq(&text(model.validate_update(&new, &old)));
}
