//! Where in an object something is: a chain on the stack, turned into text only when an error needs it.

use std::fmt;

/// A field path in upstream's notation: `spec.containers[0].image`, `data[a/b]`.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// The path of a structure's field.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// The path of a list's element.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    /// The path of a map's entry.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    /// The field names only, joined by dots, as Go's decoder names fields.
    pub fn dotted_fields(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Index(parent, _) | Path::Key(parent, _) => parent.dotted_fields(),
            Path::Field(parent, name) => match parent.dotted_fields() {
                front if front.is_empty() => (*name).to_owned(),
                front => format!("{front}.{name}"),
            },
        }
    }

    fn is_root(&self) -> bool {
        matches!(self, Path::Root)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(parent, name) if parent.is_root() => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}
