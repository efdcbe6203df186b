//! What a label key and a label value may look like, in upstream's words.

use super::{Operator, Requirement, SelectorError};

const NAME_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const VALUE_PATTERN: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const SUBDOMAIN_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const MAX_NAME: usize = 63;
const MAX_PREFIX: usize = 253;

/// Everything wrong with a label key (also annotation keys, finalizer names, resource names).
pub fn label_key_problems(key: &str) -> Vec<String> {
    let mut parts = key.splitn(3, '/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let mut problems = Vec::new();
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            problems.extend(prefix_problems(first));
            name
        }
        (Some(_), Some(_)) => {
            return vec![format!("a valid label key {}", key_form(true))];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_NAME {
        problems.push(format!("name part must be no more than {MAX_NAME} bytes"));
    }
    if !is_name(name) {
        problems.push(format!("name part {}", key_form(false)));
    }
    problems
}

fn key_form(with_prefix: bool) -> String {
    let tail = if with_prefix {
        " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
    } else {
        ""
    };
    format!(
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
         character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
         '{NAME_PATTERN}'){tail}"
    )
}

fn prefix_problems(prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some("prefix part must be non-empty".to_owned());
    }
    if prefix.len() > MAX_PREFIX {
        return Some(format!("prefix part must be no more than {MAX_PREFIX} bytes"));
    }
    (!is_subdomain(prefix)).then(|| {
        format!(
            "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
             '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
             validation is '{SUBDOMAIN_PATTERN}')"
        )
    })
}

/// Everything wrong with a label value.
pub fn label_value_problems(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > MAX_NAME {
        problems.push(format!("must be no more than {MAX_NAME} bytes"));
    }
    if !value.is_empty() && !is_name(value) {
        problems.push(format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
             for validation is '{VALUE_PATTERN}')"
        ));
    }
    problems
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| {
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain)
            && bytes.iter().all(|b| plain(b) || *b == b'-')
    })
}

pub(super) fn check_key(key: &str, path: &str) -> Result<(), SelectorError> {
    match label_key_problems(key) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(SelectorError::new(format!(
            "{path}: Invalid value: {key:?}: {}",
            problems.join("; ")
        ))),
    }
}

/// Upstream's checks of a whole requirement.
pub(super) fn check(requirement: &Requirement) -> Result<(), SelectorError> {
    let mut problems = Vec::new();
    if let Err(error) = check_key(&requirement.key, "key") {
        problems.push(error.to_string());
    }
    problems.extend(arity_problem(requirement).map(|text| format!("values: Invalid value: {text}")));
    let ordered = matches!(requirement.operator, Operator::GreaterThan | Operator::LessThan);
    if ordered && requirement.values.len() == 1 {
        problems.extend(requirement.values().filter(|value| value.parse::<i64>().is_err()).map(|value| {
            format!(
                "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        }));
    }
    for (index, value) in requirement.values().enumerate() {
        let found = label_value_problems(value);
        if !found.is_empty() {
            let key = &requirement.key;
            problems.push(format!(
                "values[{index}][{key}]: Invalid value: {value:?}: {}",
                found.join("; ")
            ));
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(SelectorError::new(problems.remove(0))),
        _ => Err(SelectorError::new(format!("[{}]", problems.join(", ")))),
    }
}

fn arity_problem(requirement: &Requirement) -> Option<String> {
    let values: Vec<_> = requirement.values().collect();
    let shown = if values.is_empty() {
        "null".to_owned()
    } else {
        format!("{values:?}")
    };
    let (wrong, rule) = match requirement.operator {
        Operator::In | Operator::NotIn => (
            values.is_empty(),
            "for 'in', 'notin' operators, values set can't be empty",
        ),
        Operator::Exists | Operator::DoesNotExist => (
            !values.is_empty(),
            "values set must be empty for exists and does not exist",
        ),
        Operator::GreaterThan | Operator::LessThan => (
            values.len() != 1,
            "for 'Gt', 'Lt' operators, exactly one value is required",
        ),
        _ => (
            values.len() != 1,
            "exact-match compatibility requires one single value",
        ),
    };
    wrong.then(|| format!("{shown}: {rule}"))
}
