//! `metadata.managedFields`: who owns which fields since when.

use super::Writer;
use super::set::FieldSet;
use serde_json::{Map, Value, json};

/// More managers that update are folded into one.
const MAX_UPDATERS: usize = 10;
const FOLDED: &str = "ancient-changes";

/// One manager and what it owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manager {
    pub name: String,
    pub applies: bool,
    pub api_version: String,
    pub subresource: String,
    pub time: String,
    pub fields: FieldSet,
}

impl Manager {
    pub fn new(writer: &Writer<'_>, applies: bool) -> Self {
        Self {
            name: writer.manager.to_owned(),
            applies,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.now.to_owned(),
            fields: FieldSet::default(),
        }
    }

    /// The same writer: appliers are one across versions.
    pub fn is(&self, writer: &Writer<'_>, applies: bool) -> bool {
        self.applies == applies
            && self.name == writer.manager
            && self.subresource == writer.subresource
            && (applies || self.api_version == writer.api_version)
    }

    /// Where it stands in the list.
    fn order(&self) -> (bool, &str, &str, &str) {
        (!self.applies, &self.time, &self.name, &self.subresource)
    }

    /// Upstream's sentence in conflicts.
    pub fn described(&self) -> String {
        let via = match self.subresource.as_str() {
            "" => String::new(),
            subresource => format!(" with subresource {subresource:?}"),
        };
        if self.applies {
            return format!("conflict with {:?}{via}", self.name);
        }
        format!(
            "conflict with {:?}{via} using {} at {}",
            self.name, self.api_version, self.time
        )
    }

    fn to_json(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("manager".into(), self.name.as_str().into());
        entry.insert(
            "operation".into(),
            if self.applies { "Apply" } else { "Update" }.into(),
        );
        entry.insert("apiVersion".into(), self.api_version.as_str().into());
        entry.insert("time".into(), self.time.as_str().into());
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), self.fields.to_json());
        if !self.subresource.is_empty() {
            entry.insert("subresource".into(), self.subresource.as_str().into());
        }
        Value::Object(entry)
    }

    fn from_json(entry: &Value) -> Option<Self> {
        let text = |key: &str| {
            entry
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let applies = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        Some(Self {
            name: text("manager"),
            applies,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::from_json(entry.get("fieldsV1").unwrap_or(&json!({})))?,
        })
    }
}

/// What an object's managedFields say.
pub(super) enum Found {
    /// The field is absent.
    None,
    /// A client asked to forget all managers: an empty list or one empty entry.
    Reset,
    Managers(Vec<Manager>),
    /// A client sent something that is no list of managers.
    Malformed,
}

pub(super) fn read(object: &Value) -> Found {
    match object.get("metadata").and_then(|meta| meta.get("managedFields")) {
        None | Some(Value::Null) => Found::None,
        Some(Value::Array(entries)) => {
            if entries
                .iter()
                .all(|entry| entry.as_object().is_some_and(Map::is_empty))
            {
                return Found::Reset;
            }
            entries
                .iter()
                .map(Manager::from_json)
                .collect::<Option<Vec<_>>>()
                .map_or(Found::Malformed, Found::Managers)
        }
        Some(_) => Found::Malformed,
    }
}

pub(super) fn write(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.fields.is_empty());
    managers.sort_by(|a, b| a.order().cmp(&b.order()));
    fold(&mut managers);
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        return;
    };
    if managers.is_empty() {
        metadata.remove("managedFields");
    } else {
        let entries = managers.iter().map(Manager::to_json).collect();
        metadata.insert("managedFields".into(), Value::Array(entries));
    }
}

/// The oldest updaters become one when there are too many.
fn fold(managers: &mut Vec<Manager>) {
    let updaters = managers.iter().filter(|manager| !manager.applies).count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    let Some(start) = managers.iter().position(|manager| !manager.applies) else {
        return;
    };
    let surplus: Vec<Manager> = managers.drain(start..=start + updaters - MAX_UPDATERS).collect();
    let Some(mut folded) = surplus.last().cloned() else {
        return;
    };
    surplus
        .iter()
        .for_each(|manager| folded.fields.unite(&manager.fields));
    folded.name = FOLDED.to_owned();
    folded.subresource = String::new();
    managers.insert(start, folded);
}
