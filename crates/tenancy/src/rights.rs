//! Who is the platform: those who may change tenants may also change what tenants may not.

use std::sync::Arc;

use mainstay_access::authz::{Authorizer, attributes};
use mainstay_access::hooks::{Decision, Review};
use mainstay_access::user::UserInfo;

/// Answers questions about users' rights.
#[derive(Clone)]
pub(crate) struct Rights {
    authorizer: Arc<Authorizer>,
}

impl Rights {
    pub(crate) fn new(authorizer: Arc<Authorizer>) -> Self {
        Rights { authorizer }
    }

    /// Whether the user may change tenants: members of system:masters, cluster admins, and the components whose work
    /// it is (controllers, scheduler, fleet, tenancy).
    pub(crate) fn is_platform(&self, user: &UserInfo) -> bool {
        if is_component(user) {
            return true;
        }
        let what = ("mainstay.dev", "tenants", "status");
        self.authorizer
            .decide(&attributes(user, "update", what, ("", "")))
            == Decision::Allow
    }
}

/// Whether a name belongs to a part of the cluster and not to a person or workload. Such names come from the
/// cluster's own certificates and tokens alone: no other login may bring them.
pub(crate) fn is_component(user: &UserInfo) -> bool {
    let name = user.name.as_str();
    name.starts_with("system:") && !name.starts_with("system:serviceaccount:")
        || name.starts_with("system:serviceaccount:kube-system:")
}

/// 403 about the review's object.
pub(crate) fn forbidden(review: &Review, why: impl std::fmt::Display) -> mainstay_access::ApiError {
    mainstay_access::ApiError::forbidden(&review.group, &review.resource, &review.name, why)
}
