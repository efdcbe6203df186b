//! Sets of field paths and their `fieldsV1` notation.

use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// A field or map entry; fields of built-in types are named by their table.
    Field(Cow<'static, str>),
    /// An element of an associative list: its keys as canonical JSON.
    Key(String),
    /// An element of a set, as JSON.
    Value(String),
    /// An element of any other list.
    Index(usize),
}

impl Element {
    fn rank(&self) -> (u8, &str, usize) {
        match self {
            Element::Field(name) => (0, name, 0),
            Element::Key(keys) => (1, keys, 0),
            Element::Value(value) => (2, value, 0),
            Element::Index(index) => (3, "", *index),
        }
    }

    fn notation(&self) -> String {
        match self {
            Element::Field(name) => ["f:", name].concat(),
            Element::Key(keys) => ["k:", keys].concat(),
            Element::Value(value) => ["v:", value].concat(),
            Element::Index(index) => format!("i:{index}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Element::Field(rest.to_owned().into())),
            // Parsed and printed again, so that equal keys are equal texts.
            "k" => Some(Element::Key(
                serde_json::from_str::<Map<String, Value>>(rest)
                    .map(Value::Object)
                    .ok()?
                    .to_string(),
            )),
            "v" => Some(Element::Value(
                serde_json::from_str::<Value>(rest).ok()?.to_string(),
            )),
            "i" => Some(Element::Index(rest.parse().ok()?)),
            _ => None,
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// Upstream's notation in conflicts: `.spec.containers[name="a"].image`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(keys) => {
                let parsed: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let parts: Vec<String> = parsed
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                write!(f, "[{}]", parts.join(","))
            }
            Element::Value(value) => write!(f, "[={value}]"),
            Element::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A set of paths as a tree; `member` tells whether the path to this node itself is in the set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSet {
    pub(super) member: bool,
    pub(super) children: BTreeMap<Element, FieldSet>,
}

/// Deeper notations are refused.
const MAX_DEPTH: usize = 128;

impl FieldSet {
    /// The set of one path: the root.
    pub(super) fn leaf() -> Self {
        Self {
            member: true,
            children: BTreeMap::new(),
        }
    }

    /// True when no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub(super) fn child(&self, element: &Element) -> Option<&FieldSet> {
        self.children.get(element)
    }

    /// Adds a subtree unless it is empty.
    pub(super) fn insert(&mut self, element: Element, set: FieldSet) {
        if set.is_empty() {
            return;
        }
        match self.children.entry(element) {
            Entry::Occupied(known) => known.into_mut().absorb(set),
            Entry::Vacant(free) => drop(free.insert(set)),
        }
    }

    /// Adds every path of `other`.
    pub fn unite(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (element, set) in &other.children {
            self.children.entry(element.clone()).or_default().unite(set);
        }
    }

    /// Takes over every path of `other`.
    pub(super) fn absorb(&mut self, other: FieldSet) {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        for (element, set) in other.children {
            match self.children.entry(element) {
                Entry::Occupied(known) => known.into_mut().absorb(set),
                Entry::Vacant(free) => drop(free.insert(set)),
            }
        }
    }

    /// Removes every path of `other`; a path below a removed one stays.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        if self.children.is_empty() {
            return;
        }
        for (element, set) in &other.children {
            if let Some(own) = self.children.get_mut(element) {
                own.subtract(set);
                if own.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    /// The paths in both sets.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut common = FieldSet {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (element, set) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                common.insert(element.clone(), set.intersection(theirs));
            }
        }
        common
    }

    /// Whether any path of this set is in a written one.
    pub(super) fn meets(&self, written: &Value) -> bool {
        self.children.iter().any(|(element, set)| {
            let there = written.get(element.notation());
            there.is_some_and(|there| set.member && is_member(there) || set.meets(there))
        })
    }

    /// Whether every path of this set is in a written one.
    pub(super) fn is_within(&self, written: &Value) -> bool {
        self.children.iter().all(|(element, set)| {
            let there = written.get(element.notation());
            there.is_some_and(|there| (!set.member || is_member(there)) && set.is_within(there))
        })
    }

    /// Removes the subtree at a path of field names.
    pub(super) fn prune_fields(&mut self, path: &[&'static str]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let element = Element::Field(Cow::Borrowed(*first));
        if rest.is_empty() {
            self.children.remove(&element);
            return;
        }
        if let Some(child) = self.children.get_mut(&element) {
            child.prune_fields(rest);
            if child.is_empty() {
                self.children.remove(&element);
            }
        }
    }

    /// Every path as text, in order.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(String::new(), &mut out);
        out
    }

    fn collect(&self, front: String, out: &mut Vec<String>) {
        for (element, set) in &self.children {
            set.collect(format!("{front}{element}"), out);
        }
        if self.member {
            out.push(front);
        }
    }

    /// The `fieldsV1` form.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        if self.member && !self.children.is_empty() {
            object.insert(".".to_owned(), Value::Object(Map::new()));
        }
        object.extend(
            self.children
                .iter()
                .map(|(element, set)| (element.notation(), set.to_json())),
        );
        Value::Object(object)
    }

    /// Reads the `fieldsV1` form; unknown notations are `None`.
    pub fn from_json(value: &Value) -> Option<Self> {
        let mut root = Self::read(value, 0)?;
        root.member = false;
        Some(root)
    }

    fn read(value: &Value, depth: usize) -> Option<Self> {
        let object = value.as_object().filter(|_| depth < MAX_DEPTH)?;
        let mut set = FieldSet {
            member: object.is_empty(),
            children: BTreeMap::new(),
        };
        for (key, below) in object {
            if key == "." {
                set.member = true;
                continue;
            }
            set.children
                .insert(Element::parse(key)?, Self::read(below, depth + 1)?);
        }
        Some(set)
    }
}

/// Whether the path to a node of a written set is itself in it.
fn is_member(written: &Value) -> bool {
    let node = written.as_object();
    node.is_some_and(|node| node.is_empty() || node.contains_key("."))
}
