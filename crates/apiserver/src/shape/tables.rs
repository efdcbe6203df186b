//! `meta.k8s.io` Tables: what kubectl prints.

use serde_json::{Value, json};

use super::partial;
use crate::resources::Resource;

/// What a table's rows carry besides their cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The object's metadata.
    Metadata,
    /// The object.
    Object,
}

impl Include {
    /// Reads `includeObject`.
    pub fn parse(text: &str) -> Self {
        match text {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }
}

/// How a table is made.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What rows carry.
    pub include: Include,
    /// The version of meta.k8s.io.
    pub version: &'static str,
    /// The time, for ages.
    pub now: jiff::Timestamp,
}

/// Prints objects as a table.
pub fn table(resource: &Resource, items: &[Value], meta: Value, look: Look) -> Value {
    let Look {
        include,
        version,
        now,
    } = look;
    let (columns, cells) = crate::schema::table(resource, items, now);
    let rows: Vec<Value> = items
        .iter()
        .zip(cells)
        .map(|(item, cells)| {
            let mut row = json!({"cells": cells});
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial::object(item, version),
                Include::Object => row["object"] = item.clone(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}
