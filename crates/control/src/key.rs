//! The name of one object within a kind.

use std::fmt;

/// Namespace and name; the namespace is empty for objects of cluster scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace, or an empty text for cluster scope.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectKey {
    /// Names an object in a namespace.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Names an object of cluster scope.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::namespaced("", name)
    }

    /// Names any kube resource (an absent namespace or name is empty).
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::namespaced(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return out.write_str(&self.name);
        }
        write!(out, "{}/{}", self.namespace, self.name)
    }
}
