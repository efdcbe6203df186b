//! Checks one manifest against its kind before anything is applied: is the kind known, does it have these fields, do
//! the values fit. The rules are the API server's own: its type table, and the definitions of our kinds.

use mainstay_apiserver::resources::Catalog;
use mainstay_objects::crd::CustomKind;
use mainstay_objects::decode::{FieldValidation, Parsed};
use mainstay_objects::error::{DecodeError, FieldError as ObjectError};
use mainstay_objects::model::Builtin;
use mainstay_objects::types::split_api_version;
use serde_json::Value;

use super::{FieldError, Rule, known};

const DEFINITION: &str = "CustomResourceDefinition";
const DEFAULT_NAMESPACE: &str = "default";

/// The kinds that manifests may use.
pub struct Kinds {
    builtin: Catalog,
    custom: Vec<CustomKind>,
}

impl Kinds {
    /// The built-in kinds, ours, Cluster API's, and those that the manifests themselves define.
    pub fn new(manifests: &[Value]) -> Self {
        let own = mainstay_api::crds().into_iter().chain(mainstay_capi::crds());
        let own = own.filter_map(|definition| serde_json::to_value(definition).ok());
        let given = manifests
            .iter()
            .filter(|object| object["kind"] == DEFINITION)
            .cloned();
        Kinds {
            builtin: Catalog::new([]),
            // A definition that does not compile is named when it is checked as a manifest itself.
            custom: own
                .chain(given)
                .filter_map(|definition| CustomKind::compile(&definition).ok())
                .collect(),
        }
    }

    /// Tells what is wrong with one object by itself; empty when it fits its kind.
    pub fn check(&self, object: &Value) -> Vec<FieldError> {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = split_api_version(api_version);
        let custom = self
            .custom
            .iter()
            .find(|known| known.group == group && known.kind == kind);
        if let Some(custom) = custom
            && let Some(served) = custom.version(version).filter(|version| version.served)
        {
            let fitted = served.fit(
                Parsed::from_value(placed(object, custom.namespaced)),
                FieldValidation::Strict,
            );
            return settle(fitted.map(|mut decoded| {
                served.default(&mut decoded.value);
                served.validate_create(&decoded.value, custom.namespaced)
            }));
        }
        let served = self.builtin.by_kind(group, version, kind);
        let (Some(resource), Some(builtin)) = (served, Builtin::find(group, version, kind)) else {
            return vec![self.unknown(api_version, kind)];
        };
        let fitted = builtin.fit(
            Parsed::from_value(placed(object, resource.namespaced)),
            FieldValidation::Strict,
        );
        settle(fitted.map(|mut decoded| {
            builtin.default(&mut decoded.value);
            builtin.validate_create(&decoded.value, resource.namespaced)
        }))
    }

    /// Says what would have been right: the kind's own version, or the group's kinds.
    fn unknown(&self, api_version: &str, kind: &str) -> FieldError {
        let (group, _) = split_api_version(api_version);
        let served = |known: &CustomKind| {
            known
                .versions
                .iter()
                .map(|version| format!("{}/{}", known.group, version.name))
                .collect::<Vec<_>>()
        };
        let mut versions: Vec<String> = self
            .custom
            .iter()
            .filter(|known| known.kind == kind)
            .flat_map(served)
            .collect();
        for group in self.builtin.groups() {
            for version in &group.versions {
                if version
                    .resources
                    .iter()
                    .any(|resource| resource.gvk.kind == kind && resource.gvk.group == group.name)
                {
                    versions.push(mainstay_apiserver::resources::api_version(
                        &group.name,
                        &version.name,
                    ));
                }
            }
        }
        if !versions.is_empty() {
            let others = known(versions.iter().map(String::as_str));
            let message = format!("{api_version:?} does not have kind {kind}{others}");
            return FieldError::new(Rule::Kind, "apiVersion", message);
        }
        let kinds = self.custom.iter().filter(|known| known.group == group);
        let builtin = self.builtin.group(group).into_iter();
        let builtin = builtin.flat_map(|group| group.versions.iter().flat_map(|version| &version.resources));
        let names = kinds
            .map(|known| known.kind.as_str())
            .chain(builtin.map(|resource| resource.gvk.kind.as_str()));
        let message = format!("{api_version} has no kind {kind:?}{}", known(names));
        FieldError::new(Rule::Kind, "kind", message)
    }
}

