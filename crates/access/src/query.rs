//! A request's query string: decoded once, looked up by key.

/// Decoded parameters in their order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string; empty parts (some clients send `?&a=b`) are skipped.
    pub fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode_form(key), decode_form(value))
        };
        Query(
            text.split('&')
                .filter(|part| !part.is_empty())
                .map(pair)
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, _)| own == key)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(own, _)| own == key)
            .map(|(_, value)| value.as_str())
    }

    /// The parameter's value, `None` also when it is empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// Whether a boolean parameter is on: `1`, `true` or present without a value.
    pub fn flag(&self, key: &str) -> bool {
        self.boolean(key) == Some(true)
    }

    /// A boolean parameter: absent = `None`; anything but `0` and `false` is true, as upstream reads it.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.get(key)
            .map(|value| !matches!(value, "0" | "false" | "False" | "FALSE"))
    }

    /// All parameters.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// Decodes percent escapes; invalid ones stay as they are.
pub fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_string();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        match hex
            .filter(|_| bytes[at] == b'%')
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn decode_form(text: &str) -> String {
    if text.contains('+') {
        decode(&text.replace('+', " "))
    } else {
        decode(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_decode() {
        let query = Query::parse("&labelSelector=i+in+(1,2)&f=a%3Db%zz&watch=1&command=a&command=b&x");
        assert_eq!(query.get("labelSelector"), Some("i in (1,2)"));
        assert_eq!(query.get("f"), Some("a=b%zz"));
        assert!(query.flag("watch") && query.flag("x") && !query.flag("y"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["a", "b"]);
    }
}
