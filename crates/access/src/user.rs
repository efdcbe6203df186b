//! Who makes a request: the identity that authentication found, as a plain value.

use std::collections::BTreeMap;

/// The group every authenticated user is in.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// The group of users that could not be told.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything, before any rule is looked at.
pub const GROUP_MASTERS: &str = "system:masters";
/// The name of a user that could not be told.
pub const USER_ANONYMOUS: &str = "system:anonymous";

/// A user, node, service account or component, as authentication found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user name, for example `system:node:n1`.
    pub name: String,
    /// A unique id, or empty.
    pub uid: String,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// Further facts, for example a token's node claim; keys are lower case.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Makes a user that is in `groups` and in `system:authenticated`.
    pub fn new<G: Into<String>>(name: impl Into<String>, groups: impl IntoIterator<Item = G>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.into());
        }
        UserInfo {
            name: name.into(),
            groups,
            ..UserInfo::default()
        }
    }

    /// Makes a built-in component's identity, for example `system:kube-scheduler`: no group but `system:authenticated`.
    pub fn component(name: impl Into<String>) -> Self {
        Self::new(name, Vec::<String>::new())
    }

    /// The user of requests that carry no identity.
    pub fn anonymous() -> Self {
        UserInfo {
            name: USER_ANONYMOUS.into(),
            groups: vec![GROUP_UNAUTHENTICATED.into()],
            ..UserInfo::default()
        }
    }

    /// A member of `system:masters`: for people's first kubeconfig and tests, never for a component.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", [GROUP_MASTERS])
    }

    /// Tells whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
