//! Users from client certificates: CN is the name, each O a group, a URI name the machine's incarnation.
//! The chain was verified against the client CA when the connection was made.

use mainstay_pki::NodeIdentity;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authenticated;
use crate::authz::INCARNATION_EXTRA;
use crate::sha256::sha256;
use crate::user::UserInfo;

/// The key of the fact that tells which credential was shown.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The key of the fact that names the cluster a node's certificate is for.
pub const CLUSTER_EXTRA: &str = "mainstay.dev/cluster";
/// The key of the fact that names the machine a node's certificate is for.
pub const MACHINE_EXTRA: &str = "mainstay.dev/machine";

/// Tells the user of a certificate (DER).
///
/// # Errors
/// When it cannot be parsed, or names nobody.
pub fn user(der: &[u8]) -> Result<UserInfo, String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| format!("client certificate: {error}"))?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok())
        .unwrap_or_default();
    if name.is_empty() {
        return Err("client certificate: no common name".into());
    }
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok());
    let mut user = UserInfo {
        name: name.into(),
        groups: groups.map(str::to_string).collect(),
        ..UserInfo::default()
    };
    let digest: String = sha256(der).iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra
        .insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={digest}")]);
    if let Some(machine) = machine_of(&certificate) {
        user.extra.insert(CLUSTER_EXTRA.into(), vec![machine.cluster]);
        user.extra.insert(MACHINE_EXTRA.into(), vec![machine.node]);
        user.extra
            .insert(INCARNATION_EXTRA.into(), vec![machine.incarnation.to_string()]);
    }
    Ok(authenticated(user))
}

/// The machine's name in the certificate.
fn machine_of(certificate: &X509Certificate<'_>) -> Option<NodeIdentity> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => NodeIdentity::parse(uri),
        _ => None,
    })
}
