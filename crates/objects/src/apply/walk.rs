//! Walks over values and their types: which fields a value sets, what differs, how two values merge, what to drop.

use super::set::{Element, FieldSet};
use crate::types::{List, ListKind, Object, Shape, ShapeId, Types};
use serde_json::{Map, Value};

/// How server-side apply sees one value.
enum Kind<'a> {
    /// Owned as a whole.
    Leaf,
    /// Owned entry by entry; `None` for untyped maps.
    Map(Option<&'a Object>),
    /// Owned element by element.
    List(&'a List),
}

fn kind<'a>(types: &'a Types, shape: ShapeId, value: &Value) -> Kind<'a> {
    match (types.shape(shape), value) {
        (Shape::Object(object), Value::Object(_)) if !object.atomic => Kind::Map(Some(object)),
        (Shape::Any { granular: true }, Value::Object(_)) => Kind::Map(None),
        (Shape::List(list), Value::Array(_)) if list.kind != ListKind::Atomic => Kind::List(list),
        _ => Kind::Leaf,
    }
}

/// The step to an entry: named by the type where it names it.
fn step(types: &Types, object: Option<&Object>, key: &str) -> Element {
    let named = object.and_then(|object| types.field(object, key));
    Element::Field(named.map_or_else(|| key.to_owned().into(), |field| field.name.clone()))
}

/// The type of an entry; entries without a type are kept as they are.
fn below(types: &Types, parent: ShapeId, object: Option<&Object>, key: &str) -> ShapeId {
    object
        .and_then(|object| types.entry(object, key))
        .unwrap_or(parent)
}

fn element(list: &List, item: &Value, index: usize) -> Element {
    match (&list.kind, item) {
        (ListKind::Set, item) => Element::Value(item.to_string()),
        (ListKind::Map(keys), Value::Object(entries)) => {
            let mut found = Map::new();
            for key in keys {
                if let Some(value) = entries.get(key.name.as_ref()).or(key.default.as_ref()) {
                    found.insert(key.name.to_string(), value.clone());
                }
            }
            Element::Key(Value::Object(found).to_string())
        }
        _ => Element::Index(index),
    }
}

fn elements<'v>(list: &List, items: &'v [Value]) -> Vec<(Element, &'v Value)> {
    items
        .iter()
        .enumerate()
        .map(|(index, item)| (element(list, item, index), item))
        .collect()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Every field that `value` sets.
pub(super) fn fields(types: &Types, shape: ShapeId, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match kind(types, shape, value) {
        Kind::Leaf => return FieldSet::leaf(),
        Kind::Map(object) => {
            for (key, entry) in value.as_object().into_iter().flatten() {
                let field = object.and_then(|object| types.field(object, key));
                let mut child = fields(types, below(types, shape, object, key), entry);
                child.member |= field.is_none() || child.is_empty();
                let name = field.map_or_else(|| key.clone().into(), |field| field.name.clone());
                set.insert(Element::Field(name), child);
            }
        }
        Kind::List(list) => {
            for (element, item) in elements(list, items(value)) {
                let mut child = fields(types, list.items, item);
                child.member = true;
                set.insert(element, child);
            }
        }
    }
    set
}

/// What differs between two values.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Added or modified.
    pub changed: FieldSet,
    pub removed: FieldSet,
}

pub(super) fn compare(types: &Types, shape: ShapeId, old: &Value, new: &Value) -> Difference {
    if old == new {
        return Difference::default();
    }
    let mut out = Difference::default();
    let mut child = |element: Element, difference: Difference| {
        if difference.removed.is_empty() {
            return out.changed.insert(element, difference.changed);
        }
        out.changed.insert(element.clone(), difference.changed);
        out.removed.insert(element, difference.removed);
    };
    match (kind(types, shape, old), kind(types, shape, new)) {
        (Kind::Map(object), Kind::Map(_)) => {
            let (old, new) = (old.as_object(), new.as_object());
            for (key, entry) in new.into_iter().flatten() {
                let below = below(types, shape, object, key);
                let difference = match old.and_then(|old| old.get(key)) {
                    Some(before) if before == entry => continue,
                    Some(before) => compare(types, below, before, entry),
                    None => Difference {
                        changed: present(types, below, entry),
                        ..Difference::default()
                    },
                };
                child(step(types, object, key), difference);
            }
            for (key, entry) in old
                .into_iter()
                .flatten()
                .filter(|(key, _)| new.is_none_or(|new| !new.contains_key(*key)))
            {
                let removed = present(types, below(types, shape, object, key), entry);
                child(
                    step(types, object, key),
                    Difference {
                        removed,
                        ..Difference::default()
                    },
                );
            }
        }
        (Kind::List(list), Kind::List(_)) => {
            let (before, after) = (elements(list, items(old)), elements(list, items(new)));
            let find = |side: &[(Element, &Value)], wanted: &Element| {
                side.iter().position(|(element, _)| element == wanted)
            };
            for (element, item) in &after {
                let difference = match find(&before, element) {
                    Some(at) => compare(types, list.items, before[at].1, item),
                    None => Difference {
                        changed: present(types, list.items, item),
                        ..Difference::default()
                    },
                };
                child(element.clone(), difference);
            }
            for (element, item) in before
                .iter()
                .filter(|(element, _)| find(&after, element).is_none())
            {
                let removed = present(types, list.items, item);
                child(
                    element.clone(),
                    Difference {
                        removed,
                        ..Difference::default()
                    },
                );
            }
        }
        _ => out.changed = present(types, shape, new),
    }
    out
}

