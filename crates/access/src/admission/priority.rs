//! Priority: a pod's priority comes from its class, never from its author.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{creates_pod, forbidden};
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::ApiResult;

const CLASSES: &str = "scheduling.k8s.io/priorityclasses";
/// Classes every cluster has, also before their objects are written.
const BUILT_IN: &[(&str, i64)] = &[
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

/// The plugin.
pub(super) struct Priority;

/// Name, value and preemption policy of a class.
struct Class {
    name: String,
    value: i64,
    preemption: String,
}

fn class_of(object: &Value) -> Class {
    let preemption = object["preemptionPolicy"]
        .as_str()
        .unwrap_or("PreemptLowerPriority");
    Class {
        name: object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_string(),
        value: object["value"].as_i64().unwrap_or(0),
        preemption: preemption.to_string(),
    }
}

fn named(name: &str, world: &dyn World) -> Option<Class> {
    if let Some(object) = world.get(CLASSES, "", name) {
        return Some(class_of(&object.value()));
    }
    let (name, value) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
    Some(Class {
        name: name.to_string(),
        value: *value,
        preemption: "PreemptLowerPriority".into(),
    })
}

/// The lowest of the classes marked as the default; priority 0 without a name when there is none.
fn default(world: &dyn World) -> Class {
    let classes = world.list(CLASSES, None);
    let marked = classes
        .iter()
        .filter(|class| class.scalar("globalDefault") == "true");
    let none = || Class {
        name: String::new(),
        value: 0,
        preemption: "PreemptLowerPriority".into(),
    };
    marked
        .map(|class| class_of(&class.value()))
        .min_by_key(|class| class.value)
        .unwrap_or_else(none)
}

#[async_trait]
impl Admit for Priority {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !creates_pod(review) {
            return Ok(());
        }
        let spec = &review.object["spec"];
        let name = spec["priorityClassName"].as_str().unwrap_or_default();
        let class = match name {
            "" => default(world),
            _ => named(name, world)
                .ok_or_else(|| forbidden(review, format!("no PriorityClass with name {name} was found")))?,
        };
        if let Some(given) = spec["priority"].as_i64().filter(|given| *given != class.value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {} from the given PriorityClass name",
                class.value
            );
            return Err(forbidden(review, why));
        }
        if let Some(given) = spec["preemptionPolicy"]
            .as_str()
            .filter(|given| *given != class.preemption)
        {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
                 admission controller computed {} from the given PriorityClass name",
                class.preemption
            );
            return Err(forbidden(review, why));
        }
        let spec = &mut review.object["spec"];
        if !class.name.is_empty() {
            spec["priorityClassName"] = json!(class.name);
        }
        spec["priority"] = json!(class.value);
        spec["preemptionPolicy"] = json!(class.preemption);
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let written = matches!(review.operation, Operation::Create | Operation::Update);
        if !written || !review.is("scheduling.k8s.io", "priorityclasses", "") {
            return Ok(());
        }
        if review.object["globalDefault"] != true {
            return Ok(());
        }
        let others = world.list(CLASSES, None);
        let other = others
            .iter()
            .find(|class| class.scalar("globalDefault") == "true" && class.name() != review.name.as_str());
        match other {
            None => Ok(()),
            Some(other) => Err(forbidden(
                review,
                format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    other.name()
                ),
            )),
        }
    }
}
