//! What names may look like, with upstream's sentences about it.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
                         for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                          alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
                          'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
                          'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;
const MAX_PORT_NAME: usize = 15;

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn label_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| lower(*b))
        && bytes.last().is_some_and(|b| lower(*b))
        && bytes.iter().all(|b| lower(*b) || *b == b'-')
}

fn limited(text: &str, limit: usize, fits: bool, sentence: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > limit {
        problems.push(format!("must be no more than {limit} bytes"));
    }
    if !fits {
        problems.push(sentence.to_owned());
    }
    problems
}

/// RFC 1123 label.
pub fn dns_label(text: &str) -> Vec<String> {
    limited(text, MAX_LABEL, label_shape(text), LABEL)
}

/// RFC 1123 subdomain: the usual form of object names.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    limited(text, MAX_SUBDOMAIN, text.split('.').all(label_shape), SUBDOMAIN)
}

/// RFC 1035 label: Service names.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let fits = label_shape(text) && text.as_bytes()[0].is_ascii_lowercase();
    limited(text, MAX_LABEL, fits, LABEL_1035)
}

/// A subdomain that may begin with `*.`.
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    dns_subdomain(text.strip_prefix("*.").unwrap_or(text))
}

/// A name that is one segment of a URL path: RBAC objects.
pub fn path_segment(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if matches!(text, "." | "..") {
        problems.push(format!("may not be '{text}'"));
    }
    for part in ["/", "%"] {
        if text.contains(part) {
            problems.push(format!("may not contain '{part}'"));
        }
    }
    problems
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let fits = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let mut problems = limited(text, MAX_SUBDOMAIN, fits, CONFIG_KEY);
    match text {
        "." => problems.push("must not be '.'".to_owned()),
        _ if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// An IANA service name: the names of ports.
pub fn port_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut require = |holds: bool, sentence: &str| {
        if !holds {
            problems.push(sentence.to_owned());
        }
    };
    require(text.len() <= MAX_PORT_NAME, "must be no more than 15 characters");
    require(
        text.bytes().all(|b| lower(b) || b == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    require(
        text.bytes().any(|b| b.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    );
    require(!text.contains("--"), "must not contain consecutive hyphens");
    require(
        !text.starts_with('-') && !text.ends_with('-'),
        "must not begin or end with a hyphen",
    );
    problems
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_name(text: &str) -> Vec<String> {
    let fits = text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if fits {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// An IP address of either family.
pub fn ip(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An address range in CIDR notation.
pub fn cidr(text: &str) -> Vec<String> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: std::net::IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        Some(length <= if address.is_ipv4() { 32 } else { 128 })
    });
    if parsed == Some(true) {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}
