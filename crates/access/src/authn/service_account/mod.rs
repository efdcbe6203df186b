//! Tokens of service accounts: issued for an audience and a time, bound to a pod, secret or node, and refused as
//! soon as the account or what they are bound to is gone.

mod claims;
mod es256;
mod keys;
mod request;
mod verify;

pub use keys::{KeyError, Keys};
pub use request::{Issuing, issue};
pub use verify::ServiceAccountTokens;

use crate::user::GROUP_AUTHENTICATED;

/// The groups of every account in a namespace.
pub(super) fn groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".into(),
        format!("system:serviceaccounts:{namespace}"),
        GROUP_AUTHENTICATED.into(),
    ]
}
