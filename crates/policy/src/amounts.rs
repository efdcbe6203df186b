//! Amounts by resource name: reading them, adding, taking maxima, and reading a pod's resources.

use std::cmp::Ordering;

use mainstay_semantics::pod::PodResources;
use mainstay_semantics::quantity::Quantity;
use serde::Deserialize as _;
use serde_json::{Value, json};

pub use mainstay_semantics::pod::{ResourceList as Amounts, add};

/// Reads a resource list; malformed quantities are left out (validation has refused them before).
pub fn amounts(list: &Value) -> Amounts {
    let fields = list.as_object().into_iter().flatten();
    fields
        .filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value).ok()?)))
        .collect()
}

/// Writes a resource list with canonical quantities.
pub fn to_json(amounts: &Amounts) -> Value {
    amounts
        .iter()
        .map(|(name, amount)| (name.clone(), json!(amount.canonical())))
        .collect()
}

/// Takes the larger amount of each resource.
pub fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match most.get_mut(name) {
            Some(own) if (*own).cmp(amount) == Ordering::Less => *own = amount.clone(),
            Some(_) => {}
            None => drop(most.insert(name.clone(), amount.clone())),
        }
    }
}

/// Tells `first - second`, with every resource of either.
pub fn difference(first: &Amounts, second: &Amounts) -> Amounts {
    let mut found = first.clone();
    for (name, amount) in second {
        found
            .entry(name.clone())
            .or_insert_with(Quantity::zero)
            .sub(amount);
    }
    found
}

/// Reads what a pod's spec says about resources; what validation would refuse counts as unset.
pub fn pod_resources(spec: &Value) -> PodResources {
    PodResources::deserialize(spec).unwrap_or_default()
}

/// The items of a list; nothing when it is unset.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}
