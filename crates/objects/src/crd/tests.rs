//! Custom resources: definitions that are refused, objects that are pruned, defaulted and checked.

use super::*;
use crate::decode::Notation;
use crate::decode::parse;
use expect_test::{Expect, expect};
use mainstay_base::testdata::upstream;
use proptest::prelude::*;
use serde_json::json;

fn crd(schema: Value) -> Value {
    json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing", "listKind": "ThingList", "singular": "thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn spec(schema: Value) -> CustomKind {
    CustomKind::compile(&crd(json!({"type": "object", "properties": {"spec": schema}}))).expect("compiles")
}

fn text(errors: &[FieldError]) -> String {
    errors
        .iter()
        .map(|error| format!("{} {error}\n", error.reason.as_str()))
        .collect()
}

fn check(kind: &CustomKind, new: Value, old: Option<Value>, expected: Expect) {
    let version = kind.storage_version().expect("storage version");
    let object = |spec: Value| json!({"metadata": {"name": "a", "namespace": "d"}, "spec": spec});
    let mut value = object(new);
    version.default(&mut value);
    let errors = match old {
        Some(old) => version.validate_update(&value, &object(old)),
        None => version.validate_create(&value, true),
    };
    expected.assert_eq(&text(&errors));
}

#[test]
fn cluster_api_definitions_load_with_their_defaults_and_rules() {
    let Some(folder) = upstream("cluster-api-crds") else {
        return;
    };
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        let bytes = std::fs::read(&path).expect("file");
        let parsed = parse(&bytes, Notation::Yaml).expect("YAML");
        let mut value = parsed.value;
        // Their conversion webhook is replaced by None when they are installed here.
        value["spec"]["conversion"] = json!({"strategy": "None"});
        let kind = CustomKind::compile(&value)
            .unwrap_or_else(|errors| panic!("{}: {}", path.display(), text(&errors)));
        assert!(
            kind.storage_version()
                .is_some_and(|version| version.name == "v1beta2"),
            "{}",
            kind.kind
        );
        count += 1;
    }
    assert_eq!(count, 12);
}

