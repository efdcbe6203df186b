//! The well-known label keys that placement and nodes share.

/// The node's own name as a label.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The availability zone of a node.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The region of a node.
pub const REGION: &str = "topology.kubernetes.io/region";
/// The rack of a node (Mainstay's own level between zone and host).
pub const RACK: &str = "topology.mainstay.dev/rack";
/// The operating system of a node.
pub const OS: &str = "kubernetes.io/os";
/// The processor architecture of a node.
pub const ARCH: &str = "kubernetes.io/arch";
