//! Finds objects by label, and pods by their node, without looking at all: for each key that lists select by, the objects by
//! their value of it. A key's index is made when a list first needs it and follows every change; of too many keys the one
//! that was not asked for the longest is forgotten. An index finds every object that a selector can match, and selectors
//! have the last word.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_access::object::Object;

use super::resource::PageRequest;

/// Keys of one resource that are indexed at once: components select by few, and each costs memory for every object.
const KEYS: usize = 8;
/// Fewer objects are looked through faster than found.
pub(super) const WORTHWHILE: usize = 128;

/// Stands for the first selectable field among the keys; no label's key is empty.
pub(super) const FIRST_FIELD: &str = "";

/// A key and the values of it that a selector allows; unset fields are not found.
#[derive(Debug, Clone)]
pub(super) struct Term<'a> {
    pub key: &'a str,
    pub values: Vec<&'a str>,
}

fn value_of<'o>(object: &'o Object, key: &str) -> Option<Cow<'o, str>> {
    match key {
        FIRST_FIELD => Some(object.field(0)).filter(|value| !value.is_empty()),
        label => object.label(label),
    }
}

type Place = (Arc<str>, Arc<str>);
type Objects = BTreeMap<Place, Arc<Object>>;

#[derive(Default)]
struct Key {
    values: HashMap<Box<str>, Objects>,
    /// When it was asked for last, counted in questions.
    asked: AtomicU64,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct LabelIndex {
    keys: HashMap<Box<str>, Key>,
    questions: AtomicU64,
}

impl LabelIndex {
    /// Whether objects can be found by this key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Begins to index a key, given all objects with their (namespace, name).
    pub fn add<'a>(&mut self, key: &str, objects: impl Iterator<Item = (Place, &'a Arc<Object>)>) {
        if self.keys.len() >= KEYS {
            let asked = |key: &Key| key.asked.load(Ordering::Relaxed);
            let oldest = self.keys.iter().min_by_key(|(_, key)| asked(key));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.keys.remove(&oldest);
            }
        }
        let mut made = Key::default();
        for (place, object) in objects {
            if let Some(value) = value_of(object, key) {
                made.insert(&value, place, object);
            }
        }
        self.keys.insert(key.into(), made);
    }

    /// Takes over a change of one object.
    pub fn change(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        old: Option<&Object>,
        new: Option<&Arc<Object>>,
    ) {
        for (key, index) in &mut self.keys {
            let place = (namespace.clone(), name.clone());
            let before = old.and_then(|old| value_of(old, key));
            let after = new.and_then(|new| value_of(new, key));
            if let Some(value) = before.filter(|before| after.as_ref() != Some(before)) {
                index.remove(&value, &place);
            }
            if let (Some(value), Some(object)) = (after, new) {
                index.insert(&value, place, object);
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.keys.clear();
    }

    /// The objects of a request's namespaces behind its starting point that have one of the term's values, in key
    /// order; `None` when the key is not indexed.
    pub fn find<'s>(&'s self, term: &Term<'_>, request: &PageRequest<'_>) -> Option<Vec<&'s Arc<Object>>> {
        let key = self.keys.get(term.key)?;
        let now = self.questions.fetch_add(1, Ordering::Relaxed) + 1;
        key.asked.store(now, Ordering::Relaxed);
        let mut found: Vec<(&Place, &Arc<Object>)> = term
            .values
            .iter()
            .filter_map(|value| key.values.get(*value))
            .flat_map(|objects| behind(objects, request))
            .collect();
        if term.values.len() > 1 {
            found.sort_by(|one, other| one.0.cmp(other.0));
        }
        Some(found.into_iter().map(|(_, object)| object).collect())
    }
}

impl Key {
    fn insert(&mut self, value: &str, place: Place, object: &Arc<Object>) {
        match self.values.get_mut(value) {
            Some(objects) => drop(objects.insert(place, object.clone())),
            None => {
                let first = Objects::from([(place, object.clone())]);
                self.values.insert(value.into(), first);
            }
        }
    }

    fn remove(&mut self, value: &str, place: &Place) {
        let Some(objects) = self.values.get_mut(value) else {
            return;
        };
        objects.remove(place);
        if objects.is_empty() {
            self.values.remove(value);
        }
    }
}

