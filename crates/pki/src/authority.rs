//! Certificate authorities: made once, kept as PEM, sign serving, client and requested certificates.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::PkiError;
use crate::leaf::{Usage, usages};

/// Certificates are valid from this long before their making: clocks differ.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);
/// The object identifier of organizationName.
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];
/// The most groups that a client certificate can carry.
pub const MAX_GROUPS: usize = 2;
/// Authorities are valid for ten years.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// A certificate with its key, as PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8). Never printed.
    pub key: String,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// A certificate authority.
pub struct Authority {
    pem: Pem,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority with this common name.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create(common_name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::make("make a CA key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        set_validity(&mut params, now, AUTHORITY_LIFE);
        let certificate = params
            .self_signed(&key)
            .map_err(PkiError::make("sign a CA certificate"))?;
        let pem = Pem {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        Authority::load(pem)
    }

    /// Reads an authority that was made before.
    ///
    /// # Errors
    /// When the PEM text is damaged.
    pub fn load(pem: Pem) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&pem.key).map_err(PkiError::make("read a CA key"))?;
        let issuer = Issuer::from_ca_cert_pem(&pem.certificate, key)
            .map_err(PkiError::make("read a CA certificate"))?;
        Ok(Authority { pem, issuer })
    }

    /// The authority's certificate and key.
    pub fn pem(&self) -> &Pem {
        &self.pem
    }

    /// Makes a serving certificate for these names and addresses.
    ///
    /// # Errors
    /// When a name is not a DNS name.
    pub fn serving(
        &self,
        common_name: &str,
        names: &[String],
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Pem, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, &[]);
        for alternative in names {
            params.subject_alt_names.push(alternative_name(alternative)?);
        }
        self.leaf(params, Usage::Server, now, life)
    }

    /// Makes a client certificate: the common name is the user, each organization a group. `uris` become URI names.
    ///
    /// # Errors
    /// When a URI is not ASCII, or for more than [`MAX_GROUPS`] groups.
    pub fn client(
        &self,
        user: &str,
        groups: &[String],
        uris: &[String],
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Pem, PkiError> {
        if groups.len() > MAX_GROUPS {
            let why = format!("{} groups, at most {MAX_GROUPS} fit", groups.len());
            return Err(PkiError::Read {
                what: "a client's groups",
                why,
            });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, groups);
        for uri in uris {
            let uri = uri
                .as_str()
                .try_into()
                .map_err(PkiError::make("encode a URI name"))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        self.leaf(params, Usage::Client, now, life)
    }

    fn leaf(
        &self,
        mut params: CertificateParams,
        usage: Usage,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Pem, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::make("make a key"))?;
        (params.key_usages, params.extended_key_usages) = usages(usage);
        set_validity(&mut params, now, life);
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(PkiError::make("sign a certificate"))?;
        Ok(Pem {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Signs a request: subject and alternative names are the request's (check them with [`crate::read_csr`]
    /// first), usages and life are ours.
    ///
    /// # Errors
    /// When the request is malformed or not signed by its own key.
    pub fn sign_csr(
        &self,
        pem: &str,
        usage: Usage,
        extra_uris: &[String],
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(pem)
            .map_err(PkiError::make("read a certificate request"))?;
        (request.params.key_usages, request.params.extended_key_usages) = usages(usage);
        request.params.is_ca = IsCa::NoCa;
        for uri in extra_uris {
            let uri = uri
                .as_str()
                .try_into()
                .map_err(PkiError::make("encode a URI name"))?;
            request.params.subject_alt_names.push(SanType::URI(uri));
        }
        set_validity(&mut request.params, now, life);
        let signed = request
            .signed_by(&self.issuer)
            .map_err(PkiError::make("sign a certificate request"))?;
        Ok(signed.pem())
    }
}

/// The subject of a certificate. The library keeps one value per attribute type, so at most two organizations fit:
/// the second goes in by the type's number.
pub(crate) fn name(common_name: &str, organizations: &[String]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let types = [
        DnType::OrganizationName,
        DnType::CustomDnType(ORGANIZATION.to_vec()),
    ];
    for (kind, organization) in types.into_iter().zip(organizations) {
        name.push(kind, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn alternative_name(text: &str) -> Result<SanType, PkiError> {
    Ok(match text.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(text.try_into().map_err(PkiError::make("encode a DNS name"))?),
    })
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, life: SignedDuration) {
    let since_epoch =
        |at: Timestamp| std::time::Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(now - BACKDATE);
    params.not_after = epoch + since_epoch(now + life);
}
