//! The JSON paths of printer columns: fields, indexes, wildcards and filters on equality.

use serde_json::Value;

/// A parsed path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Elements whose field (dotted) equals, or with `!=` differs from, a text.
    Where {
        field: Vec<String>,
        equals: bool,
        value: String,
    },
}

impl JsonPath {
    /// Parses a path with or without the surrounding braces.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        if rest.is_empty() {
            return None;
        }
        while let Some(first) = rest.chars().next() {
            let (step, tail) = match first {
                '.' => field(&rest[1..])?,
                '[' => bracket(&rest[1..])?,
                _ => return None,
            };
            steps.extend(step);
            rest = tail;
        }
        Some(Self { steps })
    }

    /// Every value the path leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        self.steps.iter().fold(vec![root], |found, step| {
            found.into_iter().flat_map(|value| step.apply(value)).collect()
        })
    }

    /// The first value.
    pub fn first<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.find(root).into_iter().next()
    }
}

fn field(rest: &str) -> Option<(Option<Step>, &str)> {
    let mut name = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => return Some((named(name), &rest[at..])),
            _ => name.push(c),
        }
    }
    Some((named(name), ""))
}

fn named(name: String) -> Option<Step> {
    match name.as_str() {
        "" => None,
        "*" => Some(Step::All),
        _ => Some(Step::Field(name)),
    }
}

fn bracket(rest: &str) -> Option<(Option<Step>, &str)> {
    if let Some(filter) = rest.strip_prefix("?(") {
        let end = filter.find(")]")?;
        return Some((Some(condition(&filter[..end])?), &filter[end + 2..]));
    }
    for quote in ['\'', '"'] {
        if let Some(quoted) = rest.strip_prefix(quote) {
            let end = quoted.find(quote)?;
            let tail = quoted[end + 1..].strip_prefix(']')?;
            return Some((Some(Step::Field(quoted[..end].to_owned())), tail));
        }
    }
    let end = rest.find(']')?;
    let step = match &rest[..end] {
        "*" => Step::All,
        number => Step::Index(number.parse().ok()?),
    };
    Some((Some(step), &rest[end + 1..]))
}

fn condition(text: &str) -> Option<Step> {
    let (left, equals, right) = match text.split_once("==") {
        Some((left, right)) => (left, true, right),
        None => text.split_once("!=").map(|(left, right)| (left, false, right))?,
    };
    let path = left.trim().strip_prefix("@.")?;
    let value = right.trim();
    let value = value.trim_matches(if value.starts_with('\'') { '\'' } else { '"' });
    Some(Step::Where {
        field: path.split('.').map(str::to_owned).collect(),
        equals,
        value: value.to_owned(),
    })
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let length = i64::try_from(items().len()).unwrap_or(i64::MAX);
                let at = if *index < 0 {
                    length.saturating_add(*index)
                } else {
                    *index
                };
                usize::try_from(at)
                    .ok()
                    .and_then(|at| items().get(at))
                    .into_iter()
                    .collect()
            }
            Step::All => match value {
                Value::Object(entries) => entries.values().collect(),
                _ => items().iter().collect(),
            },
            Step::Where {
                field,
                equals,
                value: wanted,
            } => {
                let holds = |item: &&Value| {
                    let found = field.iter().try_fold(*item, |value, name| value.get(name));
                    found.is_some_and(|found| (shown(found) == *wanted) == *equals)
                };
                items().iter().filter(holds).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn paths_of_printer_columns_resolve() {
        let object =
            json!({"metadata": {"labels": {"a.b/c": "x"}}, "l": [{"t": "A", "s": 1}, {"t": "B", "s": 2}]});
        for (path, expected) in [
            (".l[?(@.t==\"B\")].s", json!([2])),
            ("{.l[?(@.t=='A')].s}", json!([1])),
            (".l[*].t", json!(["A", "B"])),
            (".l[-1].s", json!([2])),
            (".metadata.labels['a.b/c']", json!(["x"])),
            (".metadata.labels.a\\.b/c", json!(["x"])),
            (".none.x", json!([])),
        ] {
            let parsed = JsonPath::parse(path).expect(path);
            assert_eq!(json!(parsed.find(&object)), expected, "{path}");
        }
        assert_eq!(JsonPath::parse("spec"), None);
        assert_eq!(JsonPath::parse(".a[b"), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[.\\[\\]?()@='\"a0*\\\\{}$\\PC-]{0,24}") {
            if let Some(path) = JsonPath::parse(&text) {
                path.find(&json!({"a": [{"a": 0}, 1]}));
            }
        }
    }
}
