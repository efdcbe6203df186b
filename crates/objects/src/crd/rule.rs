//! The CEL rules of a schema, compiled when the schema is read.

use std::sync::{Arc, LazyLock};

use cel::common::ast::{Expr, IdedExpr};
use cel::{Env, Program};
use serde_json::{Map, Value};

use super::library;
use crate::error::FieldError;
use crate::expression;
use crate::path::Path;

/// What rules may call.
pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [
        cel::extensions::strings,
        cel::extensions::lists,
        cel::extensions::math,
    ] {
        // The three extensions declare different names.
        let _added = env.add_extension(extension);
    }
    Arc::new(env)
});

/// One compiled rule of `x-kubernetes-validations`.
#[derive(Debug)]
pub(super) struct CelRule {
    pub text: Box<str>,
    pub program: Program,
    pub message: Box<str>,
    pub message_expression: Option<Program>,
    pub reason: Box<str>,
    pub field_path: Box<str>,
    /// It looks at `oldSelf`: runs on updates only.
    pub transition: bool,
    pub optional_old: bool,
    /// It calls a function of our library.
    pub needs_library: bool,
    pub size: f64,
    pub loops: i32,
}

impl CelRule {
    pub fn read_all(schema: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Vec<Self> {
        let at = path.field("x-kubernetes-validations");
        let rules = schema
            .get("x-kubernetes-validations")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        rules
            .enumerate()
            .filter_map(|(index, rule)| Self::read(rule, &at.index(index), errors))
            .collect()
    }

    fn read(rule: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Option<Self> {
        let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default().trim();
        if text("rule").is_empty() {
            errors.push(FieldError::required(path.field("rule"), "rule is not specified"));
            return None;
        }
        let mut compile = |key: &str| {
            let source = text(key);
            expression::compile(&ENVIRONMENT, source)
                .map_err(|sentence| {
                    errors.push(FieldError::invalid(path.field(key), &source.into(), sentence))
                })
                .ok()
        };
        let program = compile("rule")?;
        let message_expression = if text("messageExpression").is_empty() {
            None
        } else {
            Some(compile("messageExpression")?)
        };
        let cost = Cost::of(program.expression());
        let programs = || {
            [Some(&program), message_expression.as_ref()]
                .into_iter()
                .flatten()
        };
        let needs_library = programs().any(|program| {
            let called = program.references();
            library::NAMES.iter().any(|name| called.has_function(name))
        });
        let optional_old = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
        Some(Self {
            text: text("rule").into(),
            transition: program.references().has_variable("oldSelf"),
            message: text("message").into(),
            message_expression,
            reason: text("reason").into(),
            field_path: text("fieldPath").into(),
            optional_old,
            needs_library,
            size: cost.size,
            loops: cost.loops,
            program,
        })
    }
}

struct Cost {
    size: f64,
    loops: i32,
}

impl Cost {
    fn of(whole: &IdedExpr) -> Self {
        let loops = i32::from(matches!(whole.expr, Expr::Comprehension(_)));
        let parts = expression::parts(whole);
        let costs: Vec<Cost> = parts.into_iter().map(Cost::of).collect();
        Cost {
            size: 1.0 + costs.iter().map(|cost| cost.size).sum::<f64>(),
            loops: loops + costs.iter().map(|cost| cost.loops).max().unwrap_or_default(),
        }
    }
}
