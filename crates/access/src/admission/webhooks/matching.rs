//! Which webhooks want to see a write: rules, selectors, match conditions.

use mainstay_semantics::selector::LabelSelector;
use serde_json::Value;

use super::text;
use crate::admission::{forbidden, items};
use crate::authz::review::user_info;
use crate::hooks::{Operation, Review, World};
use crate::status::ApiResult;

/// One webhook of a configuration.
pub(super) struct Hook {
    pub configuration: String,
    pub value: Value,
    /// Whether it is asked again when later hooks changed the object.
    pub reinvoked: bool,
}

/// All hooks of a kind of configuration, in the order they are asked: by configuration name, then as listed.
pub(super) fn hooks(world: &dyn World, resource: &str) -> Vec<Hook> {
    let mut found = Vec::new();
    for configuration in world.list(resource, None) {
        let name = configuration.name().into_owned();
        for value in items(&configuration.value()["webhooks"]) {
            found.push(Hook {
                configuration: name.clone(),
                reinvoked: value["reinvocationPolicy"] == "IfNeeded",
                value: value.clone(),
            });
        }
    }
    found
}

pub(super) fn operation(review: &Review) -> &'static str {
    match review.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn lists(list: &Value, wanted: &str) -> bool {
    items(list).any(|item| item == "*" || item == wanted)
}

fn rule_matches(rule: &Value, review: &Review) -> bool {
    let scope = match text(rule, "scope") {
        "Cluster" => review.namespace.is_empty() || review.resource == "namespaces",
        "Namespaced" => !review.namespace.is_empty() && review.resource != "namespaces",
        _ => true,
    };
    scope
        && lists(&rule["operations"], operation(review))
        && lists(&rule["apiGroups"], &review.group)
        && lists(&rule["apiVersions"], &review.version)
        && items(&rule["resources"])
            .filter_map(Value::as_str)
            .any(|item| resource_matches(item, review))
}

/// `pods`, `pods/status`, `pods/*`, `*/status`, `*` (no subresources), `*/*`.
fn resource_matches(item: &str, review: &Review) -> bool {
    let (resource, sub) = item.split_once('/').unwrap_or((item, ""));
    (resource == "*" || resource == review.resource) && (sub == "*" || sub == review.subresource)
}

impl Hook {
    /// Whether this hook is to be asked.
    pub(super) fn wants(&self, review: &Review, world: &dyn World) -> ApiResult<bool> {
        let by_rule = items(&self.value["rules"]).any(|rule| rule_matches(rule, review));
        Ok(by_rule
            && self.selects_namespace(review, world)
            && self.selects_object(review)
            && self.meets_conditions(review)?)
    }

    fn selects_namespace(&self, review: &Review, world: &dyn World) -> bool {
        let selector = &self.value["namespaceSelector"];
        let itself = review.group.is_empty() && review.resource == "namespaces";
        if selector.is_null() || review.namespace.is_empty() && !itself {
            return true;
        }
        let labels = match (itself, review.operation) {
            (true, Operation::Delete) => review.old["metadata"]["labels"].clone(),
            (true, _) => review.object["metadata"]["labels"].clone(),
            _ => world
                .get("core/namespaces", "", &review.namespace)
                .map(|namespace| namespace.value()["metadata"]["labels"].clone())
                .unwrap_or_default(),
        };
        selects(selector, &labels)
    }

    fn selects_object(&self, review: &Review) -> bool {
        let selector = &self.value["objectSelector"];
        selector.is_null()
            || [&review.object, &review.old]
                .iter()
                .any(|object| !object.is_null() && selects(selector, &object["metadata"]["labels"]))
    }

    /// A condition that is false keeps the hook out; one that cannot be evaluated follows the failure policy.
    fn meets_conditions(&self, review: &Review) -> ApiResult<bool> {
        let mut broken = None;
        for condition in items(&self.value["matchConditions"]) {
            match evaluate(text(condition, "expression"), review) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => broken = Some(format!("match condition {}: {why}", text(condition, "name"))),
            }
        }
        match broken {
            Some(_) if self.value["failurePolicy"] == "Ignore" => Ok(false),
            Some(why) => Err(forbidden(
                review,
                format!("webhook {}: {why}", text(&self.value, "name")),
            )),
            None => Ok(true),
        }
    }
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let Ok(selector) = LabelSelector::from_json(selector) else {
        return false;
    };
    selector.matches(labels)
}

/// The request as match conditions and webhooks see it.
pub(super) fn request(review: &Review, uid: &str) -> Value {
    let kind = serde_json::json!({"group": review.group, "version": review.version, "kind": review.kind});
    let resource =
        serde_json::json!({"group": review.group, "version": review.version, "resource": review.resource});
    let mut request = serde_json::json!({
        "uid": uid, "kind": kind, "requestKind": kind, "resource": resource, "requestResource": resource,
        "name": review.name, "operation": operation(review), "userInfo": user_info(&review.user),
        "dryRun": review.dry_run, "object": review.object, "oldObject": review.old, "options": review.options,
    });
    for (field, value) in [
        ("namespace", &review.namespace),
        ("subResource", &review.subresource),
    ] {
        if !value.is_empty() {
            request[field] = Value::String(value.clone());
        }
    }
    request
}

/// Evaluates a CEL expression over `object`, `oldObject` and `request`.
fn evaluate(expression: &str, review: &Review) -> Result<bool, String> {
    let program = mainstay_objects::expression::compile(&cel::Env::stdlib(), expression)?;
    let mut context = cel::Context::default();
    let variables = [
        ("object", review.object.clone()),
        ("oldObject", review.old.clone()),
        ("request", request(review, "")),
    ];
    for (name, value) in variables {
        let value = cel::to_value(value).map_err(|error| error.to_string())?;
        context.add_variable_from_value(name, value);
    }
    match mainstay_objects::expression::run(&program, || program.execute(&context))? {
        Ok(cel::Value::Bool(answer)) => Ok(answer),
        Ok(_) => Err("the expression is not a truth value".into()),
        Err(error) => Err(error.to_string()),
    }
}
