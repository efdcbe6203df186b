//! Authorization: members of system:masters, then the node rules, then RBAC; whoever allows first wins.
//!
//! Everything is decided on the server's own watch caches. Nodes of an older incarnation are refused before any
//! rule is looked at: a machine that was reprovisioned cannot act through its old certificate.

mod escalation;
mod node;
mod rbac;
pub mod review;

pub use escalation::Escalation;
pub use node::may_have_token;
pub use node::{INCARNATION_ANNOTATION, INCARNATION_EXTRA, node_name};
pub use rbac::RbacAuthorizer;

use std::sync::Arc;

use async_trait::async_trait;

use crate::hooks::{Attributes, Authorize, Decision, World};
use crate::user::{GROUP_MASTERS, UserInfo};

/// The union of the built-in authorizers.
pub struct Authorizer {
    world: Arc<dyn World>,
    rbac: Arc<RbacAuthorizer>,
    incarnations: node::Incarnations,
}

impl Authorizer {
    /// Makes the authorizer over a server's watch caches.
    pub fn new(world: Arc<dyn World>) -> Self {
        let rbac = Arc::new(RbacAuthorizer::new(world.clone()));
        Authorizer {
            world,
            rbac,
            incarnations: node::Incarnations::default(),
        }
    }

    /// The watch caches it decides on.
    pub fn world(&self) -> &Arc<dyn World> {
        &self.world
    }

    /// The RBAC part, for rule reviews and escalation checks.
    pub fn rbac(&self) -> &Arc<RbacAuthorizer> {
        &self.rbac
    }

    /// Decides at once.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(GROUP_MASTERS) {
            return Decision::Allow;
        }
        match node::decide(attributes, &*self.world, &self.incarnations) {
            Decision::NoOpinion(first) => match self.rbac.decide(attributes) {
                Decision::NoOpinion(second) => Decision::NoOpinion(join(first, second)),
                decided => decided,
            },
            decided => decided,
        }
    }
}

fn join(first: String, second: String) -> String {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => format!("{first}, {second}"),
    }
}

#[async_trait]
impl Authorize for Authorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.decide(attributes)
    }
}

/// Makes the attributes of a plain request on a resource, for checks the server makes on its own account.
pub fn attributes<'a>(
    user: &'a UserInfo,
    verb: &'a str,
    (group, resource, subresource): (&'a str, &'a str, &'a str),
    (namespace, name): (&'a str, &'a str),
) -> Attributes<'a> {
    Attributes {
        user,
        verb,
        group,
        version: "*",
        resource,
        subresource,
        namespace,
        name,
        path: "",
        is_resource: true,
        label_selector: "",
        field_selector: "",
    }
}

#[cfg(test)]
mod tests;
