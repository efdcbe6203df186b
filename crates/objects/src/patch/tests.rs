//! Patches against upstream's answers.

use super::*;
use crate::types::Types;
use proptest::prelude::*;
use serde_json::{Value, json};

fn rows(file: &str) -> Vec<Value> {
    mainstay_base::testdata::rows(&format!("oracle/{file}"))
}

fn apply(kind: &str, how: &str, object: &Value, patch: &str) -> Result<Value, PatchError> {
    let types = Types::builtin();
    let patch: Value = serde_json::from_str(patch).expect("patch is JSON");
    let mut object = object.clone();
    let root = ["", "apps"]
        .iter()
        .find_map(|group| types.root(group, "v1", kind))
        .expect("known kind");
    match how {
        "strategic" => strategic_merge_patch(types, root, &mut object, &patch)?,
        "merge" => merge_patch(&mut object, &patch),
        _ => json_patch(&mut object, &patch)?,
    }
    Ok(object)
}

#[test]
fn node_agent_table_equals_upstream() {
    let objects = rows("kubelet/patch_objects.json");
    for row in rows("kubelet/patch.json") {
        let object = objects
            .iter()
            .find(|object| object["name"] == row["object"])
            .expect("object");
        let kind = object["object"]["kind"].as_str().expect("kind");
        let text = |key: &str| row[key].as_str().expect("text");
        match apply(kind, text("type"), &object["object"], text("patch")) {
            Err(error) => assert_eq!(
                Some(error.to_string().as_str()),
                row["err"].as_str(),
                "{}",
                row["note"]
            ),
            Ok(result) => assert_eq!(result, row["result"], "{}", row["note"]),
        }
    }
}

#[test]
fn strategic_table_equals_upstream() {
    for row in rows("api/strategic-merge.json") {
        let kind = row["kind"].as_str().expect("kind");
        match apply(kind, "strategic", &row["original"], &row["patch"].to_string()) {
            Err(error) => assert_eq!(
                Some(error.to_string().as_str()),
                row["error"].as_str(),
                "{}",
                row["id"]
            ),
            Ok(result) => assert_eq!(result, row["result"], "{}", row["id"]),
        }
    }
}

#[test]
fn primitives_are_deleted_from_lists() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#;
    let result = apply("Pod", "strategic", &object, patch).expect("applies");
    assert_eq!(result, json!({"metadata": {"finalizers": ["b"]}}));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("spec"),
        Just("containers"),
        Just("metadata"),
        Just("finalizers"),
        Just("name"),
        Just("$patch"),
        Just("$retainKeys"),
        Just("$setElementOrder/containers"),
        Just("$deleteFromPrimitiveList/finalizers"),
        Just("op"),
        Just("path"),
        Just("value"),
    ];
    leaf.prop_recursive(5, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn patches_never_panic(object in any_json(), patch in any_json()) {
        let types = Types::builtin();
        let root = types.root("", "v1", "Pod").expect("Pod");
        let _ = strategic_merge_patch(types, root, &mut object.clone(), &patch);
        merge_patch(&mut object.clone(), &patch);
        let _ = json_patch(&mut object.clone(), &patch);
    }

    #[test]
    fn json_patches_never_panic(object in any_json(), op in "add|remove|replace|move|copy|test|x", path in "(/(spec|-?[0-9]|-|~1|~)){0,3}", from in "(/(spec|-?[0-9]|-)){0,3}") {
        let _ = json_patch(&mut object.clone(), &json!([{"op": op, "path": path, "from": from, "value": 1}]));
    }
}

#[test]
fn a_patch_that_doubles_an_object_again_and_again_is_refused() {
    let mut document = json!({"data": {"a": "x".repeat(1000)}});
    let double = json!({"op": "copy", "from": "/data", "path": "/data/again"});
    let error = json_patch(&mut document, &Value::Array(vec![double; 100])).expect_err("too much");
    assert!(error.to_string().contains("accumulated size"), "{error}");
}

#[test]
fn a_patch_cannot_make_what_no_body_may_hold() {
    let mut document = json!({"a": {}});
    let deepen = |depth: usize| json!({"op": "add", "path": "/a".repeat(depth), "value": {}});
    let steps: Vec<Value> = (2..200).map(deepen).collect();
    let error = json_patch(&mut document, &Value::Array(steps)).expect_err("too deep");
    assert!(error.to_string().contains("maximum depth"), "{error}");
    let deepest = (2..=126).map(deepen).collect();
    let mut document = json!({"a": {}});
    json_patch(&mut document, &Value::Array(deepest)).expect("as deep as a body may be");
    let text = document.to_string();
    assert!(serde_json::from_str::<Value>(&text).is_ok());
}
