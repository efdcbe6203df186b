//! What a list or watch selects: label and field selectors checked against a resource, matched over raw heads.

use std::borrow::Cow;
use std::collections::HashSet;

use mainstay_semantics::selector::{FieldSelector, Operator, Requirement, Selector};

use super::events::{Change, Event};
use super::labels::{FIRST_FIELD, Term};
use crate::resources::{Resource, SelectableField, fields};
use mainstay_access::hooks::Visible;
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult};

/// The field that tells where an object is: few have the same, and lists ask for it often.
const PLACE: &str = "spec.nodeName";

/// A compiled selection.
#[derive(Clone, Default)]
pub struct Selection {
    labels: Selector,
    fields: Vec<FieldTerm>,
    visible: Option<Visible>,
    /// The resource's objects have a place, which is their first field (pods: their node).
    placed: bool,
}

#[derive(Debug, Clone)]
struct FieldTerm {
    which: Which,
    value: String,
    negated: bool,
}

#[derive(Debug, Clone)]
enum Which {
    Name,
    Namespace,
    Field { number: usize, unset: String },
}

impl Selection {
    /// Compiles selectors as they stand in a query.
    ///
    /// # Errors
    /// 400 when a selector does not parse or names a field that the resource does not offer.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> ApiResult<Self> {
        let labels = Selector::parse(labels)
            .map_err(|error| ApiError::bad_request(format!("unable to parse requirement: {error}")))?;
        let parsed =
            FieldSelector::parse(fields).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = parsed
            .requirements()
            .iter()
            .map(|term| {
                let which = which(resource, &term.field)?;
                Ok(FieldTerm {
                    which,
                    value: term.value.clone(),
                    negated: term.negated,
                })
            })
            .collect::<ApiResult<_>>()?;
        Ok(Selection {
            labels,
            fields,
            visible: None,
            placed: resource.fields.first().is_some_and(|first| first.path == PLACE),
        })
    }

    /// Shows only what `visible` allows, too.
    pub fn restrict(mut self, visible: Visible) -> Self {
        self.visible = Some(visible);
        self
    }

    /// Whether it depends on the rights of who asks.
    pub fn is_restricted(&self) -> bool {
        self.visible.is_some()
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty() && self.visible.is_none()
    }

    /// The one name that can match, if the selection fixes it.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact(|which| matches!(which, Which::Name))
    }

    /// The value that the resource's first selectable field must have, if the selection fixes it.
    pub fn exact_first_field(&self) -> Option<&str> {
        self.exact(|which| matches!(which, Which::Field { number: 0, .. }))
    }

    /// What a selected object must have, with the values that it may have: a place, or else a label.
    pub(super) fn term(&self) -> Option<Term<'_>> {
        let place = self
            .exact_first_field()
            .filter(|value| self.placed && !value.is_empty());
        if let Some(place) = place {
            return Some(Term {
                key: FIRST_FIELD,
                values: vec![place],
            });
        }
        let fixes = |one: &&Requirement| {
            matches!(
                one.operator(),
                Operator::Equals | Operator::DoubleEquals | Operator::In
            )
        };
        let found = self.labels.requirements().iter().find(fixes)?;
        Some(Term {
            key: found.key(),
            values: found.values().collect(),
        })
    }

    fn exact(&self, is: impl Fn(&Which) -> bool) -> Option<&str> {
        self.fields
            .iter()
            .find(|term| !term.negated && is(&term.which))
            .map(|term| term.value.as_str())
    }

    /// Tells whether an object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        self.fields.iter().all(|term| term.holds(object))
            && (self.labels.is_everything() || self.labels.matches(object))
            && self.visible.as_ref().is_none_or(|visible| visible(object))
    }

    /// Tells what a watcher with this selection is told of an event.
    pub fn change(&self, event: &Event) -> Option<Change> {
        let matches = |object: &Option<std::sync::Arc<Object>>| {
            object
                .as_ref()
                .is_some_and(|object| self.is_everything() || self.matches(object))
        };
        match (matches(&event.old), matches(&event.new)) {
            (false, false) => None,
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
        }
    }
}

/// What one watcher has been shown, by uid. Needed where rights select: a right may begin after its object was made,
/// and end before the object does (a namespace's bindings go first), and the watcher is to hear of both.
#[derive(Debug, Default)]
pub struct Shown(HashSet<String>);

impl Shown {
    /// Notes an object that the watcher has got.
    pub fn note(&mut self, object: &Object) {
        self.0.insert(object.uid().into_owned());
    }

    /// Tells what the watcher is told of an event.
    pub fn change(&mut self, selection: &Selection, event: &Event) -> Option<Change> {
        let uid = event.new.as_ref().or(event.old.as_ref())?.uid().into_owned();
        match selection.change(event) {
            Some(Change::Added | Change::Modified) => match self.0.insert(uid) {
                true => Some(Change::Added),
                false => Some(Change::Modified),
            },
            gone => {
                let known = self.0.remove(&uid);
                (known || gone.is_some()).then_some(Change::Deleted)
            }
        }
    }
}

impl FieldTerm {
    fn holds(&self, object: &Object) -> bool {
        let value = match &self.which {
            Which::Name => object.name(),
            Which::Namespace => object.namespace(),
            Which::Field { number, unset } => match object.field(*number) {
                value if value.is_empty() => Cow::Borrowed(unset.as_str()),
                value => value,
            },
        };
        (value == self.value.as_str()) != self.negated
    }
}

fn which(resource: &Resource, field: &str) -> ApiResult<Which> {
    match field {
        "metadata.name" => return Ok(Which::Name),
        "metadata.namespace" => return Ok(Which::Namespace),
        _ => {}
    }
    let path = fields::stored_path(&resource.store, field);
    let known = |known: &SelectableField| known.path == *path;
    match resource.fields.iter().position(known) {
        Some(number) => Ok(Which::Field {
            number,
            unset: resource.fields[number].unset.clone(),
        }),
        None => {
            let message = format!("field label not supported: {field}");
            Err(ApiError::bad_request(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_watcher_hears_when_its_right_begins_and_when_the_object_goes_after_the_right() {
        let may = Arc::new(AtomicBool::new(false));
        let allowed = may.clone();
        let selection = Selection::default().restrict(Arc::new(move |_| allowed.load(Ordering::Relaxed)));
        let object = |revision| {
            let bytes = bytes::Bytes::from_static(br#"{"metadata":{"name":"n","uid":"u"}}"#);
            Some(Arc::new(Object::new::<&str>(bytes, revision, &[])))
        };
        let mut shown = Shown::default();
        let mut told = Vec::new();
        let events = [
            (false, Event::new(1, object(1), None)),
            (true, Event::new(2, object(2), object(1))),
            (true, Event::new(3, object(3), object(2))),
            (false, Event::new(4, None, object(3))),
            (false, Event::new(5, object(5), None)),
        ];
        for (right, event) in &events {
            may.store(*right, Ordering::Relaxed);
            told.push(shown.change(&selection, event).map(Change::name));
        }
        assert_eq!(
            told,
            [None, Some("ADDED"), Some("MODIFIED"), Some("DELETED"), None]
        );
    }
}
