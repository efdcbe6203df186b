//! The generated table of field numbers, joined with the type table. Its format stands in the table's head.

use std::sync::{LazyLock, OnceLock};

use mainstay_objects::types::{Object, Shape, ShapeId, Types};

/// What stands in a field that has no structure of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Nothing unusual.
    None,
    /// A message with a JSON text in its first field.
    Json,
    /// A schema, or a list of schemas.
    SchemaOrList,
    /// A flag, or a schema.
    SchemaOrFlag,
    /// A schema, or a list of texts.
    SchemaOrTexts,
}

/// One field of a definition.
#[derive(Debug)]
pub struct Entry {
    /// Its name in JSON.
    pub name: &'static str,
    /// The numbers that lead to it: more than one where JSON has the fields of a message inline.
    pub path: Box<[u32]>,
    /// Whether JSON leaves its zero value out.
    pub omit_zero: bool,
    /// How to read what the type table calls "anything".
    pub special: Special,
    /// Its type.
    pub shape: ShapeId,
}

struct Line {
    text: &'static str,
    entries: OnceLock<Box<[Entry]>>,
}

/// Parsed line by line as kinds are used: few are.
static LINES: LazyLock<Vec<Line>> = LazyLock::new(|| {
    let lines = include_str!("numbers.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|text| Line {
            text,
            entries: OnceLock::new(),
        })
        .collect()
});

/// The fields of a definition of the built-in type table; fields that JSON has inline from one message are neighbours.
pub fn entries(definition: ShapeId) -> &'static [Entry] {
    let Some(line) = LINES.get(definition.number()) else {
        return &[];
    };
    line.entries
        .get_or_init(|| match Types::builtin().shape(definition) {
            Shape::Object(object) => parse(line.text, object),
            _ => Box::new([]),
        })
}

fn parse(line: &'static str, object: &Object) -> Box<[Entry]> {
    let fields = line.split(' ').skip(1);
    fields.filter_map(|text| entry(text, object)).collect()
}

fn entry(text: &'static str, object: &Object) -> Option<Entry> {
    let (name, rest) = text.split_once('=')?;
    let (rest, special) = rest.split_once(':').unwrap_or((rest, ""));
    let special = match special {
        "J" => Special::Json,
        "A" => Special::SchemaOrList,
        "B" => Special::SchemaOrFlag,
        "S" => Special::SchemaOrTexts,
        _ => Special::None,
    };
    let numbers = rest.strip_suffix('?').unwrap_or(rest);
    Some(Entry {
        name,
        path: numbers
            .split('/')
            .filter_map(|number| number.parse().ok())
            .collect(),
        omit_zero: rest.ends_with('?'),
        special,
        shape: Types::builtin().field(object, name)?.shape,
    })
}

/// The definition of a kind: a root of the type table, or one of the kinds that every group has.
pub fn definition(api_version: &str, kind: &str) -> Option<ShapeId> {
    let types = Types::builtin();
    let (group, version) = mainstay_objects::types::split_api_version(api_version);
    types.root(group, version, kind).or_else(|| match kind {
        "DeleteOptions" | "Status" => meta(kind),
        _ => None,
    })
}

fn meta(kind: &str) -> Option<ShapeId> {
    Types::builtin().definition(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
}

/// The definition of a schema inside a custom resource definition.
pub fn schema() -> Option<ShapeId> {
    const NAME: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    Types::builtin().definition(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upstream's alpha types that are other names of types elsewhere, and a type that is never sent as protobuf.
    const WITHOUT: &[&str] = &[
        "admissionregistration.v1alpha1.MatchCondition",
        "admissionregistration.v1alpha1.NamedRuleWithOperations",
        "admissionregistration.v1beta1.NamedRuleWithOperations",
        "version.Info",
    ];

    #[test]
    fn every_field_of_every_definition_has_a_number() {
        for (id, object) in Types::builtin().definitions() {
            if WITHOUT.iter().any(|name| object.name.ends_with(name)) {
                continue;
            }
            let own = entries(id);
            for field in Types::builtin().fields(object) {
                let numbered = own.iter().any(|entry| entry.name == field.name);
                let of_type = matches!(field.name.as_ref(), "apiVersion" | "kind");
                assert!(numbered || of_type, "{} {}", object.name, field.name);
            }
            let last = object.name.rsplit('.').next();
            assert_eq!(
                LINES[id.number()].text.split([' ', '.']).next_back().is_some(),
                last.is_some()
            );
            assert!(own.is_empty() || LINES[id.number()].text.split(' ').next() == last);
        }
    }
}
