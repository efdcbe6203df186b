//! Evaluates the CEL rules of schemas. The crate `cel` has no cost estimate, so ours stands here: the work of a rule is
//! bounded by the size of its expression times the number of nodes of the value to the power of its nested loops.

use super::library;
use super::rule::{CelRule, ENVIRONMENT};
use super::schema::{Schema, Type};
use crate::error::FieldError;
use crate::expression;
use crate::path::Path;
use cel::objects::{Key, Map as CelMap};
use cel::{Context, Value as Cel};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// A rule is refused when its bound exceeds this many steps, well below a second of work.
const MAX_STEPS: f64 = 10_000_000.0;

impl CelRule {
    /// Evaluates against a value and, on updates, the value before.
    pub fn check(
        &self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &Path<'_>,
        errors: &mut Vec<FieldError>,
    ) {
        if self.transition && old.is_none() && !self.optional_old {
            return;
        }
        let shown: Value = match value {
            Value::Object(_) => "object".into(),
            Value::Array(_) => "array".into(),
            other => other.clone(),
        };
        let nodes = count(value) + old.map(count).unwrap_or_default();
        if self.size * nodes.powi(self.loops) > MAX_STEPS {
            let sentence = "validation rule may cost too much for a value of this size and was not evaluated";
            errors.push(FieldError::forbidden(path, sentence));
            return;
        }
        let evaluated = expression::run(&self.program, || {
            self.evaluate(schema, (value, old), &shown, path)
        });
        match evaluated {
            Ok(error) => errors.extend(error),
            Err(why) => errors.push(FieldError::invalid(path, &shown, why)),
        }
    }

    fn evaluate(
        &self,
        schema: &Schema,
        (value, old): (&Value, Option<&Value>),
        shown: &Value,
        path: &Path<'_>,
    ) -> Option<FieldError> {
        let context = self.context(schema, value, old);
        match self.program.execute(&context) {
            Ok(Cel::Bool(true)) => None,
            Ok(Cel::Bool(false)) => Some(self.failure(&context, shown, path)),
            Ok(other) => {
                let sentence = format!("rule {:?} gave {other:?} instead of a bool", self.text);
                Some(FieldError::invalid(path, shown, sentence))
            }
            Err(error) => {
                let sentence = format!("rule {:?} cannot be evaluated: {error}", self.text);
                Some(FieldError::invalid(path, shown, sentence))
            }
        }
    }

    fn context(&self, schema: &Schema, value: &Value, old: Option<&Value>) -> Context<'static, 'static> {
        let mut context = Context::with_env(ENVIRONMENT.clone());
        if self.needs_library {
            // Fails only when the crate learns one of the names itself; then its own function serves.
            let _installed = library::install(&mut context);
        }
        context.add_variable_from_value("self", to_cel(schema, value));
        if self.transition {
            let before = old.map(|old| to_cel(schema, old));
            let before = if self.optional_old {
                let optional =
                    before.map_or_else(cel::objects::OptionalValue::none, cel::objects::OptionalValue::of);
                Cel::Opaque(Arc::new(optional))
            } else {
                before.unwrap_or(Cel::Null)
            };
            context.add_variable_from_value("oldSelf", before);
        }
        context
    }

    fn failure(&self, context: &Context<'_, '_>, shown: &Value, path: &Path<'_>) -> FieldError {
        let computed = self.message_expression.as_ref().and_then(|program| {
            match expression::run(program, || program.execute(context)).ok()? {
                Ok(Cel::String(text)) if !text.trim().is_empty() => Some(text.to_string()),
                _ => None,
            }
        });
        let message = match computed {
            Some(text) => text,
            None if self.message.is_empty() => format!("failed rule: {}", self.text),
            None => self.message.to_string(),
        };
        let field = match (path, self.field_path.as_ref()) {
            (Path::Root, below) => below.trim_start_matches('.').to_owned(),
            (path, below) => format!("{path}{below}"),
        };
        match self.reason.as_ref() {
            "FieldValueRequired" => FieldError::required(field, &message),
            "FieldValueForbidden" => FieldError::forbidden(field, message),
            "FieldValueDuplicate" => FieldError::duplicate(field, shown),
            _ => FieldError::invalid(field, shown, message),
        }
    }
}

/// The number of values inside a value.
fn count(value: &Value) -> f64 {
    match value {
        Value::Array(items) => 1.0 + items.iter().map(count).sum::<f64>(),
        Value::Object(entries) => 1.0 + entries.values().map(count).sum::<f64>(),
        Value::String(text) => 1.0 + text.len() as f64 / 256.0,
        _ => 1.0,
    }
}

/// A value as rules see it: numbers and times by the schema's type, property names escaped.
fn to_cel(schema: &Schema, value: &Value) -> Cel {
    match (schema.kind, value) {
        (Type::Number, Value::Number(number)) => Cel::Float(number.as_f64().unwrap_or_default()),
        (Type::String, Value::String(text)) => string(schema, text),
        (_, Value::Array(items)) => {
            let item = |value| {
                schema
                    .items
                    .as_deref()
                    .map_or_else(|| untyped(value), |items| to_cel(items, value))
            };
            Cel::List(Arc::new(items.iter().map(item).collect()))
        }
        (_, Value::Object(entries)) => {
            let entry = |(key, value): (&String, &Value)| {
                let below = schema.property(key);
                let named = schema.properties.contains_key(key.as_str());
                let name = if named { escape(key) } else { key.clone() };
                let value = below.map_or_else(|| untyped(value), |below| to_cel(below, value));
                (Key::String(Arc::new(name)), value)
            };
            Cel::Map(CelMap {
                map: Arc::new(entries.iter().map(entry).collect::<HashMap<_, _>>()),
            })
        }
        _ => untyped(value),
    }
}

fn string(schema: &Schema, text: &str) -> Cel {
    let format = schema.checks.as_ref().and_then(|checks| checks.format.as_deref());
    // Functions of the language parse these; what does not parse is refused by the format check.
    let function = match format {
        Some("date-time") => "timestamp(text)",
        Some("duration") => "duration(text)",
        _ => return Cel::String(Arc::new(text.to_owned())),
    };
    let mut context = Context::with_env(ENVIRONMENT.clone());
    context.add_variable_from_value("text", text.to_owned());
    let parsed = ENVIRONMENT
        .compile(function)
        .ok()
        .and_then(|program| program.execute(&context).ok());
    parsed.unwrap_or_else(|| Cel::String(Arc::new(text.to_owned())))
}

fn untyped(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cel::Int(number),
            None => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(untyped).collect())),
        Value::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| (Key::String(Arc::new(key.clone())), untyped(value)));
            Cel::Map(CelMap {
                map: Arc::new(entries.collect::<HashMap<_, _>>()),
            })
        }
    }
}

/// Words that no CEL identifier may be.
const RESERVED: [&str; 22] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "__",
];

/// Upstream's escaping of property names.
fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