/// The object as the server will see it: with the namespace that the path gives it.
fn placed(object: &Value, namespaced: bool) -> Value {
    let mut object = object.clone();
    if namespaced && object["metadata"]["namespace"].is_null() && object["metadata"].is_object() {
        object["metadata"]["namespace"] = DEFAULT_NAMESPACE.into();
    }
    object
}

fn settle(found: Result<Vec<ObjectError>, DecodeError>) -> Vec<FieldError> {
    match found {
        Ok(errors) => errors
            .into_iter()
            .map(|error| FieldError::new(Rule::Form, error.field, error.message))
            .collect(),
        Err(DecodeError::Strict(findings)) => findings.iter().map(|finding| strict(finding)).collect(),
        Err(error) => vec![FieldError::new(Rule::Form, "object", error.to_string())],
    }
}

/// `unknown field "spec.x"` as a field and a message.
fn strict(finding: &str) -> FieldError {
    let quoted = finding.split_once(" \"").and_then(|(what, rest)| {
        let field = rest.strip_suffix('"')?;
        Some((what, field))
    });
    match quoted {
        Some(("unknown field", field)) => {
            FieldError::new(Rule::Form, field, "the kind does not have this field")
        }
        Some((what, field)) => FieldError::new(Rule::Form, field, what),
        None => FieldError::new(Rule::Form, "object", finding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(object: Value, want: Expect) {
        let kinds = Kinds::new(std::slice::from_ref(&object));
        let lines: Vec<String> = kinds
            .check(&object)
            .iter()
            .map(|error| format!("{} {error}", error.rule.id()))
            .collect();
        want.assert_eq(&lines.join("\n"));
    }

    fn own(kind: &str, spec: Value) -> Value {
        json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec})
    }

    #[test]
    fn whole_objects_fit() {
        check(own("Rack", json!({"zone": "z1"})), expect![""]);
        let config =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}});
        check(config, expect![""]);
    }

    #[test]
    fn unknown_missing_and_mistyped_fields_are_named() {
        check(
            own("Rack", json!({"zone": "z1", "hight": 42})),
            expect!["MS-CFG-0005 spec.hight: the kind does not have this field"],
        );
        check(
            own("Rack", json!({})),
            expect!["MS-CFG-0005 spec.zone: Required value"],
        );
        check(
            own("Rack", json!({"zone": 7})),
            expect![[
                r#"MS-CFG-0005 spec.zone: Invalid value: "integer": spec.zone in body must be of type string: "integer""#
            ]],
        );
        let config =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dada": {"a": "b"}});
        check(
            config,
            expect!["MS-CFG-0005 dada: the kind does not have this field"],
        );
    }

    #[test]
    fn unknown_kinds_and_versions_say_what_there_is() {
        let mut object = own("Rack", json!({"zone": "z1"}));
        object["apiVersion"] = "mainstay.dev/v1".into();
        check(
            object,
            expect![[
                r#"MS-CFG-0004 apiVersion: "mainstay.dev/v1" does not have kind Rack; there are: mainstay.dev/v1alpha1"#
            ]],
        );
        check(
            own("Hots", json!({})),
            expect![[
                r#"MS-CFG-0004 kind: mainstay.dev/v1alpha1 has no kind "Hots"; there are 19, such as BreakFixTicket, ClusterDeployment, ComputeCluster, ComputeNode, ComputeNodeTemplate, DataCenter, Host, HostedControlPlane"#
            ]],
        );
        let object =
            json!({"apiVersion": "extensions/v1beta1", "kind": "Deployment", "metadata": {"name": "x"}});
        check(
            object,
            expect![[
                r#"MS-CFG-0004 apiVersion: "extensions/v1beta1" does not have kind Deployment; there are: apps/v1"#
            ]],
        );
    }

    #[test]
    fn rules_over_several_fields_are_checked() {
        let spec = json!({"autoscaling": {"min": 3, "max": 1}, "imageRef": {"name": "node"}});
        check(
            own("NodePool", spec),
            expect![[
                r#"MS-CFG-0005 spec: Invalid value: "object": autoscaling.min must not be greater than autoscaling.max"#
            ]],
        );
    }
}
