//! Certificate requests of people: the key stays with whoever makes it, the cluster signs.

use rcgen::{CertificateParams, KeyPair};

use crate::PkiError;
use crate::authority::{MAX_GROUPS, name};

/// A key and the request for its certificate, as PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientRequest {
    /// The private key (PKCS #8). Never printed but into a kubeconfig.
    pub key: String,
    /// The request.
    pub request: String,
}

impl std::fmt::Debug for ClientRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientRequest")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// Makes a key and a request for a client certificate of a user in groups.
///
/// # Errors
/// When there are more groups than a certificate can carry, or the system gives no randomness.
pub fn client_request(user: &str, groups: &[String]) -> Result<ClientRequest, PkiError> {
    if groups.len() > MAX_GROUPS {
        return Err(PkiError::Read {
            what: "the groups of a client certificate",
            why: format!("{} are asked for, it carries up to {MAX_GROUPS}", groups.len()),
        });
    }
    let key = KeyPair::generate().map_err(PkiError::make("make a key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(user, groups);
    let request = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(PkiError::make("make a certificate request"))?;
    Ok(ClientRequest {
        key: key.serialize_pem(),
        request,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_user_and_groups() {
        let groups = ["team-a".to_string(), "developers".to_string()];
        let made = client_request("alice", &groups).unwrap();
        let facts = crate::read_csr(&made.request).unwrap();
        assert_eq!(
            (facts.common_name.as_str(), &facts.organizations[..]),
            ("alice", &groups[..])
        );
        assert!(made.key.contains("PRIVATE KEY") && !format!("{made:?}").contains("PRIVATE KEY"));
        assert!(client_request("alice", &vec![String::from("g"); MAX_GROUPS + 1]).is_err());
    }
}
