//! Tables of quantities, selectors and patches: crates `semantics` and `objects`.

use std::path::Path;

use mainstay_objects::patch::{PatchError, json_patch, merge_patch, strategic_merge_patch};
use mainstay_objects::types::Types;
use mainstay_semantics::quantity::{Format, Quantity};
use mainstay_semantics::selector::{FieldSelector, LabelSelector, Selector, SelectorError};
use serde_json::Value;

use super::FileResult;

/// What a row says when it failed.
type Row = Result<(), String>;

/// A table and how one of its rows is checked; the second argument holds the context table.
const TABLES: &[(&str, &str, fn(&Value, &[Value]) -> Row)] = &[
    ("kubelet/quantity_parse.json", "", quantity_parse),
    ("kubelet/quantity_json.json", "", quantity_json),
    ("kubelet/quantity_arith.json", "", quantity_arith),
    ("kubelet/quantity_format.json", "", quantity_format),
    ("api/quantities.json", "", quantity_canonical),
    (
        "kubelet/label_selector_parse.json",
        "kubelet/label_selector_sets.json",
        label_parse,
    ),
    (
        "kubelet/label_selector_object.json",
        "kubelet/label_selector_sets.json",
        label_object,
    ),
    ("kubelet/field_selector.json", "", field_parse),
    ("api/label-selectors.json", "", label_match),
    ("api/field-selectors.json", "", field_match),
    ("kubelet/patch.json", "kubelet/patch_objects.json", patch),
    ("api/strategic-merge.json", "", strategic),
];

/// Runs every table of this module that lies in the area.
pub(super) fn run(dir: &Path, only: Option<&str>) -> Vec<FileResult> {
    let wanted = |file: &str| only.is_none_or(|area| file.starts_with(&format!("{area}/")));
    let tables = TABLES
        .iter()
        .filter(|(file, _, _)| wanted(file) && dir.join(file).exists());
    tables
        .map(|(file, context, check)| table(dir, file, context, *check))
        .collect()
}

fn table(dir: &Path, file: &str, context: &str, check: fn(&Value, &[Value]) -> Row) -> FileResult {
    let mut result = FileResult {
        file: file.to_owned(),
        passed: 0,
        failed: Vec::new(),
    };
    let context = if context.is_empty() {
        Ok(Vec::new())
    } else {
        rows(dir, context)
    };
    match (rows(dir, file), context) {
        (Ok(rows), Ok(context)) => {
            for row in rows {
                match check(&row, &context) {
                    Ok(()) => result.passed += 1,
                    Err(why) => result.failed.push(format!("{row}: {why}")),
                }
            }
        }
        (Err(why), _) | (_, Err(why)) => result.failed.push(why),
    }
    result
}

fn rows(dir: &Path, file: &str) -> Result<Vec<Value>, String> {
    let text =
        std::fs::read_to_string(dir.join(file)).map_err(|error| format!("cannot read {file}: {error}"))?;
    match serde_json::from_str(&text).map_err(|error| format!("cannot parse {file}: {error}"))? {
        Value::Array(rows) => Ok(rows),
        Value::Object(mut object) => match object.remove("cases") {
            Some(Value::Array(rows)) => Ok(rows),
            _ => Err(format!("{file} has no cases")),
        },
        _ => Err(format!("{file} is no table")),
    }
}

fn same(what: &str, ours: &Value, expected: &Value) -> Row {
    if ours == expected {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected}, got {ours}"))
    }
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// Compares an outcome with the row's error text; `Ok(None)` when both are errors.
fn outcome<T, E: std::fmt::Display>(row: &Value, key: &str, ours: Result<T, E>) -> Result<Option<T>, String> {
    match (ours, row[key].as_str()) {
        (Ok(value), None) => Ok(Some(value)),
        (Err(error), Some(expected)) if error.to_string() == expected => Ok(None),
        (Err(error), Some(expected)) => Err(format!(
            "expected error {expected:?}, got {:?}",
            error.to_string()
        )),
        (Ok(_), Some(expected)) => Err(format!("expected error {expected:?}, got a value")),
        (Err(error), None) => Err(format!("unexpected error {:?}", error.to_string())),
    }
}

