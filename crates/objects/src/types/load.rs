//! Reads the generated table of built-in types. The format stands in the table's head.

use super::{Field, List, ListKey, ListKind, Name, Object, Patch, Root, Scalar, Shape, ShapeId, Types};

/// Definitions come first in the arena: definition n has shape id n.
pub(super) fn load(text: &'static str) -> Types {
    let mut types = Types::default();
    let lines: Vec<&'static str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for line in lines.iter().filter_map(|line| line.strip_prefix('@')) {
        declare(&mut types, line);
    }
    types.roots.sort();
    let mut current = 0usize;
    let mut next = 0usize;
    let mut fields: Vec<Field> = Vec::new();
    for line in lines {
        if line.starts_with('@') {
            finish(&mut types, current, &mut fields);
            current = next;
            next += 1;
        } else {
            let field = field(&mut types, line);
            fields.push(field);
        }
    }
    finish(&mut types, current, &mut fields);
    types
}

fn declare(types: &mut Types, line: &'static str) {
    let mut parts = line.split(' ');
    let name = parts.next().unwrap_or_default();
    let (mut atomic, mut kind) = (false, None);
    for mark in parts {
        match mark.strip_prefix("~g=") {
            Some(gvk) => kind = Some(gvk),
            None => atomic |= mark == "~x",
        }
    }
    let shape = types.add(Shape::Object(Object {
        name: Name::Borrowed(name),
        fields: 0..0,
        rest: None,
        atomic,
    }));
    types.definitions.push(shape);
    let mut gvk = kind.into_iter().flat_map(|gvk| gvk.split('/'));
    if let (Some(group), Some(version), Some(kind)) = (gvk.next(), gvk.next(), gvk.next()) {
        let (group, version, kind) = (
            Name::Borrowed(group),
            Name::Borrowed(version),
            Name::Borrowed(kind),
        );
        types.roots.push(Root {
            group,
            version,
            kind,
            shape,
        });
    }
}

fn finish(types: &mut Types, current: usize, fields: &mut Vec<Field>) {
    let start = types.fields.len() as u32;
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    types.fields.append(fields);
    let end = types.fields.len() as u32;
    if let Some(Shape::Object(object)) = types.shapes.get_mut(current) {
        object.fields = start..end;
    }
}

fn field(types: &mut Types, line: &'static str) -> Field {
    let mut parts = line.split(' ');
    let name = Name::Borrowed(parts.next().unwrap_or_default());
    let code = parts.next().unwrap_or_default();
    let (code, required) = match code.strip_suffix('!') {
        Some(code) => (code, true),
        None => (code, false),
    };
    let mut patch = Patch::default();
    let (mut kind, mut atomic) = (ListKind::Atomic, false);
    for mark in parts {
        match mark.split_once('=').unwrap_or((mark, "")) {
            ("~x", _) => atomic = true,
            ("~s", _) => kind = ListKind::Set,
            ("~m", keys) => kind = ListKind::Map(keys.split(',').map(list_key).collect()),
            ("~k", _) => patch.retain_keys = true,
            ("~p", key) => {
                patch.merge = true;
                patch.key = (!key.is_empty()).then_some(Name::Borrowed(key));
            }
            _ => {}
        }
    }
    Field {
        name,
        shape: shape(types, code, kind, atomic),
        required,
        patch,
    }
}

/// The only list key of the built-in API that has a default is a port's protocol.
fn list_key(name: &'static str) -> ListKey {
    ListKey {
        name: Name::Borrowed(name),
        default: (name == "protocol").then(|| "TCP".into()),
    }
}

fn shape(types: &mut Types, code: &'static str, kind: ListKind, atomic: bool) -> ShapeId {
    if let Some(items) = code.strip_prefix('[') {
        let items = shape(types, items, ListKind::Atomic, false);
        return types.add(Shape::List(List { items, kind }));
    }
    if let Some(values) = code.strip_prefix('{') {
        let rest = Some(shape(types, values, ListKind::Atomic, false));
        return types.add_object(Name::Borrowed(""), Vec::new(), rest, atomic);
    }
    if let Ok(number) = code.parse::<u32>() {
        return ShapeId(number);
    }
    let shape = match code {
        "b" => Shape::Scalar(Scalar::Boolean),
        "i" => Shape::Scalar(Scalar::Int32),
        "l" => Shape::Scalar(Scalar::Int64),
        "d" => Shape::Scalar(Scalar::Double),
        "y" => Shape::Scalar(Scalar::Bytes),
        "t" => Shape::Scalar(Scalar::Time),
        "u" => Shape::Scalar(Scalar::MicroTime),
        "q" => Shape::Scalar(Scalar::Quantity),
        "o" => Shape::Scalar(Scalar::IntOrString),
        "a" | "r" => Shape::Any { granular: false },
        _ => Shape::Scalar(Scalar::String),
    };
    scalar(types, shape)
}

/// One arena entry per leaf type.
fn scalar(types: &mut Types, shape: Shape) -> ShapeId {
    let start = types.definitions.len();
    match types.shapes[start..].iter().position(|known| *known == shape) {
        Some(at) => ShapeId((start + at) as u32),
        None => types.add(shape),
    }
}
