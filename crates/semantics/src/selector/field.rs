//! Field selectors: `metadata.name=a,status.phase!=Failed`, with `\` escaping `,`, `=` and itself.

use super::SelectorError;
use std::fmt;

/// One comparison of a field with a text; an absent field counts as empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `!=`.
    pub negated: bool,
}

/// A conjunction of comparisons.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FieldSelector {
    terms: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses as in `fieldSelector=`; empty terms are skipped, the empty text selects everything.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let (field, negated, value) = split_term(part).ok_or_else(|| {
                SelectorError::new(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            terms.push(FieldRequirement {
                field: field.to_owned(),
                value: unescape(value)?,
                negated,
            });
        }
        Ok(Self { terms })
    }

    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The comparisons, sorted by text. Servers check the field names against what a kind supports.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.terms
    }

    /// The value a field must have, if the selector fixes it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| !term.negated && term.field == field)
            .map(|term| term.value.as_str())
    }

    /// True when all comparisons hold; `get` gives a field's text, `None` when absent.
    pub fn matches<'a>(&self, mut get: impl FnMut(&str) -> Option<&'a str>) -> bool {
        self.terms
            .iter()
            .all(|term| (get(&term.field).unwrap_or_default() == term.value) != term.negated)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let separator = if index > 0 { "," } else { "" };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{separator}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    term.char_indices().find_map(|(index, _)| {
        let (left, rest) = term.split_at(index);
        [("!=", true), ("==", false), ("=", false)]
            .into_iter()
            .find_map(|(operator, negated)| rest.strip_prefix(operator).map(|value| (left, negated, value)))
    })
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let bad = |reason: String| SelectorError::new(format!("invalid field selector: {reason}"));
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => return Err(bad(format!("invalid escape sequence: \\{other}"))),
                None => return Err(bad("invalid escape sequence: \\".to_owned())),
            },
            ',' | '=' => return Err(bad(format!("unescaped character in value: {}", u32::from(c)))),
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
