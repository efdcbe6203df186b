//! Bodies as clients send them, and every field of every kind there and back.

use mainstay_objects::types::{Object, Scalar, Shape, ShapeId, Types};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &types), bytes(2, raw)].concat()
}

#[test]
fn reviews_are_read() {
    let attributes = [bytes(1, b"default"), bytes(2, b"create"), bytes(5, b"pods")].concat();
    let body = enveloped(
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &bytes(2, &bytes(1, &attributes)),
    );
    assert_eq!(
        to_json(&body).unwrap().to_string(),
        r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"namespace":"default","resource":"pods","verb":"create"}}}"#
    );
}

#[test]
fn zeros_are_left_out_unless_they_are_meant() {
    // Replicas is a pointer upstream, generation and paused are not.
    let raw = [bytes(1, &[7 << 3, 0]), bytes(2, &[1 << 3, 0, 7 << 3, 0])].concat();
    let read = to_json(&enveloped("apps/v1", "Deployment", &raw)).unwrap();
    assert_eq!(read["spec"], json!({"replicas": 0}));
    assert_eq!(read["metadata"], json!({}));
}

#[test]
fn inline_messages_and_either_values_are_read() {
    let target = bytes(2, &[&[1 << 3, 1][..], &bytes(3, b"http")].concat());
    let probe = bytes(1, &bytes(2, &target));
    let container = [bytes(1, b"c"), bytes(10, &probe)].concat();
    let read = to_json(&enveloped("v1", "Pod", &bytes(2, &bytes(2, &container)))).unwrap();
    assert_eq!(
        read["spec"]["containers"][0],
        json!({"name": "c", "livenessProbe": {"httpGet": {"port": "http"}}})
    );
}

#[test]
fn other_kinds_are_unknown() {
    assert_eq!(
        to_json(&enveloped("example.com/v1", "Widget", b"")),
        Err(ProtoError::Unknown("Widget".into()))
    );
    assert_eq!(to_json(b"{}"), Err(ProtoError::Malformed));
}

/// A value that fits a type, with every field set; schemas and the like end after a few levels.
fn sample(shape: ShapeId, levels: usize) -> Value {
    match Types::builtin().shape(shape) {
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => "text".into(),
            Scalar::Boolean => true.into(),
            Scalar::Int32 => (-7).into(),
            Scalar::Int64 => 5_000_000_000i64.into(),
            Scalar::Double => 1.5.into(),
            Scalar::Bytes => "AQID".into(),
            Scalar::Time => "2026-01-02T03:04:05Z".into(),
            Scalar::MicroTime => "2026-01-02T03:04:05.678901Z".into(),
            Scalar::Quantity => "100m".into(),
            Scalar::IntOrString => "25%".into(),
        },
        Shape::Any { .. } => Value::Null,
        Shape::List(list) if matches!(Types::builtin().shape(list.items), Shape::Any { .. }) => Value::Null,
        Shape::List(list) => json!([sample(list.items, levels)]),
        Shape::Object(Object { rest: Some(rest), .. }) => json!({"key": sample(*rest, levels)}),
        Shape::Object(object) => {
            let mut fields = Map::new();
            for field in Types::builtin().fields(object) {
                let deep = levels == 0 && !matches!(Types::builtin().shape(field.shape), Shape::Scalar(_));
                if !deep && !matches!(&*field.name, "apiVersion" | "kind") {
                    fields.insert(
                        field.name.to_string(),
                        sample(field.shape, levels.saturating_sub(1)),
                    );
                }
            }
            fields.retain(|_, value| !value.is_null() && *value != json!({"key": null}));
            fields.into()
        }
    }
}

#[test]
fn every_field_of_every_kind_comes_back() {
    let mut seen = 0;
    for root in Types::builtin().roots() {
        if numbers::entries(root.shape).is_empty()
            || root.version.contains("alpha")
            || root.version.contains("v1beta1")
        {
            continue;
        }
        let api_version = match root.group.as_ref() {
            "" => root.version.to_string(),
            group => format!("{group}/{}", root.version),
        };
        let mut object = sample(root.shape, 9);
        object["apiVersion"] = api_version.into();
        object["kind"] = root.kind.as_ref().into();
        let written = from_json(&object).expect("the kind is built in");
        assert_eq!(
            to_json(&written).as_ref(),
            Ok(&object),
            "{} {}",
            root.group,
            root.kind
        );
        seen += 1;
    }
    assert!(seen > 100, "only {seen} kinds");
}

#[test]
fn embedded_json_and_schemas_come_back() {
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 3, "data": {"a": [1, {"b": null}]}});
    assert_eq!(to_json(&from_json(&revision).unwrap()), Ok(revision));
    let schema = json!({
        "type": "object", "default": {"a": 1}, "enum": ["x", 2], "minimum": 0.5, "maximum": 10,
        "items": {"type": "string"}, "additionalProperties": {"type": "integer"},
        "properties": {"a": {"additionalProperties": true, "x-kubernetes-int-or-string": true}},
    });
    let names = json!({"plural": "ws", "kind": "W"});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"group": "example.com", "scope": "Cluster", "names": names, "versions": [version]},
    });
    assert_eq!(to_json(&from_json(&definition).unwrap()), Ok(definition));
}

#[test]
fn lists_and_events_are_framed() {
    let item = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    let mut list = List::start(
        "v1",
        "ConfigMap",
        "ConfigMapList",
        &json!({"resourceVersion": "7"}),
    )
    .unwrap();
    list.push(&item);
    let read = to_json(&list.finish("v1", "ConfigMapList")).unwrap();
    assert_eq!(
        read,
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": [item]})
    );
    let frame = event("ADDED", b"object");
    assert_eq!(frame[..4], 17u32.to_be_bytes());
    assert_eq!(
        frame[4..],
        [bytes(1, b"ADDED"), bytes(2, &bytes(1, b"object"))].concat()
    );
}

proptest! {
    #[test]
    fn damaged_bytes_are_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = to_json(&enveloped("v1", "Pod", &noise[..noise.len().min(100)]));
        let _ = to_json(&[MAGIC, &noise].concat());
    }
}

#[test]
fn a_pod_with_a_damaged_byte_is_no_panic() {
    let pod = Types::builtin().root("", "v1", "Pod").expect("pods are built in");
    let mut object = sample(pod, 6);
    object["apiVersion"] = "v1".into();
    object["kind"] = "Pod".into();
    let whole = from_json(&object).expect("pods are built in");
    for at in (0..whole.len()).step_by(whole.len() / 200) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        let _ = to_json(&damaged);
    }
}

#[test]
fn deep_nesting_is_refused() {
    let mut raw = Vec::new();
    for _ in 0..200 {
        let mut nested = Vec::new();
        wire::put_bytes(&mut nested, 28, &raw);
        raw = nested;
    }
    let mut version = Vec::new();
    wire::put_message(&mut version, 4, |out| wire::put_bytes(out, 1, &raw));
    let mut spec = Vec::new();
    wire::put_bytes(&mut spec, 7, &version);
    let mut body = Vec::new();
    wire::put_bytes(&mut body, 2, &spec);
    let types = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    assert_eq!(
        to_json(&write::envelope(types.0, types.1, &body)),
        Err(ProtoError::Malformed)
    );
}
