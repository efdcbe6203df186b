//! Users from client certificates: CN is the name, each O a group, a URI name the machine's incarnation.
//! The chain was verified against the client CA when the connection was made.

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
    if let Some((cluster, machine, incarnation)) = machine_of(&certificate) {
        user.extra.insert(CLUSTER_EXTRA.into(), vec![cluster]);
        user.extra.insert(MACHINE_EXTRA.into(), vec![machine]);
        user.extra.insert(INCARNATION_EXTRA.into(), vec![incarnation]);
    }
    Ok(authenticated(user))
}

/// Cluster, machine and incarnation of the certificate's `mainstay://` name.
fn machine_of(certificate: &X509Certificate<'_>) -> Option<(String, String, String)> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("mainstay://"),
        _ => None,
    });
    parse_machine(uris.next()?)
}

/// `cluster/<uid>/machine/<name>/incarnation/<n>` or `<uid>/<name>/<n>`.
pub(super) fn parse_machine(path: &str) -> Option<(String, String, String)> {
    let parts: Vec<&str> = path.split('/').collect();
    let (cluster, machine, incarnation) = match parts[..] {
        ["cluster", cluster, "machine", machine, "incarnation", incarnation] => {
            (cluster, machine, incarnation)
        }
        [cluster, machine, incarnation] => (cluster, machine, incarnation),
        _ => return None,
    };
    incarnation.parse::<u64>().ok()?;
    Some((cluster.into(), machine.into(), incarnation.into()))
}