fn behind<'a>(
    objects: &'a Objects,
    request: &PageRequest<'_>,
) -> impl Iterator<Item = (&'a Place, &'a Arc<Object>)> {
    let first = match (request.namespace, request.after) {
        (_, Some((namespace, name))) => Bound::Excluded((namespace.into(), name.into())),
        (Some(namespace), None) => Bound::Included((namespace.into(), "".into())),
        (None, None) => Bound::Unbounded,
    };
    objects
        .range((first, Bound::Unbounded))
        .skip_while(|((namespace, _), _)| request.namespace.is_some_and(|one| &**namespace < one))
        .take_while(|((namespace, _), _)| request.namespace.is_none_or(|one| one == &**namespace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn object(namespace: &str, name: &str, label: &str) -> (Place, Arc<Object>) {
        let json = format!(
            r#"{{"metadata":{{"labels":{{"app":"{label}"}},"name":"{name}","namespace":"{namespace}","uid":"u"}}}}"#
        );
        let object = Arc::new(Object::new::<&str>(Bytes::from(json), 1, &[]));
        ((namespace.into(), name.into()), object)
    }

    fn found(
        index: &LabelIndex,
        values: &[&str],
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
    ) -> String {
        let request = PageRequest {
            namespace,
            after,
            ..PageRequest::default()
        };
        let term = Term {
            key: "app",
            values: values.to_vec(),
        };
        let Some(found) = index.find(&term, &request) else {
            return "not indexed".into();
        };
        let names: Vec<String> = found
            .iter()
            .map(|object| format!("{}/{}", object.namespace(), object.name()))
            .collect();
        names.join(" ")
    }

    #[test]
    fn objects_are_found_by_value_in_key_order_from_any_place() {
        let objects = [
            object("a", "1", "x"),
            object("a", "2", "y"),
            object("b", "1", "x"),
            object("b", "2", "x"),
            object("c", "1", "x"),
        ];
        let mut index = LabelIndex::default();
        assert_eq!(found(&index, &["x"], None, None), "not indexed");
        index.add(
            "app",
            objects.iter().map(|(place, object)| (place.clone(), object)),
        );
        assert_eq!(found(&index, &["x"], None, None), "a/1 b/1 b/2 c/1");
        assert_eq!(found(&index, &["y", "x"], None, None), "a/1 a/2 b/1 b/2 c/1");
        assert_eq!(found(&index, &["x"], Some("b"), None), "b/1 b/2");
        assert_eq!(found(&index, &["x"], Some("b"), Some(("b", "1"))), "b/2");
        assert_eq!(found(&index, &["x"], None, Some(("b", "1"))), "b/2 c/1");
        assert_eq!(found(&index, &["z"], None, None), "");
    }

    #[test]
    fn pods_are_found_by_their_node() {
        let pod = |node: &str| {
            let json =
                format!(r#"{{"metadata":{{"name":"1","namespace":"a","uid":"u"}},"spec":{{{node}}}}}"#);
            Arc::new(Object::new(Bytes::from(json), 1, &["spec.nodeName"]))
        };
        let place: Place = ("a".into(), "1".into());
        let (free, bound) = (pod(""), pod(r#""nodeName":"n""#));
        let mut index = LabelIndex::default();
        index.add(FIRST_FIELD, std::iter::once((place.clone(), &free)));
        let found = |index: &LabelIndex| {
            let term = Term {
                key: FIRST_FIELD,
                values: vec!["n"],
            };
            let found = index.find(&term, &PageRequest::default());
            found.expect("it is indexed").len()
        };
        assert_eq!(found(&index), 0);
        index.change(&place.0, &place.1, Some(&free), Some(&bound));
        assert_eq!(found(&index), 1);
        index.change(&place.0, &place.1, Some(&bound), None);
        assert_eq!(found(&index), 0);
    }

    #[test]
    fn changes_are_followed() {
        let (place, one) = object("a", "1", "x");
        let (_, two) = object("a", "1", "y");
        let mut index = LabelIndex::default();
        index.add("app", std::iter::empty());
        index.change(&place.0, &place.1, None, Some(&one));
        assert_eq!(found(&index, &["x"], None, None), "a/1");
        index.change(&place.0, &place.1, Some(&one), Some(&two));
        assert_eq!(found(&index, &["x"], None, None), "");
        assert_eq!(found(&index, &["y"], None, None), "a/1");
        index.change(&place.0, &place.1, Some(&two), None);
        assert_eq!(found(&index, &["y"], None, None), "");
    }

    #[test]
    fn the_key_that_was_not_asked_for_the_longest_is_forgotten() {
        let mut index = LabelIndex::default();
        index.add("app", std::iter::empty());
        for number in 0..KEYS {
            found(&index, &["x"], None, None);
            index.add(&format!("key-{number}"), std::iter::empty());
        }
        assert!(index.has("app"));
        assert_eq!(index.keys.len(), KEYS);
    }
}
