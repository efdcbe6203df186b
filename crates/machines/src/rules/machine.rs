//! Machine: its phase, and which of its labels reach the Node.

/// What the phase depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseFacts {
    /// The bootstrap Secret is there.
    pub bootstrap_ready: bool,
    /// The infrastructure is there.
    pub infrastructure_provisioned: bool,
    /// spec.providerID is set.
    pub provider_id: bool,
    /// The Node is known.
    pub node: bool,
    /// Condition Updating is True.
    pub updating: bool,
    /// It is being deleted.
    pub deleting: bool,
}

/// Tells the phase.
pub fn phase(facts: PhaseFacts) -> &'static str {
    match facts {
        PhaseFacts { deleting: true, .. } => "Deleting",
        PhaseFacts { updating: true, .. } => "Updating",
        PhaseFacts {
            node: true,
            infrastructure_provisioned: true,
            ..
        } => "Running",
        PhaseFacts {
            infrastructure_provisioned: true,
            provider_id: true,
            ..
        } => "Provisioned",
        PhaseFacts {
            bootstrap_ready: true,
            ..
        } => "Provisioning",
        _ => "Pending",
    }
}

/// Label prefix for node roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io";
/// Label domains whose labels, also below a subdomain, reach the Node.
const DOMAINS: [&str; 2] = ["node-restriction.kubernetes.io", "node.cluster.x-k8s.io"];

/// Tells whether a Machine's label is kept in step on its Node.
pub fn label_reaches_node(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return false;
    };
    let within = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|sub| sub.ends_with('.'));
    domain == ROLE_PREFIX || DOMAINS.iter().any(|of| within(of))
}
