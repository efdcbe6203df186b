//! RuntimeClass: a pod gets the overhead of its class and goes where the class can run; it chooses neither itself.

use async_trait::async_trait;
use mainstay_semantics::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::{creates_pod, forbidden, items};
use crate::hooks::{Admit, Review, World};
use crate::status::ApiResult;

const CLASSES: &str = "node.k8s.io/runtimeclasses";
const DIFFERS: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const UNFOUNDED: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

/// The plugin.
pub(super) struct RuntimeClass;

/// The class that a pod names; null when it names none.
fn class_of(review: &Review, world: &dyn World) -> ApiResult<Value> {
    let name = review.object["spec"]["runtimeClassName"].as_str();
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(Value::Null);
    };
    let class = world.get(CLASSES, "", name);
    let missing = || forbidden(review, format!("pod rejected: RuntimeClass {name:?} not found"));
    class.map(|class| class.value()).ok_or_else(missing)
}

/// Fields of an object; none when it is unset.
fn fields(of: &Value) -> impl Iterator<Item = (&String, &Value)> {
    of.as_object().into_iter().flatten()
}

/// Whether two lists of resources hold the same amounts, however these are written.
fn same_amounts(a: &Value, b: &Value) -> bool {
    let amount = |of: Option<&Value>| of.and_then(|of| Quantity::from_json(of).ok());
    let each = |of: &Value, other: &Value| {
        fields(of).all(|(name, value)| {
            amount(Some(value))
                .is_some_and(|value| amount(other.get(name)).is_some_and(|other| value == other))
        })
    };
    each(a, b) && each(b, a)
}

fn merge_selector(review: &mut Review, wanted: &Value) -> ApiResult<()> {
    let mut merged = match &review.object["spec"]["nodeSelector"] {
        Value::Object(given) => given.clone(),
        _ => Map::new(),
    };
    for (key, value) in fields(wanted) {
        let given = merged.insert(key.clone(), value.clone());
        if let Some(given) = given.filter(|given| given != value) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(&given)
            );
            return Err(forbidden(review, why));
        }
    }
    if !merged.is_empty() {
        review.object["spec"]["nodeSelector"] = Value::Object(merged);
    }
    Ok(())
}

fn merge_tolerations(review: &mut Review, wanted: &Value) {
    let given = &review.object["spec"]["tolerations"];
    let new = items(wanted).filter(|toleration| !items(given).any(|other| other == *toleration));
    let merged: Vec<Value> = items(given).chain(new).cloned().collect();
    if !merged.is_empty() {
        review.object["spec"]["tolerations"] = json!(merged);
    }
}

#[async_trait]
impl Admit for RuntimeClass {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !creates_pod(review) {
            return Ok(());
        }
        let class = class_of(review, world)?;
        if let Some(fixed) = class["overhead"].get("podFixed") {
            let given = &review.object["spec"]["overhead"];
            if !given.is_null() && !same_amounts(given, fixed) {
                return Err(forbidden(review, DIFFERS));
            }
            review.object["spec"]["overhead"] = fixed.clone();
        }
        merge_selector(review, &class["scheduling"]["nodeSelector"])?;
        merge_tolerations(review, &class["scheduling"]["tolerations"]);
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !creates_pod(review) {
            return Ok(());
        }
        let class = class_of(review, world)?;
        let given = &review.object["spec"]["overhead"];
        match class["overhead"].get("podFixed") {
            Some(fixed) if !same_amounts(given, fixed) => Err(forbidden(review, DIFFERS)),
            None if fields(given).next().is_some() => Err(forbidden(review, UNFOUNDED)),
            _ => Ok(()),
        }
    }
}