#[test]
fn objects_are_pruned_defaulted_and_checked() {
    let kind = spec(json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 5},
        "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "name": {"type": "string", "pattern": "^x", "maxLength": 3, "nullable": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true},
        "when": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}, "maxItems": 2},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}));
    check(
        &kind,
        json!({"size": 1, "name": null, "port": "http", "labels": {"a": "b"}}),
        None,
        expect![""],
    );
    check(
        &kind,
        json!({"size": 9, "mode": "c", "name": "yyyy", "port": true, "when": "noon", "tags": ["a", "a", "b"], "labels": {"a": 1}}),
        None,
        expect![[r#"
            FieldValueTypeInvalid spec.labels[a]: Invalid value: "integer": spec.labels[a] in body must be of type string: "integer"
            FieldValueNotSupported spec.mode: Unsupported value: "c": supported values: "a", "b"
            FieldValueTooLong spec.name: Too long: may not be more than 3 bytes
            FieldValueInvalid spec.name: Invalid value: "yyyy": spec.name in body should match '^x'
            FieldValueTypeInvalid spec.port: Invalid value: "boolean": spec.port in body must be of type integer or string: "boolean"
            FieldValueInvalid spec.size: Invalid value: 9: spec.size in body should be less than or equal to 5
            FieldValueTooMany spec.tags: Too many: 3: must have at most 2 items
            FieldValueDuplicate spec.tags[1]: Duplicate value: "a"
            FieldValueInvalid spec.when: Invalid value: "noon": spec.when in body must be of type date-time: "noon"
        "#]],
    );
    let version = kind.storage_version().expect("storage");
    let body = br#"{"metadata": {"name": "a", "zip": 1}, "spec": {"size": 1, "foo": 2, "free": {"x": 1}}, "extra": 1}"#;
    let decoded = version
        .fit(parse(body, Notation::Json).expect("JSON"), FieldValidation::Warn)
        .expect("fits");
    assert_eq!(
        decoded.value,
        json!({"metadata": {"name": "a"}, "spec": {"size": 1, "free": {"x": 1}}})
    );
    assert_eq!(decoded.warnings.len(), 3);
}

#[test]
fn rules_are_evaluated() {
    let kind = spec(json!({"type": "object", "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min must not exceed max"},
            {"rule": "!has(self.name) || self.name.startsWith('x')", "messageExpression": "'bad name ' + self.name", "fieldPath": ".name"}],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"},
            "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable", "reason": "FieldValueForbidden"}]},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}},
            "till-date": {"type": "string"}}}));
    check(
        &kind,
        json!({"min": 1, "max": 2, "fixed": "a"}),
        None,
        expect![""],
    );
    check(
        &kind,
        json!({"min": 3, "max": 2, "name": "y", "fixed": "b", "list": [{"k": "b", "v": 1}, {"k": "a", "v": 4}]}),
        Some(json!({"min": 3, "max": 3, "fixed": "a", "list": [{"k": "a", "v": 5}]})),
        expect![[r#"
            FieldValueInvalid spec: Invalid value: "object": min must not exceed max
            FieldValueInvalid spec.name: Invalid value: "object": bad name y
            FieldValueForbidden spec.fixed: Forbidden: is immutable
            FieldValueInvalid spec.list[1].v: Invalid value: 4: failed rule: self >= oldSelf
        "#]],
    );
}

#[test]
fn library_functions_work() {
    for (rule, holds) in [
        (
            "isQuantity(self.a) && quantity(self.a).isLessThan(quantity('2Gi'))",
            true,
        ),
        (
            "quantity('1').add(quantity('500m')).compareTo(quantity('1500m')) == 0",
            true,
        ),
        ("quantity('1Gi') == quantity('1024Mi')", true),
        ("quantity(self.a).isGreaterThan(quantity('2Gi'))", false),
        (
            "isIP('10.0.0.1') && !isIP('x') && isCIDR('10.0.0.0/8') && isURL('https://x/y')",
            true,
        ),
        (
            "'abc123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]').size() == 2",
            true,
        ),
        (
            "[1, 2, 3].sum() == 6 && [1, 3, 2].max() == 3 && !([2, 1].isSorted())",
            true,
        ),
    ] {
        let kind = spec(
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": rule}]}),
        );
        let object = json!({"metadata": {"name": "a"}, "spec": {"a": "1Gi"}});
        let errors = kind
            .storage_version()
            .expect("storage")
            .validate_create(&object, false);
        assert_eq!(errors.is_empty(), holds, "{rule}: {}", text(&errors));
        assert!(
            holds || errors[0].message.contains("failed rule"),
            "{rule}: {}",
            text(&errors)
        );
    }
}

#[test]
fn costly_rules_are_not_run() {
    let rule = "self.all(a, self.all(b, self.all(c, self.all(d, a + b + c + d >= 0))))";
    let kind = spec(
        json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": [{"rule": rule}]}),
    );
    check(&kind, json!([1, 2]), None, expect![""]);
    check(
        &kind,
        json!(vec![1; 500]),
        None,
        expect![[r#"
            FieldValueForbidden spec: Forbidden: validation rule may cost too much for a value of this size and was not evaluated
        "#]],
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    let schema = json!({"type": "object", "properties": {
        "a": {}, "b": {"type": "array"}, "c": {"type": "text"}, "d": {"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": {"type": "string"}},
        "e": {"$ref": "#/x", "type": "object"}, "f": {"type": "string", "pattern": "("}, "g": {"type": "integer", "default": "x"},
        "h": {"type": "string", "x-kubernetes-validations": [{"rule": "self ++"}]}}});
    let errors = CustomKind::compile(&crd(schema)).expect_err("refused");
    let fields: Vec<String> = errors
        .iter()
        .map(|error| format!("{} {}", error.reason.as_str(), error.field))
        .collect();
    expect![[r#"
        FieldValueRequired spec.versions[0].schema.openAPIV3Schema.properties[a].type
        FieldValueRequired spec.versions[0].schema.openAPIV3Schema.properties[b].items
        FieldValueNotSupported spec.versions[0].schema.openAPIV3Schema.properties[c].type
        FieldValueForbidden spec.versions[0].schema.openAPIV3Schema.properties[d].additionalProperties
        FieldValueForbidden spec.versions[0].schema.openAPIV3Schema.properties[e].$ref
        FieldValueInvalid spec.versions[0].schema.openAPIV3Schema.properties[f].pattern
        FieldValueInvalid spec.versions[0].schema.openAPIV3Schema.properties[h].x-kubernetes-validations[0].rule
        FieldValueTypeInvalid spec.versions[0].schema.openAPIV3Schema.properties[g].default"#]]
    .assert_eq(&fields.join("\n"));
}

#[test]
fn custom_objects_are_applied_by_their_schema() {
    let kind = spec(
        json!({"type": "object", "properties": {"list": {"type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}}}}),
    );
    let (types, root) = kind.storage_version().expect("storage").types();
    let writer = |manager| crate::apply::Writer {
        manager,
        api_version: "example.com/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    };
    let object = |list: Value| json!({"metadata": {"name": "a"}, "spec": {"list": list}});
    let first = crate::apply::apply(
        types,
        root,
        None,
        &object(json!([{"k": "a", "v": "1"}])),
        &writer("m1"),
        false,
    )
    .expect("creates");
    let second = crate::apply::apply(
        types,
        root,
        Some(&first),
        &object(json!([{"k": "b", "v": "2"}])),
        &writer("m2"),
        false,
    )
    .expect("merges");
    assert_eq!(
        second["spec"]["list"],
        json!([{"k": "a", "v": "1"}, {"k": "b", "v": "2"}])
    );
}

proptest! {
    #[test]
    fn rules_never_panic(rule in "(self|has\\(self\\.a\\)|[a-z0-9 .,+*/()\\[\\]=<>!&|?:'\"-]){1,24}") {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": rule}]}}});
        if let Ok(kind) = CustomKind::compile(&crd(schema)) {
            let version = kind.storage_version().expect("storage");
            version.validate_create(&json!({"metadata": {"name": "a"}, "spec": {"a": 1}}), false);
        }
    }
}
