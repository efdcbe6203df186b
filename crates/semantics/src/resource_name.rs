//! Names of resources: which are native, which are extended, which may be overcommitted.
//!
//! Rules: <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources>.

/// Processor time.
pub const CPU: &str = "cpu";
/// Memory in bytes.
pub const MEMORY: &str = "memory";
/// Disk for logs, writable layers and emptyDirs, in bytes.
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// How many pods a node takes.
pub const PODS: &str = "pods";
/// What hugepage resources start with.
pub const HUGEPAGES_PREFIX: &str = "hugepages-";
/// What the names of attachable-volume limits start with.
pub const ATTACHABLE_PREFIX: &str = "attachable-volumes-";

/// Tells whether a name belongs to Kubernetes itself: no domain, or one in `kubernetes.io`.
pub fn is_native(name: &str) -> bool {
    match name.split_once('/') {
        None => true,
        Some((domain, _)) => domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"),
    }
}

/// Tells whether a name is a hugepage size.
pub fn is_hugepage(name: &str) -> bool {
    name.starts_with(HUGEPAGES_PREFIX)
}

/// Tells whether a name is an extended resource: domain-qualified, outside `kubernetes.io`, and not a quota key.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && is_qualified(name)
}

/// Tells whether requests may exceed what the node has over time: everything native except hugepages.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_hugepage(name)
}

/// Tells whether pods may state this resource as a whole (pod-level resources).
pub fn is_pod_level(name: &str) -> bool {
    name == CPU || name == MEMORY || is_hugepage(name)
}

/// Tells whether the scheduler counts a resource beside cpu, memory and ephemeral storage.
pub fn is_scalar(name: &str) -> bool {
    is_extended(name)
        || is_hugepage(name)
        || name.contains("kubernetes.io/")
        || name.starts_with(ATTACHABLE_PREFIX)
}

/// Tells whether `requests.<name>` would be a qualified name (prefix a DNS subdomain, name at most 63 letters).
fn is_qualified(name: &str) -> bool {
    let Some((domain, local)) = name.split_once('/') else {
        return false;
    };
    let letter = |byte: u8| byte.is_ascii_alphanumeric();
    let inside = |byte: u8| letter(byte) || matches!(byte, b'-' | b'_' | b'.');
    let ends = |text: &str, ok: &dyn Fn(u8) -> bool| {
        let bytes = text.as_bytes();
        bytes.first().is_some_and(|byte| ok(*byte)) && bytes.last().is_some_and(|byte| ok(*byte))
    };
    let dns = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| ends(part, &dns) && part.bytes().all(|byte| dns(byte) || byte == b'-');
    domain.len() + "requests.".len() <= 253
        && domain.split('.').all(part)
        && local.len() <= 63
        && ends(local, &letter)
        && local.bytes().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fall_into_their_classes() {
        let rows = [
            ("cpu", (true, false, true)),
            ("hugepages-2Mi", (true, false, false)),
            ("example.com/foo", (false, true, false)),
            ("kubernetes.io/foo", (true, false, true)),
            ("sub.kubernetes.io/foo", (true, false, true)),
            ("requests.example.com/foo", (false, false, false)),
            ("Example.com/foo", (false, false, false)),
            ("example.com/", (false, false, false)),
            ("example.com/a/b", (false, false, false)),
        ];
        for (name, expected) in rows {
            assert_eq!(
                (is_native(name), is_extended(name), may_overcommit(name)),
                expected,
                "{name}"
            );
        }
    }
}