fn quantity_parse(row: &Value, _: &[Value]) -> Row {
    let Some(quantity) = outcome(row, "err", Quantity::parse(text(row, "in")))? else {
        return Ok(());
    };
    same("string", &quantity.to_string().into(), &row["string"])?;
    same(
        "format",
        &format!("{:?}", quantity.format()).into(),
        &row["format"],
    )?;
    same("sign", &quantity.sign().into(), &row["sign"])?;
    same(
        "as_int64_ok",
        &quantity.as_i64().is_some().into(),
        &row["as_int64_ok"],
    )?;
    same(
        "as_int64",
        &quantity.as_i64().unwrap_or_default().into(),
        &row["as_int64"],
    )?;
    same("as_dec", &quantity.to_decimal().into(), &row["as_dec"])?;
    if text(row, "approx_float64").parse() != Ok(quantity.as_f64()) {
        return Err(format!("approx_float64: got {}", quantity.as_f64()));
    }
    for (field, scale) in [("value_ceil", 0), ("milli_ceil", -3), ("nano_ceil", -9)] {
        let wraps = ["overflow", "go_quirk"].iter().any(|list| {
            row[*list]
                .as_array()
                .is_some_and(|names| names.iter().any(|name| name == field))
        });
        let expected = row[field]
            .as_str()
            .map_or_else(|| row[field].to_string(), str::to_owned);
        if !wraps && quantity.scaled_value(scale).to_string() != expected {
            return Err(format!("{field}: got {}", quantity.scaled_value(scale)));
        }
    }
    Ok(())
}

fn quantity_json(row: &Value, _: &[Value]) -> Row {
    let input: Value = serde_json::from_str(text(row, "json_in")).map_err(|error| error.to_string())?;
    let Some(quantity) = outcome(row, "err", Quantity::from_json(&input))? else {
        return Ok(());
    };
    same(
        "json_out",
        &serde_json::json!(quantity).to_string().into(),
        &row["json_out"],
    )
}

fn quantity_arith(row: &Value, _: &[Value]) -> Row {
    let parse = |key: &str| Quantity::parse(text(row, key)).map_err(|error| error.to_string());
    let (a, b) = (parse("a")?, parse("b")?);
    let with = |change: &dyn Fn(&mut Quantity)| {
        let mut quantity = a.clone();
        change(&mut quantity);
        Value::from(quantity.to_string())
    };
    same("add", &with(&|q| q.add(&b)), &row["add"])?;
    same("sub", &with(&|q| q.sub(&b)), &row["sub"])?;
    same("neg_a", &with(&|q| q.neg()), &row["neg_a"])?;
    same(
        "a_mul_3",
        &with(&|q| {
            let _fits = q.mul(3);
        }),
        &row["a_mul_3"],
    )?;
    same(
        "a_mul_3_exact_int64",
        &a.clone().mul(3).into(),
        &row["a_mul_3_exact_int64"],
    )?;
    same("cmp", &(a.cmp(&b) as i64).into(), &row["cmp"])?;
    same("equal", &(a == b).into(), &row["equal"])
}

fn quantity_format(row: &Value, _: &[Value]) -> Row {
    let format = match text(row, "format") {
        "BinarySI" => Format::BinarySI,
        "DecimalSI" => Format::DecimalSI,
        _ => Format::DecimalExponent,
    };
    let number: i64 = text(row, "int64")
        .parse()
        .map_err(|_| "int64 is no number".to_owned())?;
    same(
        "new_quantity",
        &Quantity::new(number, format).to_string().into(),
        &row["new_quantity"],
    )?;
    same(
        "new_milli_quantity",
        &Quantity::from_milli(number, format).to_string().into(),
        &row["new_milli_quantity"],
    )
}

