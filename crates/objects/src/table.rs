//! Server-side tables: the columns that kubectl prints for each kind, built-in or custom.
//!
//! A table is made per request from objects; the clock value is passed in. Columns with priority 1 are shown with
//! `-o wide` only.

mod cells;
mod kinds;
mod pod;

use crate::crd::Column as CustomColumn;
use serde_json::{Value, json};

/// How a cell is made from an object.
#[derive(Clone, Copy)]
enum Cell {
    /// The value at a JSON pointer, as text; empty when absent.
    Text(&'static str),
    /// The value at a JSON pointer, as it is; 0 when absent.
    Number(&'static str),
    /// The time since the instant at a JSON pointer.
    Age(&'static str),
    /// The number of entries at a JSON pointer.
    Count(&'static str),
    /// The same with a text for an absent value.
    Or(&'static str, &'static str),
    /// Anything else; the second argument is now.
    With(fn(&Value, jiff::Timestamp) -> Value),
}

/// A column of a built-in kind; opaque outside this module.
pub struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    /// 1 = wide only.
    priority: u8,
    cell: Cell,
}

/// The columns of one kind.
pub enum Columns<'a> {
    /// A built-in kind with columns of its own.
    Builtin(&'static [Column]),
    /// A custom kind's printer columns.
    Custom(&'a [CustomColumn]),
}

/// Shown when a kind has no columns of its own.
static DEFAULT: &[Column] = &[kinds::NAME, kinds::AGE];

impl<'a> Columns<'a> {
    /// The columns of a built-in kind; name and age when it has none of its own.
    pub fn builtin(group: &str, kind: &str) -> Columns<'static> {
        let found = kinds::TABLE
            .iter()
            .find(|entry| entry.0.contains(&group) && entry.1.contains(&kind));
        Columns::Builtin(found.map_or(DEFAULT, |entry| entry.2))
    }

    /// The columns of a custom kind; name and age when it has none of its own.
    pub fn custom(columns: &'a [CustomColumn]) -> Columns<'a> {
        if columns.is_empty() {
            Columns::Builtin(DEFAULT)
        } else {
            Columns::Custom(columns)
        }
    }

    /// The table's `columnDefinitions`.
    pub fn definitions(&self) -> Value {
        let definition = |name: &str, kind: &str, format: &str, description: &str, priority: i64| json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority});
        match self {
            Columns::Builtin(columns) => columns
                .iter()
                .map(|column| {
                    definition(
                        column.name,
                        column.kind,
                        column.format,
                        "",
                        column.priority.into(),
                    )
                })
                .collect(),
            Columns::Custom(columns) => std::iter::once(definition("Name", "string", "name", "", 0))
                .chain(columns.iter().map(|column| {
                    definition(
                        &column.name,
                        &column.kind,
                        &column.format,
                        &column.description,
                        column.priority,
                    )
                }))
                .collect(),
        }
    }

    /// One row's `cells`.
    pub fn cells(&self, object: &Value, now: jiff::Timestamp) -> Value {
        match self {
            Columns::Builtin(columns) => columns
                .iter()
                .map(|column| column.cell.make(object, now))
                .collect(),
            Columns::Custom(columns) => std::iter::once(cells::text_at(object, "/metadata/name").into())
                .chain(columns.iter().map(|column| custom_cell(column, object, now)))
                .collect(),
        }
    }
}

impl Cell {
    fn make(self, object: &Value, now: jiff::Timestamp) -> Value {
        match self {
            Cell::Text(path) => cells::shown(object.pointer(path)).into(),
            Cell::Number(path) => object.pointer(path).cloned().unwrap_or_else(|| 0.into()),
            Cell::Age(path) => cells::age(object.pointer(path), now).into(),
            Cell::Count(path) => cells::count(object.pointer(path)).into(),
            Cell::Or(path, absent) => match cells::shown(object.pointer(path)) {
                text if text.is_empty() => absent.into(),
                text => text.into(),
            },
            Cell::With(function) => function(object, now),
        }
    }
}

fn custom_cell(column: &CustomColumn, object: &Value, now: jiff::Timestamp) -> Value {
    let found = column.path.find(object);
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match (column.kind.as_str(), first) {
        ("date", value) => cells::age(Some(value), now).into(),
        ("integer", Value::Number(_)) | ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => {
            (*first).clone()
        }
        ("integer" | "number" | "boolean", _) => Value::Null,
        _ if found.len() == 1 => cells::shown(Some(first)).into(),
        _ => found
            .iter()
            .map(|value| cells::shown(Some(value)))
            .collect::<Vec<_>>()
            .join(",")
            .into(),
    }
}

#[cfg(test)]
mod tests;