/// A value that is new or gone: its fields and every container on the way.
fn present(types: &Types, shape: ShapeId, value: &Value) -> FieldSet {
    let mut set = fields(types, shape, value);
    set.member = true;
    mark_containers(types, shape, value, &mut set);
    set
}

fn mark_containers(types: &Types, shape: ShapeId, value: &Value, set: &mut FieldSet) {
    let Kind::Map(object) = kind(types, shape, value) else {
        return;
    };
    for (key, entry) in value.as_object().into_iter().flatten() {
        if let Some(child) = set.children.get_mut(&step(types, object, key)) {
            child.member = true;
            mark_containers(types, below(types, shape, object, key), entry, child);
        }
    }
}

/// Lays `config` over `live`.
pub(super) fn merge(types: &Types, shape: ShapeId, live: &Value, config: &Value) -> Value {
    let mut merged = live.clone();
    lay(types, shape, &mut merged, config);
    merged
}

fn lay(types: &Types, shape: ShapeId, live: &mut Value, config: &Value) {
    match (kind(types, shape, live), kind(types, shape, config), live) {
        (Kind::Map(object), Kind::Map(_), Value::Object(live)) => {
            for (key, entry) in config.as_object().into_iter().flatten() {
                match live.get_mut(key) {
                    Some(current) => lay(types, below(types, shape, object, key), current, entry),
                    None => drop(live.insert(key.clone(), entry.clone())),
                }
            }
        }
        (Kind::List(list), Kind::List(_), live) => {
            *live = Value::Array(merge_lists(types, list, items(live), items(config)));
        }
        (_, _, live) => *live = config.clone(),
    }
}

/// Elements of the configuration in its order; elements only alive keep their place relative to their neighbours.
fn merge_lists(types: &Types, list: &List, live: &[Value], config: &[Value]) -> Vec<Value> {
    let (live, config) = (elements(list, live), elements(list, config));
    let in_config = |wanted: &Element| config.iter().any(|(element, _)| element == wanted);
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let mut left = live.iter().peekable();
    for (element, item) in &config {
        while let Some((_, own)) = left.next_if(|(element, _)| !in_config(element)) {
            out.push((*own).clone());
        }
        let current = live.iter().find(|(known, _)| known == element);
        out.push(match current {
            Some((_, current)) => merge(types, list.items, current, item),
            None => (*item).clone(),
        });
        left.next_if(|(known, _)| known == element);
    }
    out.extend(
        left.filter(|(element, _)| !in_config(element))
            .map(|(_, own)| (*own).clone()),
    );
    out
}

/// Removes from `value` what is in `gone` and not, with all below it, in `keep`.
pub(super) fn prune(types: &Types, shape: ShapeId, value: &mut Value, gone: &FieldSet, keep: &FieldSet) {
    let nothing = FieldSet::default();
    let kept = |element: &Element| keep.child(element);
    match kind(types, shape, value) {
        Kind::Leaf => {}
        Kind::Map(object) => {
            let Value::Object(entries) = value else { return };
            for (element, set) in &gone.children {
                let Element::Field(key) = element else { continue };
                if set.member && kept(element).is_none() {
                    entries.remove(key.as_ref());
                    continue;
                }
                let Some(entry) = entries.get_mut(key.as_ref()) else {
                    continue;
                };
                let filled = !is_hollow(entry);
                prune(
                    types,
                    below(types, shape, object, key),
                    entry,
                    set,
                    kept(element).unwrap_or(&nothing),
                );
                if filled && is_hollow(entry) && kept(element).is_none() {
                    entries.remove(key.as_ref());
                }
            }
        }
        Kind::List(list) => {
            let Value::Array(items) = value else { return };
            let mut index = 0;
            items.retain_mut(|item| {
                let element = element(list, item, index);
                index += 1;
                let Some(set) = gone.child(&element) else {
                    return true;
                };
                if set.member && kept(&element).is_none() {
                    return false;
                }
                let set = without_keys(list, set);
                prune(types, list.items, item, &set, kept(&element).unwrap_or(&nothing));
                true
            });
        }
    }
}

/// An element that stays keeps the fields that identify it.
fn without_keys(list: &List, set: &FieldSet) -> FieldSet {
    let mut set = set.clone();
    if let ListKind::Map(keys) = &list.kind {
        for key in keys {
            set.children.remove(&Element::Field(key.name.clone()));
        }
    }
    set
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(entries) => entries.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
