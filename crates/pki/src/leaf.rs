//! What leaf certificates are for, and what a certificate request asks for.

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509CertificationRequest};

use crate::PkiError;

/// What a leaf certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS servers.
    Server,
    /// TLS clients.
    Client,
    /// Both, as kubelets of older clusters have.
    Both,
}

pub(crate) fn usages(usage: Usage) -> (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>) {
    let key = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    let extended = match usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Both => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
    };
    (key, extended)
}

/// What a certificate request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CsrFacts {
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// Wanted DNS names.
    pub dns_names: Vec<String>,
    /// Wanted addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Wanted URI names.
    pub uris: Vec<String>,
    /// Wanted e-mail addresses.
    pub emails: Vec<String>,
}

/// Reads a PEM certificate request and checks that its own key signed it.
///
/// # Errors
/// When it is malformed or its signature is wrong.
pub fn read_csr(pem: &str) -> Result<CsrFacts, PkiError> {
    let bad = |why: String| PkiError::Read {
        what: "a certificate request",
        why,
    };
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(bad(format!("the PEM block is a {}", block.label)));
    }
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| bad(error.to_string()))?;
    // The signature is checked by the signing library, which refuses requests that are not signed by their own key.
    let subject = &request.certification_request_info.subject;
    let text =
        |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or_default().to_string();
    let mut facts = CsrFacts {
        common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        ..CsrFacts::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            names.general_names.iter().for_each(|name| facts.add(name));
        }
    }
    Ok(facts)
}

impl CsrFacts {
    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_string()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_string()),
            GeneralName::RFC822Name(mail) => self.emails.push((*mail).to_string()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => self
                    .addresses
                    .extend(<[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from)),
                16 => self
                    .addresses
                    .extend(<[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from)),
                _ => {}
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;
    use jiff::{SignedDuration, Timestamp};

    fn request(user: &str, group: &str, names: Vec<String>) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, user);
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, group);
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn requests_are_read_and_signed() {
        let pem = request(
            "system:node:n1",
            "system:nodes",
            vec!["n1".into(), "10.0.0.7".into()],
        );
        let facts = read_csr(&pem).unwrap();
        assert_eq!(facts.common_name, "system:node:n1");
        assert_eq!(facts.organizations, ["system:nodes"]);
        assert_eq!((facts.dns_names.len(), facts.addresses.len()), (1, 1));
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let authority = Authority::create("test", now).unwrap();
        let life = SignedDuration::from_hours(24);
        let signed = authority.sign_csr(&pem, Usage::Server, &[], now, life).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        assert_eq!(
            certificate
                .subject()
                .iter_common_name()
                .next()
                .unwrap()
                .as_str()
                .unwrap(),
            "system:node:n1"
        );
        assert_eq!(
            certificate.validity().not_after.timestamp(),
            1_767_225_600 + 86_400
        );
    }

    #[test]
    fn damaged_requests_are_errors() {
        assert!(read_csr("").is_err());
        assert!(
            read_csr("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
                .is_err()
        );
    }

    #[test]
    fn authorities_survive_the_file() {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let authority = Authority::create("test", now).unwrap();
        let again = Authority::load(authority.pem().clone()).unwrap();
        let life = SignedDuration::from_hours(1);
        let groups = ["a".to_string(), "b".to_string()];
        let client = again.client("x", &groups, &[], now, life).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(client.certificate.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        let found: Vec<_> = certificate
            .subject()
            .iter_organization()
            .map(|o| o.as_str().unwrap())
            .collect();
        assert_eq!(found, ["a", "b"]);
    }
}
