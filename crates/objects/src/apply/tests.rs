//! Server-side apply as users see it: what the object and its managers look like after a sequence of writes.

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

struct World {
    kind: (&'static str, &'static str, &'static str),
    object: Option<Value>,
    now: &'static str,
}

impl World {
    fn new(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        Self {
            kind: (group, version, kind),
            object: None,
            now: "2026-01-01T00:00:00Z",
        }
    }

    fn root(&self) -> ShapeId {
        Types::builtin()
            .root(self.kind.0, self.kind.1, self.kind.2)
            .expect("known kind")
    }

    fn writer(&self, manager: &'static str) -> Writer<'static> {
        Writer {
            manager,
            api_version: "v1",
            subresource: "",
            now: self.now,
        }
    }

    fn apply(&mut self, manager: &'static str, force: bool, config: Value) -> Result<(), String> {
        let writer = self.writer(manager);
        let merged = apply(
            Types::builtin(),
            self.root(),
            self.object.as_ref(),
            &config,
            &writer,
            force,
        );
        self.object = Some(merged.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn update(&mut self, manager: &'static str, change: impl Fn(&mut Value)) {
        let mut new = self
            .object
            .clone()
            .unwrap_or_else(|| json!({"metadata": {"name": "a"}}));
        change(&mut new);
        track_update(
            Types::builtin(),
            self.root(),
            self.object.as_ref(),
            &mut new,
            &self.writer(manager),
        );
        self.object = Some(new);
    }

    fn check(&self, expected: Expect) {
        let mut object = self.object.clone().expect("object");
        let mut text = String::new();
        for entry in object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let fields = FieldSet::from_json(&entry["fieldsV1"])
                .expect("fields")
                .paths()
                .join(" ");
            text += &format!("{} {}: {fields}\n", entry["manager"], entry["operation"]);
        }
        object["metadata"]
            .as_object_mut()
            .expect("metadata")
            .remove("managedFields");
        expected.assert_eq(&format!("{object}\n{text}"));
    }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": data})
}

#[test]
fn applying_owns_conflicts_forces_and_removes() {
    let mut world = World::new("", "v1", "ConfigMap");
    world
        .apply("m1", false, map(json!({"a": "1", "b": "1"})))
        .expect("creates");
    assert_eq!(
        world.apply("m2", false, map(json!({"a": "2"}))),
        Err("Apply failed with 1 conflict: conflict with \"m1\": .data.a".to_owned())
    );
    world
        .apply("m3", false, map(json!({"a": "1"})))
        .expect("shares an equal value");
    world.check(expect![[r#"
        {"apiVersion":"v1","data":{"a":"1","b":"1"},"kind":"ConfigMap","metadata":{"name":"s"}}
        "m1" "Apply": .data.a .data.b
        "m3" "Apply": .data.a
    "#]]);
    world.apply("m2", true, map(json!({"a": "2"}))).expect("forces");
    world
        .apply("m1", false, map(json!({})))
        .expect("removes what only it owned");
    world.check(expect![[r#"
        {"apiVersion":"v1","data":{"a":"2"},"kind":"ConfigMap","metadata":{"name":"s"}}
        "m1" "Apply": .data
        "m2" "Apply": .data.a
    "#]]);
}

#[test]
fn updates_take_over_what_they_change() {
    let mut world = World::new("apps", "v1", "Deployment");
    let config = json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {"replicas": 1, "template": {"spec": {"containers": [
        {"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]}}}});
    world.apply("gitops", false, config.clone()).expect("creates");
    world.update("hpa", |object| {
        object["spec"]["replicas"] = 3.into();
        object["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into();
    });
    world.check(expect![[r#"
        {"metadata":{"labels":{"a":"b"},"name":"d"},"spec":{"replicas":3,"template":{"spec":{"containers":[{"image":"i:1","name":"c","ports":[{"containerPort":80,"protocol":"TCP"}]}]}}}}
        "gitops" "Apply": .metadata.labels.a .spec.template.spec.containers[name="c"].image .spec.template.spec.containers[name="c"].name .spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"].containerPort .spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"] .spec.template.spec.containers[name="c"]
        "hpa" "Update": .spec.replicas .spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"].protocol
    "#]]);
    assert!(
        world
            .apply("gitops", false, config)
            .expect_err("conflicts")
            .contains("using v1")
    );
    let mut without = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [{"name": "e", "image": "x"}]}}}});
    without["kind"] = "Deployment".into();
    world
        .apply("gitops", false, without)
        .expect("drops what it no longer names");
    world.check(expect![[r#"
        {"kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"c","ports":[{"containerPort":80,"protocol":"TCP"}]},{"image":"x","name":"e"}]}}}}
        "gitops" "Apply": .spec.template.spec.containers[name="e"].image .spec.template.spec.containers[name="e"].name .spec.template.spec.containers[name="e"]
        "hpa" "Update": .spec.replicas .spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"].protocol
    "#]]);
}

#[test]
fn equal_writes_change_nothing() {
    let mut world = World::new("", "v1", "ConfigMap");
    world.update("kubectl-create", |object| object["data"] = json!({"a": "1"}));
    let before = world.object.clone();
    world.now = "2026-01-01T00:00:09Z";
    world.update("other", |_| {});
    assert_eq!(world.object, before);
    world.apply("m1", false, map(json!({"a": "1"}))).expect("shares");
    let applied = world.object.clone();
    world.now = "2026-01-01T00:00:19Z";
    world.apply("m1", false, map(json!({"a": "1"}))).expect("again");
    assert_eq!(world.object, applied);
}

#[test]
fn managers_can_be_reset_and_client_side_apply_migrates() {
    let mut world = World::new("", "v1", "ConfigMap");
    let last = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s"},"data":{"a":"1"}}"#;
    world.update("kubectl-client-side-apply", |object| {
        object["data"] = json!({"a": "1"});
        object["metadata"]["annotations"] = json!({LAST_APPLIED: last});
    });
    let stranger = world.apply("flux", false, map(json!({"a": "2"})));
    assert!(stranger.is_err());
    world
        .apply("kubectl", false, map(json!({"a": "2"})))
        .expect("migrates");
    world.update("x", |object| object["metadata"]["managedFields"] = json!([{}]));
    assert_eq!(
        world
            .object
            .as_ref()
            .and_then(|object| object["metadata"].get("managedFields")),
        None
    );
}

#[test]
fn own_managed_fields_are_refused() {
    let mut world = World::new("", "v1", "ConfigMap");
    let mut config = map(json!({}));
    config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert_eq!(
        world.apply("m", false, config),
        Err("metadata.managedFields must be nil".to_owned())
    );
}

#[test]
fn the_list_of_managers_itself_is_never_contested() {
    let mut world = World::new("", "v1", "ConfigMap");
    let owned = json!({"f:metadata": {"f:managedFields": {}}});
    world.update("x", |object| {
        object["data"] = json!({"a": "1"});
        object["metadata"]["managedFields"] =
            json!([{"manager": "y", "operation": "Update", "apiVersion": "v1", "fieldsV1": owned}]);
    });
    world
        .apply("m", false, map(json!({"b": "2"})))
        .expect("no conflict");
    world.check(expect![[r#"
        {"apiVersion":"v1","data":{"a":"1","b":"2"},"kind":"ConfigMap","metadata":{"name":"s"}}
        "m" "Apply": .data.b
        "y" "Update": .metadata.managedFields
        "x" "Update": .data.a .data
    "#]]);
}

fn any_set() -> impl Strategy<Value = FieldSet> {
    let leaf = Just(json!({}));
    let value = leaf.prop_recursive(4, 16, 3, |inner| {
        prop::collection::btree_map("f:[a-b]|v:[0-1]|[.]", inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    value.prop_map(|value| FieldSet::from_json(&value).expect("only known notations"))
}

fn any_fields() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        "[a-z.]{0,3}",
        "f:[a-b]{0,2}",
        "k:\\{\"name\":\"[a-b]\"\\}",
        "v:[0-9]",
        "i:[0-9]",
        "k:x"
    ];
    Just(json!({})).prop_recursive(5, 24, 4, move |inner| {
        prop::collection::btree_map(key.clone(), inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}

proptest! {
    #[test]
    fn written_sets_answer_as_read_ones_do(asked in any_set(), owned in any_set()) {
        let (written, common) = (owned.to_json(), owned.intersection(&asked));
        prop_assert_eq!(asked.meets(&written), !common.is_empty());
        prop_assert_eq!(asked.is_within(&written), common == asked);
    }

    #[test]
    fn notation_round_trips(value in any_fields()) {
        if let Some(set) = FieldSet::from_json(&value) {
            prop_assert_eq!(FieldSet::from_json(&set.to_json()), Some(set));
        }
    }

    #[test]
    fn foreign_managed_fields_never_panic(fields in any_fields(), operation in "Apply|Update|x") {
        let mut world = World::new("", "v1", "Pod");
        world.object = Some(json!({"metadata": {"name": "a", "managedFields": [{"manager": "m", "operation": operation, "fieldsV1": fields}]}, "spec": {"containers": [{"name": "a"}, {"name": "a"}, 3]}}));
        let _ = world.apply("m", true, json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "b"}], "tolerations": 3}}));
        world.update("u", |object| object["spec"] = json!([1]));
    }
}
