//! What a list or watch selects: label and field selectors checked against a resource, matched over raw heads.

use std::borrow::Cow;

use mainstay_semantics::selector::{FieldSelector, Labels, Selector};

use super::events::{Change, Event};
use crate::hooks::Visible;
use crate::object::Object;
use crate::resources::{Resource, SelectableField, fields};
use crate::status::{ApiError, ApiResult};

/// A compiled selection.
#[derive(Clone, Default)]
pub struct Selection {
    labels: Selector,
    fields: Vec<FieldTerm>,
    visible: Option<Visible>,
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

impl Labels for Object {
    fn label(&self, key: &str) -> Option<&str> {
        match Object::label(self, key)? {
            Cow::Borrowed(value) => Some(value),
            Cow::Owned(_) => None,
        }
    }
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
        })
    }

    /// Shows only what `visible` allows, too.
    pub fn restrict(mut self, visible: Visible) -> Self {
        self.visible = Some(visible);
        self
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
