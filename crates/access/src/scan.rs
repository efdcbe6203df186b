//! Finds values inside canonical JSON without parsing it. Input must be valid JSON without white space between
//! tokens, as the server stores it; on anything else the answer is `None`, never a panic.

use std::borrow::Cow;
use std::ops::Range;

/// Walks the members of the object that starts at `at`, calling `each(key, value range)` until it says stop.
/// Returns the offset behind the object, or `None` when stopped or malformed.
pub fn members<'a>(
    json: &'a [u8],
    at: usize,
    each: impl FnMut(&'a [u8], Range<usize>) -> bool,
) -> Option<usize> {
    let at = expect(json, at, b'{')?;
    if json.get(at) == Some(&b'}') {
        return Some(at + 1);
    }
    walk(json, at, each)
}

/// Walks on behind a member that ends at `at`.
pub fn members_behind<'a>(
    json: &'a [u8],
    at: usize,
    each: impl FnMut(&'a [u8], Range<usize>) -> bool,
) -> Option<usize> {
    match json.get(at)? {
        b',' => walk(json, at + 1, each),
        b'}' => Some(at + 1),
        _ => None,
    }
}

fn walk<'a>(
    json: &'a [u8],
    mut at: usize,
    mut each: impl FnMut(&'a [u8], Range<usize>) -> bool,
) -> Option<usize> {
    loop {
        let end = skip_string(json, at)?;
        let key = &json[at + 1..end - 1];
        let start = expect(json, end, b':')?;
        let stop = skip(json, start)?;
        if each(key, start..stop) {
            return None;
        }
        match json.get(stop)? {
            b',' => at = stop + 1,
            b'}' => return Some(stop + 1),
            _ => return None,
        }
    }
}

/// Finds the value at `path` below the object that starts at `at`.
pub fn find<'p>(json: &[u8], at: usize, path: impl IntoIterator<Item = &'p str>) -> Option<Range<usize>> {
    let mut found = at..json.len();
    for segment in path {
        let from = found.start;
        let mut hit = None;
        if json.get(from) != Some(&b'{') {
            return None;
        }
        members(json, from, |key, value| {
            if key != segment.as_bytes() {
                return false;
            }
            hit = Some(value);
            true
        });
        found = hit?;
    }
    Some(found)
}

/// Reads a JSON scalar as text: strings unescaped, numbers and booleans as they stand, null as empty.
pub fn text(json: &[u8]) -> Cow<'_, str> {
    let Some(inner) = json.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return match json {
            b"null" => Cow::Borrowed(""),
            other => String::from_utf8_lossy(other),
        };
    };
    if !inner.contains(&b'\\') {
        return String::from_utf8_lossy(inner);
    }
    Cow::Owned(serde_json::from_slice(json).unwrap_or_default())
}

/// Returns the offset behind the value that starts at `at`.
pub fn skip(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => skip_string(json, at),
        b'{' | b'[' => skip_nested(json, at),
        _ => {
            let rest = json[at..]
                .iter()
                .position(|byte| matches!(byte, b',' | b'}' | b']'));
            Some(rest.map_or(json.len(), |length| at + length))
        }
    }
}

fn skip_nested(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match json.get(at)? {
            b'"' => {
                at = skip_string(json, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

fn skip_string(json: &[u8], at: usize) -> Option<usize> {
    let mut at = expect(json, at, b'"')?;
    loop {
        at += json
            .get(at..)?
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\'))?;
        match json[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

fn expect(json: &[u8], at: usize, byte: u8) -> Option<usize> {
    (json.get(at) == Some(&byte)).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &[u8] =
        br#"{"a":{"b":"x\"y","c":[1,{"d":"}"}],"e":true},"labels":{"k":"v"},"n":12,"z":null}"#;

    fn at(path: &[&str]) -> Option<String> {
        find(JSON, 0, path.iter().copied()).map(|range| text(&JSON[range]).into_owned())
    }

    #[test]
    fn values_are_found_by_path() {
        assert_eq!(at(&["a", "b"]).as_deref(), Some("x\"y"));
        assert_eq!(at(&["a", "e"]).as_deref(), Some("true"));
        assert_eq!(at(&["n"]).as_deref(), Some("12"));
        assert_eq!(at(&["z"]).as_deref(), Some(""));
        assert_eq!(at(&["a", "none"]), None);
        assert_eq!(at(&["n", "none"]), None);
    }

    #[test]
    fn malformed_json_is_no_panic() {
        for length in 0..JSON.len() {
            let cut = &JSON[..length];
            let _ = find(cut, 0, ["labels", "k"]);
        }
    }
}
