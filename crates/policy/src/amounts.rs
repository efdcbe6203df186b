//! Amounts by resource name: reading them, adding, taking maxima, and what a whole pod asks for.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use mainstay_semantics::quantity::Quantity;
use serde_json::{Value, json};

/// Quantities by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

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

/// Adds `more` to `sum`, resource by resource.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match sum.get_mut(name) {
            Some(own) => own.add(amount),
            None => drop(sum.insert(name.clone(), amount.clone())),
        }
    }
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

/// `requests` or `limits` of a pod or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is reserved.
    Requests,
    /// What may be used at most.
    Limits,
}

impl Side {
    /// The field's name.
    pub fn field(self) -> &'static str {
        match self {
            Side::Requests => "requests",
            Side::Limits => "limits",
        }
    }
}

/// Sums what a pod's containers ask for: containers and sidecars add up, init containers count by their maximum
/// on top of the sidecars started before them; pod-level resources replace sums of the same name.
pub fn of_pod(spec: &Value, side: Side) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][side.field()]);
    let mut running = Amounts::new();
    for container in list(&spec["containers"]) {
        add(&mut running, &of(container));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in list(&spec["initContainers"]) {
        let mut now = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut starting, &now);
    }
    raise(&mut running, &starting);
    running.extend(amounts(&spec["resources"][side.field()]));
    running
}

/// Adds the pod's overhead: to requests always, to limits where one is set.
pub fn add_overhead(total: &mut Amounts, spec: &Value, side: Side) {
    let mut overhead = amounts(&spec["overhead"]);
    if side == Side::Limits {
        overhead.retain(|name, _| total.get(name).is_some_and(|amount| !amount.is_zero()));
    }
    add(total, &overhead);
}

/// The items of a list; nothing when it is unset.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}
