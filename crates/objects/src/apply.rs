//! Server-side apply: ownership of fields for every writer, merging of applied configurations, conflicts.
//!
//! [`track_update`] runs for every ordinary write, [`apply`] for apply patches; both work on complete objects of one
//! kind whose structure is given by a type arena, built-in or lowered from a custom resource's schema.

mod managers;
mod set;
mod walk;

pub use set::{Element, FieldSet};

use crate::types::{ShapeId, Types};
use managers::{Found, Manager};
use serde_json::{Map, Value};

/// The annotation in which `kubectl apply` without server-side apply keeps what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Longer manager names are refused.
pub const MAX_MANAGER_NAME: usize = 128;

/// Fields that nobody owns.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
];

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// The version of the request, for example `apps/v1`.
    pub api_version: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// RFC 3339 in whole seconds.
    pub now: &'a str,
}

/// A field that somebody else owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// `.spec.containers[name="a"].image`.
    pub field: String,
    /// `conflict with "manager"`.
    pub message: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409; each conflict is a cause with reason FieldManagerConflict.
    #[error("{}", sentence(.0))]
    Conflicts(Vec<Conflict>),
    /// 400.
    #[error("{0}")]
    Invalid(String),
}

fn sentence(conflicts: &[Conflict]) -> String {
    let mut by_manager: Vec<(&str, Vec<&str>)> = Vec::new();
    for conflict in conflicts {
        match by_manager
            .iter_mut()
            .find(|(message, _)| *message == conflict.message)
        {
            Some((_, fields)) => fields.push(&conflict.field),
            None => by_manager.push((&conflict.message, vec![&conflict.field])),
        }
    }
    let parts: Vec<String> = by_manager
        .iter()
        .map(|(message, fields)| match fields.as_slice() {
            [field] => format!("{message}: {field}"),
            fields => format!("{message}:\n- {}", fields.join("\n- ")),
        })
        .collect();
    let noun = if conflicts.len() == 1 {
        "conflict"
    } else {
        "conflicts"
    };
    format!(
        "Apply failed with {} {noun}: {}",
        conflicts.len(),
        parts.join("\n")
    )
}

/// Records who owns what after an ordinary write: `new` leaves with its managedFields. `live` is what was stored.
pub fn track_update(
    types: &Types,
    root: ShapeId,
    live: Option<&Value>,
    new: &mut Value,
    writer: &Writer<'_>,
) {
    let nothing = Value::Object(Map::new());
    let live = live.unwrap_or(&nothing);
    let difference = difference(types, root, live, new);
    let mut managers = match managers::take_stored(new, live) {
        Some(stored) => stored,
        None => match (managers::read(new), managers::read(live)) {
            (Found::Reset, _) => return managers::write(new, Vec::new()),
            (Found::Managers(found), _) | (_, Found::Managers(found)) => found,
            _ => Vec::new(),
        },
    };
    let mut changed = difference.changed;
    strip(&mut changed);
    managers
        .iter_mut()
        .filter(|manager| !manager.is(writer, false))
        .for_each(|manager| {
            manager.subtract(&changed);
            manager.subtract(&difference.removed);
        });
    let known = managers.iter().position(|manager| manager.is(writer, false));
    let mut own = match known {
        Some(at) => managers.remove(at),
        None => Manager::new(writer, false),
    };
    if own.is_read() || !own.owns_all(&changed) || own.owns_some(&difference.removed) {
        let before = own.fields().clone();
        let fields = own.fields();
        fields.absorb(changed);
        fields.subtract(&difference.removed);
        strip(fields);
        if before != *fields {
            own.set_time(writer.now);
        }
    }
    managers.push(own);
    managers::write(new, managers);
}

