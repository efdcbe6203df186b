//! Functions of Kubernetes' CEL libraries that rules of custom resources use and the crate `cel` lacks: quantities,
//! checks of addresses, regular expressions and lists.

use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, DeclarationError, ExecutionError, Value};
use mainstay_semantics::quantity::Quantity;
use std::cmp::Ordering;
use std::sync::Arc;

type Text = Arc<String>;
type Answer<T> = Result<T, ExecutionError>;

/// Larger patterns are refused when they compile.
const MAX_PATTERN_BYTES: usize = 1 << 16;

/// A quantity inside an expression.
#[derive(Debug, PartialEq, Eq)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

/// Names that this library adds.
pub(super) const NAMES: [&str; 20] = [
    "quantity",
    "isQuantity",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "sign",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "add",
    "sub",
    "isURL",
    "isIP",
    "isCIDR",
    "find",
    "findAll",
    "isSorted",
    "sum",
    "min",
    "max",
];

/// Adds the functions to a context.
pub(super) fn install(context: &mut Context<'_, '_>) -> Result<(), DeclarationError> {
    quantities(context)?;
    texts(context)?;
    context.add_function("isSorted", |This(list): This<Arc<Vec<Value>>>| is_sorted(&list))?;
    context.add_function("sum", |This(list): This<Arc<Vec<Value>>>| sum(&list))?;
    context.add_function("min", |This(list): This<Arc<Vec<Value>>>| {
        extreme(&list, Ordering::Less)
    })?;
    context.add_function("max", |This(list): This<Arc<Vec<Value>>>| {
        extreme(&list, Ordering::Greater)
    })
}

fn quantities(context: &mut Context<'_, '_>) -> Result<(), DeclarationError> {
    context.add_function("isQuantity", |This(text): This<Text>| {
        Quantity::parse(&text).is_ok()
    })?;
    context.add_function("quantity", |This(text): This<Text>| {
        Quantity::parse(&text)
            .map(opaque)
            .map_err(|error| ExecutionError::function_error("quantity", error))
    })?;
    context.add_function("isGreaterThan", |This(a): This<Value>, b: Value| {
        Ok(compare(&a, &b)? == Ordering::Greater)
    })?;
    context.add_function("isLessThan", |This(a): This<Value>, b: Value| {
        Ok(compare(&a, &b)? == Ordering::Less)
    })?;
    context.add_function("compareTo", |This(a): This<Value>, b: Value| {
        Ok(compare(&a, &b)? as i64)
    })?;
    context.add_function("sign", |This(a): This<Value>| Ok(i64::from(amount(&a)?.sign())))?;
    context.add_function("isInteger", |This(a): This<Value>| {
        Ok(amount(&a)?.as_i64().is_some())
    })?;
    context.add_function("asInteger", |This(a): This<Value>| {
        amount(&a)?
            .as_i64()
            .ok_or_else(|| ExecutionError::function_error("asInteger", "not an integer"))
    })?;
    context.add_function("asApproximateFloat", |This(a): This<Value>| {
        Ok(amount(&a)?.as_f64())
    })?;
    context.add_function("add", |This(a): This<Value>, b: Value| {
        combine(&a, &b, Quantity::add)
    })?;
    context.add_function("sub", |This(a): This<Value>, b: Value| {
        combine(&a, &b, Quantity::sub)
    })
}

fn texts(context: &mut Context<'_, '_>) -> Result<(), DeclarationError> {
    context.add_function("isURL", |This(text): This<Text>| is_url(&text))?;
    context.add_function("isIP", |This(text): This<Text>| {
        crate::names::ip(&text).is_empty()
    })?;
    context.add_function("isCIDR", |This(text): This<Text>| {
        crate::names::cidr(&text).is_empty()
    })?;
    context.add_function("find", |This(text): This<Text>, pattern: Text| {
        let pattern = regex("find", &pattern)?;
        let found = pattern
            .find(&text)
            .map(|found| found.as_str().to_owned())
            .unwrap_or_default();
        Ok(Value::String(Arc::new(found)))
    })?;
    context.add_function("findAll", |This(text): This<Text>, pattern: Text| {
        let pattern = regex("findAll", &pattern)?;
        let found = pattern
            .find_iter(&text)
            .map(|found| Value::String(Arc::new(found.as_str().to_owned())));
        Ok(Value::List(Arc::new(found.collect())))
    })
}

fn opaque(quantity: Quantity) -> Value {
    Value::Opaque(Arc::new(Amount(quantity)))
}

fn amount(value: &Value) -> Answer<&Quantity> {
    let found = match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<Amount>(),
        _ => None,
    };
    found
        .map(|amount| &amount.0)
        .ok_or_else(|| ExecutionError::function_error("quantity", "not a quantity"))
}

fn compare(a: &Value, b: &Value) -> Answer<Ordering> {
    Ok(amount(a)?.cmp(amount(b)?))
}

fn combine(a: &Value, b: &Value, with: fn(&mut Quantity, &Quantity)) -> Answer<Value> {
    let mut result = amount(a)?.clone();
    match b {
        Value::Int(number) => with(&mut result, &Quantity::new(*number, amount(a)?.format())),
        other => with(&mut result, amount(other)?),
    }
    Ok(opaque(result))
}

fn regex(function: &str, pattern: &str) -> Answer<regex::Regex> {
    let built = regex::RegexBuilder::new(pattern)
        .size_limit(MAX_PATTERN_BYTES)
        .build();
    built.map_err(|error| ExecutionError::function_error(function, error))
}

/// An absolute URL or an absolute path.
fn is_url(text: &str) -> bool {
    let scheme = text
        .split_once("://")
        .map(|(scheme, rest)| (scheme, !rest.is_empty()));
    match scheme {
        Some((scheme, rest)) => {
            rest && !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        }
        None => text.starts_with('/'),
    }
}

fn order(function: &str, a: &Value, b: &Value) -> Answer<Ordering> {
    a.partial_cmp(b)
        .ok_or_else(|| ExecutionError::function_error(function, "the elements cannot be compared"))
}

fn is_sorted(list: &[Value]) -> Answer<bool> {
    for pair in list.windows(2) {
        if order("isSorted", &pair[0], &pair[1])? == Ordering::Greater {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sum(list: &[Value]) -> Answer<Value> {
    let refuse = |why: &str| ExecutionError::function_error("sum", why);
    let mut total = Value::Int(0);
    for (index, item) in list.iter().enumerate() {
        total = match (total, item) {
            (Value::Int(total), Value::Int(item)) => total
                .checked_add(*item)
                .map(Value::Int)
                .ok_or_else(|| refuse("overflow"))?,
            (Value::Float(total), Value::Float(item)) => Value::Float(total + item),
            (_, Value::Float(item)) if index == 0 => Value::Float(*item),
            _ => return Err(refuse("the elements are no numbers of one type")),
        };
    }
    Ok(total)
}

fn extreme(list: &[Value], wanted: Ordering) -> Answer<Value> {
    let mut items = list.iter();
    let mut best = items
        .next()
        .ok_or_else(|| ExecutionError::function_error("min/max", "the list is empty"))?;
    for item in items {
        if order("min/max", item, best)? == wanted {
            best = item;
        }
    }
    Ok(best.clone())
}
