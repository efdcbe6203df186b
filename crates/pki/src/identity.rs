//! The name by which a node's client certificate says which machine it was issued to, and to which installation
//! of it: one URI, written and read here alone.

use std::fmt;

/// What all such names start with.
const SCHEME: &str = "mainstay://";

/// Cluster, node and incarnation of a client certificate, as its URI alternative name:
/// `mainstay://<cluster uid>/<node>/<incarnation>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// UID of the cluster that the node belongs to.
    pub cluster: String,
    /// Name of the Node.
    pub node: String,
    /// How often the machine had been provisioned when the certificate was issued.
    pub incarnation: u64,
}

impl NodeIdentity {
    /// Puts the parts together.
    pub fn new(cluster: impl Into<String>, node: impl Into<String>, incarnation: u64) -> Self {
        NodeIdentity {
            cluster: cluster.into(),
            node: node.into(),
            incarnation,
        }
    }

    /// Reads a URI; none when it is not such a name.
    pub fn parse(uri: &str) -> Option<Self> {
        let parts: Vec<&str> = uri.strip_prefix(SCHEME)?.split('/').collect();
        let [cluster, node, incarnation] = parts[..] else {
            return None;
        };
        let whole = !cluster.is_empty() && !node.is_empty();
        let incarnation = incarnation.parse().ok().filter(|_| whole)?;
        Some(NodeIdentity::new(cluster, node, incarnation))
    }
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{SCHEME}{}/{}/{}", self.cluster, self.node, self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let identity = NodeIdentity::new("c1", "n1", 7);
        assert_eq!(identity.to_string(), "mainstay://c1/n1/7");
        assert_eq!(NodeIdentity::parse("mainstay://c1/n1/7"), Some(identity));
        for wrong in [
            "mainstay://c1/n1/x",
            "mainstay://c1/n1",
            "mainstay:///n1/1",
            "https://c1/n1/7",
            "mainstay://a/c1/n1/7",
        ] {
            assert_eq!(NodeIdentity::parse(wrong), None, "{wrong}");
        }
    }
}