/// Applies `config` to `live` (`None` creates). The result carries its managedFields; defaults come after it.
///
/// # Errors
/// `Conflicts` unless `force`, `Invalid` for configurations that carry managedFields.
pub fn apply(
    types: &Types,
    root: ShapeId,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if config
        .get("metadata")
        .and_then(|meta| meta.get("managedFields"))
        .is_some_and(|value| !value.is_null())
    {
        return Err(ApplyError::Invalid(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    let nothing = Value::Object(Map::new());
    let before = live;
    let live = live.unwrap_or(&nothing);
    let mut merged = walk::merge(types, root, live, config);
    let mut managers = match managers::take_stored(&mut merged, live) {
        Some(stored) => stored,
        None => match before.map(managers::read) {
            Some(Found::Managers(managers)) => managers,
            Some(_) if live.get("metadata").is_some() => vec![first_owner(types, root, live, writer)],
            _ => Vec::new(),
        },
    };
    let mut fields = walk::fields(types, root, config);
    fields.member = false;
    strip(&mut fields);
    let mut last = take_own(&mut managers, writer);
    if let Some(last) = &mut last {
        let mut gone = last.fields().clone();
        gone.subtract(&fields);
        if !gone.is_empty() {
            let mut keep = fields.clone();
            managers
                .iter_mut()
                .for_each(|manager| keep.unite(manager.fields()));
            walk::prune(types, root, &mut merged, &gone, &keep);
        }
    }
    let mut difference = difference(types, root, live, &merged);
    // Their list has been taken out of what is merged.
    let list = ["metadata", "managedFields"];
    difference.changed.prune_fields(&list);
    difference.removed.prune_fields(&list);
    let force = force || migrates(types, root, live, &mut managers, &difference.changed, writer);
    resolve(&mut managers, &difference, force)?;
    let mut own = Manager::new(writer, true);
    if let Some(last) = &mut last
        && *last.fields() == fields
    {
        own.set_time(last.time());
    }
    own.set_fields(fields);
    managers.push(own);
    managers::write(&mut merged, managers);
    Ok(merged)
}

fn difference(types: &Types, root: ShapeId, old: &Value, new: &Value) -> walk::Difference {
    let mut difference = walk::compare(types, root, old, new);
    difference.changed.member = false;
    difference.removed.member = false;
    // Structures that every object of a kind has are nobody's addition.
    for name in ["metadata", "spec", "status"] {
        if let Some(child) = difference.changed.children.get_mut(&Element::Field(name.into()))
            && !child.children.is_empty()
        {
            child.member = false;
        }
    }
    difference
}

fn strip(set: &mut FieldSet) {
    UNOWNED.iter().for_each(|path| set.prune_fields(path));
    let metadata = Element::Field("metadata".into());
    if let Some(child) = set.children.get_mut(&metadata) {
        child.member = false;
        if child.is_empty() {
            set.children.remove(&metadata);
        }
    }
}

/// An object that was written before anybody applied belongs to one nameless updater.
fn first_owner(types: &Types, root: ShapeId, live: &Value, writer: &Writer<'_>) -> Manager {
    let mut manager = Manager::new(
        &Writer {
            manager: BEFORE_FIRST_APPLY,
            subresource: "",
            ..*writer
        },
        false,
    );
    let mut fields = walk::fields(types, root, live);
    fields.member = false;
    strip(&mut fields);
    manager.set_fields(fields);
    manager
}

fn take_own(managers: &mut Vec<Manager>, writer: &Writer<'_>) -> Option<Manager> {
    let at = managers.iter().position(|manager| manager.is(writer, true))?;
    Some(managers.remove(at))
}

/// Takes changed fields away from their owners, or names the conflicts.
fn resolve(managers: &mut [Manager], difference: &walk::Difference, force: bool) -> Result<(), ApplyError> {
    let mut conflicts = Vec::new();
    for manager in managers.iter_mut() {
        if manager.owns_some(&difference.changed) {
            let contested = manager.fields().intersection(&difference.changed);
            let fields = contested.paths().into_iter().filter(|_| !force);
            let message = manager.described();
            conflicts.extend(fields.map(|field| Conflict {
                field,
                message: message.clone(),
            }));
            manager.subtract(&contested);
        }
        manager.subtract(&difference.removed);
    }
    if conflicts.is_empty() {
        Ok(())
    } else {
        Err(ApplyError::Conflicts(conflicts))
    }
}

/// kubectl may take over what its own client-side apply set before: all contested fields are in its last configuration.
fn migrates(
    types: &Types,
    root: ShapeId,
    live: &Value,
    managers: &mut [Manager],
    changed: &FieldSet,
    writer: &Writer<'_>,
) -> bool {
    let annotation = live
        .get("metadata")
        .and_then(|meta| meta.get("annotations")?.get(LAST_APPLIED)?.as_str());
    let (Some(text), "kubectl") = (annotation, writer.manager) else {
        return false;
    };
    let Ok(config) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    let own = walk::fields(types, root, &config);
    let annotations = ["metadata", "annotations"];
    managers.iter_mut().all(|manager| {
        let mut contested = manager.fields().intersection(changed);
        contested.subtract(&own);
        contested.prune_fields(&[annotations[0], annotations[1], LAST_APPLIED]);
        contested.paths().is_empty()
    })
}

#[cfg(test)]
mod tests;
