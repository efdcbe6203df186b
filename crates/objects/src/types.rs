//! Structure of types: fields, list types, merge keys. One arena form serves the built-in kinds (generated table) and
//! custom resources (lowered from their schemas), so that checking, merging and server-side apply exist once.

mod load;

use serde_json::Value;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

/// A name that is static for built-in types and owned for custom ones.
pub type Name = Cow<'static, str>;

/// Index of a shape in its arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShapeId(u32);

impl ShapeId {
    /// The place in the arena; a definition's number for definitions of the built-in table.
    pub fn number(self) -> usize {
        self.0 as usize
    }
}

/// What a value may look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Scalar(Scalar),
    /// Anything goes. `granular`: server-side apply owns its parts; otherwise the whole value has one owner.
    Any {
        granular: bool,
    },
    /// A structure, a map (`rest` without fields), or both (unknown fields preserved).
    Object(Object),
    List(List),
}

/// Leaf types, as far as decoding tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    String,
    Boolean,
    Int32,
    Int64,
    Double,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
}

/// A structure or map.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The definition's name, empty for anonymous shapes.
    pub name: Name,
    fields: Range<u32>,
    /// The type of entries that are no named fields.
    pub rest: Option<ShapeId>,
    /// Server-side apply treats it as one value.
    pub atomic: bool,
}

/// A list.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    pub items: ShapeId,
    pub kind: ListKind,
}

/// How server-side apply merges a list.
#[derive(Debug, Clone, PartialEq)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Box<[ListKey]>),
}

/// One key of an associative list, with the value an absent key stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct ListKey {
    pub name: Name,
    pub default: Option<Value>,
}

/// A named field.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: Name,
    pub shape: ShapeId,
    pub required: bool,
    pub patch: Patch,
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Patch {
    pub merge: bool,
    pub key: Option<Name>,
    pub retain_keys: bool,
}

/// An arena of shapes.
#[derive(Debug, Default)]
pub struct Types {
    shapes: Vec<Shape>,
    fields: Vec<Field>,
    roots: Vec<Root>,
    definitions: Vec<ShapeId>,
}

/// A kind and its shape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub shape: ShapeId,
}

static BUILTIN: LazyLock<Types> = LazyLock::new(|| load::load(include_str!("types/builtin.txt")));

impl Types {
    /// The built-in API's types; parsed at first use.
    pub fn builtin() -> &'static Types {
        &BUILTIN
    }

    /// The shape behind an id of this arena.
    pub fn shape(&self, id: ShapeId) -> &Shape {
        &self.shapes[id.0 as usize]
    }

    /// The named fields of a structure, sorted by name.
    pub fn fields(&self, object: &Object) -> &[Field] {
        &self.fields[object.fields.start as usize..object.fields.end as usize]
    }

    /// One named field.
    pub fn field(&self, object: &Object, name: &str) -> Option<&Field> {
        let fields = self.fields(object);
        let at = fields
            .binary_search_by(|field| field.name.as_ref().cmp(name))
            .ok()?;
        Some(&fields[at])
    }

    /// The type of an object's entry, named or not.
    pub fn entry(&self, object: &Object, name: &str) -> Option<ShapeId> {
        self.field(object, name).map(|field| field.shape).or(object.rest)
    }

    /// The shape of a kind.
    pub fn root(&self, group: &str, version: &str, kind: &str) -> Option<ShapeId> {
        self.find(group, version, kind).map(|root| root.shape)
    }

    /// A kind.
    pub fn find(&self, group: &str, version: &str, kind: &str) -> Option<&Root> {
        let wanted = (group, version, kind);
        let name =
            |root: &Root| (root.group.as_ref(), root.version.as_ref(), root.kind.as_ref()).cmp(&wanted);
        let at = self.roots.binary_search_by(name).ok()?;
        Some(&self.roots[at])
    }

    /// All kinds, sorted.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// All named definitions, in the order of the table.
    pub fn definitions(&self) -> impl Iterator<Item = (ShapeId, &Object)> {
        self.definitions.iter().filter_map(|id| match self.shape(*id) {
            Shape::Object(object) => Some((*id, object)),
            _ => None,
        })
    }

    /// A definition by its full name.
    pub fn definition(&self, name: &str) -> Option<ShapeId> {
        self.definitions()
            .find(|(_, object)| object.name == name)
            .map(|(id, _)| id)
    }

    /// Follows dotted field names from a shape; `[]` steps into list items.
    pub fn descend(&self, from: ShapeId, path: &str) -> Option<ShapeId> {
        path.split('.')
            .filter(|part| !part.is_empty())
            .try_fold(from, |at, part| match self.shape(at) {
                Shape::Object(object) => self.entry(object, part),
                Shape::List(list) if part == "[]" => Some(list.items),
                _ => None,
            })
    }

    /// Copies a shape of another arena with everything below it.
    pub fn import(&mut self, from: &Types, id: ShapeId) -> ShapeId {
        match from.shape(id) {
            Shape::Scalar(_) | Shape::Any { .. } => self.add(from.shape(id).clone()),
            Shape::List(list) => {
                let items = self.import(from, list.items);
                self.add(Shape::List(List {
                    items,
                    kind: list.kind.clone(),
                }))
            }
            Shape::Object(object) => {
                let fields = from.fields(object).iter().map(|field| {
                    let shape = self.import(from, field.shape);
                    Field {
                        shape,
                        ..field.clone()
                    }
                });
                let fields: Vec<Field> = fields.collect();
                let rest = object.rest.map(|rest| self.import(from, rest));
                self.add_object(object.name.clone(), fields, rest, object.atomic)
            }
        }
    }

    /// Adds a shape; for building arenas from schemas.
    pub fn add(&mut self, shape: Shape) -> ShapeId {
        let id = ShapeId(u32::try_from(self.shapes.len()).expect("an arena has fewer than 2^32 shapes"));
        self.shapes.push(shape);
        id
    }

    /// Adds a structure; sorts its fields.
    pub fn add_object(
        &mut self,
        name: Name,
        mut fields: Vec<Field>,
        rest: Option<ShapeId>,
        atomic: bool,
    ) -> ShapeId {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let at =
            |fields: &Vec<Field>| u32::try_from(fields.len()).expect("an arena has fewer than 2^32 fields");
        let start = at(&self.fields);
        self.fields.extend(fields);
        let fields = start..at(&self.fields);
        self.add(Shape::Object(Object {
            name,
            fields,
            rest,
            atomic,
        }))
    }
}

/// `group` and `version` of an `apiVersion` value.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}
