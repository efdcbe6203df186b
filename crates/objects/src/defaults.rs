//! Defaults of the built-in kinds: a table of type, field and value, applied in one walk over value and type, plus a few
//! functions where a default depends on other fields. A type's defaults hold wherever the type occurs.

mod functions;
mod table;

use crate::types::{Shape, ShapeId, Types};
use serde_json::{Map, Value};
use std::sync::LazyLock;
use table::TABLE;

/// What a missing field becomes.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    Text(&'static str),
    Int(i64),
    Bool(bool),
    /// `{}`; the fields' own defaults follow.
    Empty,
}

/// One line of the table.
pub(crate) enum Line {
    /// Type (without `io.k8s.api.`), field, value.
    Field(&'static str, &'static str, Fill),
    /// Type, function over the object; runs before the type's fields are filled.
    Function(&'static str, fn(&mut Map<String, Value>)),
}

/// The table turned around: by definition number.
struct Index {
    /// Lines of each definition.
    lines: Vec<Vec<&'static Line>>,
    /// Definitions that have lines themselves or lead to one that has.
    reaches: Vec<bool>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| index(Types::builtin()));

/// Fills the defaults of a built-in object in place.
pub fn apply(root: ShapeId, value: &mut Value) {
    walk(Types::builtin(), &INDEX, root, value);
}

fn index(types: &'static Types) -> Index {
    let mut lines: Vec<Vec<&'static Line>> = types.definitions().map(|_| Vec::new()).collect();
    for (id, object) in types.definitions() {
        let name = short_name(&object.name);
        lines[id.number()].extend(TABLE.iter().filter(|line| line.type_name() == name));
    }
    let mut reaches: Vec<bool> = lines.iter().map(|lines| !lines.is_empty()).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for (id, object) in types.definitions() {
            if !reaches[id.number()]
                && types
                    .fields(object)
                    .iter()
                    .any(|field| leads(types, &reaches, field.shape))
            {
                reaches[id.number()] = true;
                changed = true;
            }
        }
    }
    Index { lines, reaches }
}

/// `core.v1.Pod` for `io.k8s.api.core.v1.Pod`.
pub(crate) fn short_name(name: &str) -> &str {
    name.strip_prefix("io.k8s.api.").unwrap_or(name)
}

fn leads(types: &Types, reaches: &[bool], shape: ShapeId) -> bool {
    match types.shape(shape) {
        Shape::Object(object) => match object.rest {
            Some(rest) if object.name.is_empty() => leads(types, reaches, rest),
            _ => reaches.get(shape.number()).copied().unwrap_or(false),
        },
        Shape::List(list) => leads(types, reaches, list.items),
        _ => false,
    }
}

impl Line {
    fn type_name(&self) -> &'static str {
        match self {
            Line::Field(name, _, _) | Line::Function(name, _) => name,
        }
    }

    fn apply(&self, object: &mut Map<String, Value>) {
        match self {
            Line::Function(_, function) => function(object),
            Line::Field(_, field, fill) => {
                if !object.contains_key(*field) {
                    object.insert((*field).to_owned(), fill.value());
                }
            }
        }
    }
}

impl Fill {
    fn value(self) -> Value {
        match self {
            Fill::Text(text) => text.into(),
            Fill::Int(number) => number.into(),
            Fill::Bool(flag) => flag.into(),
            Fill::Empty => Value::Object(Map::new()),
        }
    }
}

fn walk(types: &Types, index: &Index, shape: ShapeId, value: &mut Value) {
    match (types.shape(shape), value) {
        (Shape::List(list), Value::Array(items)) if leads(types, &index.reaches, list.items) => {
            items
                .iter_mut()
                .for_each(|item| walk(types, index, list.items, item));
        }
        (Shape::Object(object), Value::Object(entries)) if leads(types, &index.reaches, shape) => {
            let lines = index
                .lines
                .get(shape.number())
                .map(Vec::as_slice)
                .unwrap_or_default();
            lines.iter().for_each(|line| line.apply(entries));
            for (key, entry) in entries.iter_mut() {
                if let Some(below) = types.entry(object, key) {
                    walk(types, index, below, entry);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
