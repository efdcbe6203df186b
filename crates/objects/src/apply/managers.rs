//! `metadata.managedFields`: who owns which fields since when.

use super::Writer;
use super::set::FieldSet;
use serde_json::{Map, Value, json};

/// More managers that update are folded into one.
const MAX_UPDATERS: usize = 10;
const FOLDED: &str = "ancient-changes";

/// One manager and what it owns. What stands in the object is taken over as it is; its fields are only read when they
/// change, which most writes do to one manager of many.
#[derive(Debug, Clone)]
pub(super) struct Manager {
    entry: Map<String, Value>,
    fields: Option<FieldSet>,
}

impl Manager {
    pub fn new(writer: &Writer<'_>, applies: bool) -> Self {
        let operation = if applies { "Apply" } else { "Update" };
        let mut entry = Map::new();
        let texts = [
            ("manager", writer.manager),
            ("operation", operation),
            ("apiVersion", writer.api_version),
            ("time", writer.now),
            ("fieldsType", "FieldsV1"),
        ];
        for (key, text) in texts {
            entry.insert(key.into(), text.into());
        }
        if !writer.subresource.is_empty() {
            entry.insert("subresource".into(), writer.subresource.into());
        }
        Self {
            entry,
            fields: Some(FieldSet::default()),
        }
    }

    fn text(&self, key: &str) -> &str {
        self.entry.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn set(&mut self, key: &str, text: &str) {
        self.entry.insert(key.into(), text.into());
    }

    pub fn applies(&self) -> bool {
        self.text("operation") == "Apply"
    }

    /// Since when, RFC 3339.
    pub fn time(&self) -> &str {
        self.text("time")
    }

    pub fn set_time(&mut self, time: &str) {
        self.set("time", time);
    }

    /// The same writer: appliers are one across versions.
    pub fn is(&self, writer: &Writer<'_>, applies: bool) -> bool {
        self.applies() == applies
            && self.text("manager") == writer.manager
            && self.text("subresource") == writer.subresource
            && (applies || self.text("apiVersion") == writer.api_version)
    }

    /// Where it stands in the list.
    fn order(&self) -> (bool, &str, &str, &str) {
        (
            !self.applies(),
            self.time(),
            self.text("manager"),
            self.text("subresource"),
        )
    }

    /// Upstream's sentence in conflicts.
    pub fn described(&self) -> String {
        let name = self.text("manager");
        let via = match self.text("subresource") {
            "" => String::new(),
            subresource => format!(" with subresource {subresource:?}"),
        };
        if self.applies() {
            return format!("conflict with {name:?}{via}");
        }
        let (version, time) = (self.text("apiVersion"), self.time());
        format!("conflict with {name:?}{via} using {version} at {time}")
    }

    fn written(&self) -> &Value {
        self.entry.get("fieldsV1").unwrap_or(&Value::Null)
    }

    /// Whether its fields have been read already.
    pub fn is_read(&self) -> bool {
        self.fields.is_some()
    }

    /// What it owns.
    pub fn fields(&mut self) -> &mut FieldSet {
        if self.fields.is_none() {
            self.fields = FieldSet::from_json(self.written());
        }
        self.fields.get_or_insert_default()
    }

    pub fn set_fields(&mut self, fields: FieldSet) {
        self.fields = Some(fields);
    }

    fn owns_nothing(&self) -> bool {
        match &self.fields {
            Some(fields) => fields.is_empty(),
            None => self.written().as_object().is_none_or(Map::is_empty),
        }
    }

    /// Whether it owns any path of `other`.
    pub fn owns_some(&self, other: &FieldSet) -> bool {
        match &self.fields {
            Some(fields) => !fields.intersection(other).is_empty(),
            None => other.meets(self.written()),
        }
    }

    /// Whether it owns every path of `other`.
    pub fn owns_all(&self, other: &FieldSet) -> bool {
        match &self.fields {
            Some(fields) => fields.intersection(other) == *other,
            None => other.is_within(self.written()),
        }
    }

    /// Takes every path of `other` from it.
    pub fn subtract(&mut self, other: &FieldSet) {
        if self.owns_some(other) {
            self.fields().subtract(other);
        }
    }

    fn into_json(mut self) -> Value {
        if let Some(fields) = self.fields.take() {
            self.entry.insert("fieldsV1".into(), fields.to_json());
        }
        Value::Object(self.entry)
    }

    /// Takes over what the server wrote itself.
    fn stored(entry: Value) -> Option<Self> {
        let Value::Object(entry) = entry else {
            return None;
        };
        let manager = Self { entry, fields: None };
        matches!(manager.text("operation"), "Apply" | "Update").then_some(manager)
    }

    /// Reads what a client sent.
    fn sent(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let applies = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        let writer = Writer {
            manager: text("manager"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            now: text("time"),
        };
        let mut manager = Self::new(&writer, applies);
        manager.set_fields(FieldSet::from_json(entry.get("fieldsV1").unwrap_or(&json!({})))?);
        Some(manager)
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

fn list(object: &Value) -> &Value {
    let list = object.get("metadata").and_then(|meta| meta.get("managedFields"));
    list.unwrap_or(&Value::Null)
}

/// Reads what a client may have sent.
pub(super) fn read(object: &Value) -> Found {
    match list(object) {
        Value::Null => Found::None,
        Value::Array(entries) => {
            if entries
                .iter()
                .all(|entry| entry.as_object().is_some_and(Map::is_empty))
            {
                return Found::Reset;
            }
            entries
                .iter()
                .map(Manager::sent)
                .collect::<Option<Vec<_>>>()
                .map_or(Found::Malformed, Found::Managers)
        }
        _ => Found::Malformed,
    }
}

/// Takes the managers out of an object that has those of `stored`; `None` when it has others or none.
pub(super) fn take_stored(object: &mut Value, stored: &Value) -> Option<Vec<Manager>> {
    let known = list(stored).as_array().filter(|known| !known.is_empty())?;
    let own = object.get_mut("metadata")?.get_mut("managedFields")?;
    if own.as_array()? != known {
        return None;
    }
    match own.take() {
        Value::Array(entries) => entries.into_iter().map(Manager::stored).collect(),
        _ => None,
    }
}

pub(super) fn write(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.owns_nothing());
    managers.sort_by(|a, b| a.order().cmp(&b.order()));
    fold(&mut managers);
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        return;
    };
    if managers.is_empty() {
        metadata.remove("managedFields");
    } else {
        let entries = managers.into_iter().map(Manager::into_json).collect();
        metadata.insert("managedFields".into(), Value::Array(entries));
    }
}

/// The oldest updaters become one when there are too many.
fn fold(managers: &mut Vec<Manager>) {
    let updaters = managers.iter().filter(|manager| !manager.applies()).count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    let Some(start) = managers.iter().position(|manager| !manager.applies()) else {
        return;
    };
    let surplus: Vec<Manager> = managers.drain(start..=start + updaters - MAX_UPDATERS).collect();
    let Some(mut folded) = surplus.last().cloned() else {
        return;
    };
    for mut manager in surplus {
        folded.fields().unite(manager.fields());
    }
    folded.set("manager", FOLDED);
    folded.entry.remove("subresource");
    managers.insert(start, folded);
}