fn quantity_canonical(row: &Value, _: &[Value]) -> Row {
    let parsed = Quantity::parse(text(row, "in"));
    same("valid", &parsed.is_ok().into(), &row["valid"])?;
    let Ok(quantity) = parsed else { return Ok(()) };
    same("canonical", &quantity.to_string().into(), &row["canonical"])?;
    // What does not fit into 64 bits saturates here and is 0 upstream: docs/oracle-deviations.md.
    if quantity.as_f64().is_infinite() {
        return same("saturated value", &quantity.value().into(), &i64::MAX.into());
    }
    same("milli", &quantity.milli_value().into(), &row["milli"])?;
    same(
        "value_rounded_up",
        &quantity.value().into(),
        &row["value_rounded_up"],
    )
}

fn selector(row: &Value, parsed: Result<Selector, SelectorError>, sets: &[Value]) -> Row {
    let Some(selector) = outcome(row, "err", parsed)? else {
        return Ok(());
    };
    same("canonical", &selector.to_string().into(), &row["canonical"])?;
    let matches: Vec<bool> = sets.iter().map(|set| selector.matches(set)).collect();
    same("matches", &matches.into(), &row["matches"])
}

fn label_parse(row: &Value, sets: &[Value]) -> Row {
    selector(row, Selector::parse(text(row, "selector")), sets)
}

fn label_object(row: &Value, sets: &[Value]) -> Row {
    let object: Option<LabelSelector> =
        serde_json::from_value(row["label_selector"].clone()).map_err(|error| error.to_string())?;
    same(
        "formatted",
        &LabelSelector::formatted(object.as_ref()).into(),
        &row["formatted"],
    )?;
    selector(row, LabelSelector::optional(object.as_ref()), sets)
}

fn label_match(row: &Value, _: &[Value]) -> Row {
    let parsed = Selector::parse(text(row, "selector"));
    same("valid", &parsed.is_ok().into(), &row["valid"])?;
    let Ok(selector) = parsed else { return Ok(()) };
    same(
        "matches",
        &selector.matches(&row["labels"]).into(),
        &row["matches"],
    )?;
    same(
        "canonical",
        &selector.to_string().into(),
        &text(row, "canonical").into(),
    )
}

fn field_parse(row: &Value, _: &[Value]) -> Row {
    let Some(selector) = outcome(row, "err", FieldSelector::parse(text(row, "field_selector")))? else {
        return Ok(());
    };
    same("canonical", &selector.to_string().into(), &row["canonical"])?;
    let matches = selector.matches(|key| match key {
        "metadata.name" => Some("n1"),
        "status.phase" => Some("Running"),
        _ => None,
    });
    same("matches", &matches.into(), &row["matches"])
}

fn field_match(row: &Value, _: &[Value]) -> Row {
    let parsed = FieldSelector::parse(text(row, "selector"));
    same("valid", &parsed.is_ok().into(), &row["valid"])?;
    let matches = parsed.is_ok_and(|selector| selector.matches(|key| row["fields"][key].as_str()));
    same("matches", &matches.into(), &row["matches"])
}

fn apply(kind: &str, how: &str, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let types = Types::builtin();
    let mut object = object.clone();
    match how {
        "merge" => merge_patch(&mut object, patch),
        "json" => json_patch(&mut object, patch)?,
        _ => {
            let root = ["", "apps", "batch"]
                .iter()
                .find_map(|group| types.root(group, "v1", kind));
            let root = root.ok_or_else(|| PatchError::Malformed(format!("unknown kind {kind}")))?;
            strategic_merge_patch(types, root, &mut object, patch)?;
        }
    }
    Ok(object)
}

fn patch(row: &Value, objects: &[Value]) -> Row {
    let object = objects
        .iter()
        .find(|object| object["name"] == row["object"])
        .ok_or("unknown object")?;
    let object = &object["object"];
    let patch: Value = serde_json::from_str(text(row, "patch")).map_err(|error| error.to_string())?;
    let applied = apply(text(object, "kind"), text(row, "type"), object, &patch);
    match outcome(row, "err", applied)? {
        Some(result) => same("result", &result, &row["result"]),
        None => Ok(()),
    }
}

fn strategic(row: &Value, _: &[Value]) -> Row {
    let applied = apply(text(row, "kind"), "strategic", &row["original"], &row["patch"]);
    match outcome(row, "error", applied)? {
        Some(result) => same("result", &result, &row["result"]),
        None => Ok(()),
    }
}
