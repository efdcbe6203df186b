//! The keys that sign tokens: the first signs, all verify, so that keys can be changed without breaking tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use parking_lot::RwLock;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use crate::sha256::sha256;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a PKCS #8 key in PEM.
    #[error("failed to read the service account key")]
    Malformed(#[source] rcgen::Error),
    /// A key of another kind than ECDSA P-256.
    #[error("the service account key is not an ECDSA P-256 key")]
    Kind,
    /// The key's material is refused.
    #[error("failed to load the service account key")]
    Refused(#[source] jsonwebtoken::errors::Error),
    /// There is no key at all.
    #[error("no service account key is given")]
    None,
}

struct Key {
    id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    x: String,
    y: String,
}

impl Key {
    fn parse(pem: &str) -> Result<Key, KeyError> {
        let pair = KeyPair::from_pem(pem).map_err(KeyError::Malformed)?;
        // An uncompressed point: 4, then 32 bytes each of x and y.
        let [4, point @ ..] = pair.public_key_raw() else {
            return Err(KeyError::Kind);
        };
        if point.len() != 64 {
            return Err(KeyError::Kind);
        }
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(&point[..32]),
            URL_SAFE_NO_PAD.encode(&point[32..]),
        );
        Ok(Key {
            id: URL_SAFE_NO_PAD.encode(sha256(pair.subject_public_key_info())),
            signing: EncodingKey::from_ec_der(pair.serialized_der()),
            verifying: DecodingKey::from_ec_components(&x, &y).map_err(KeyError::Refused)?,
            x,
            y,
        })
    }

    fn jwk(&self) -> Value {
        json!({
            "use": "sig", "kty": "EC", "kid": self.id, "alg": "ES256", "crv": "P-256", "x": self.x, "y": self.y,
        })
    }
}

/// Keys that can be changed while the server runs.
pub struct Keys {
    keys: RwLock<Arc<Vec<Key>>>,
}

impl Keys {
    /// Reads PEM keys (PKCS #8, ECDSA P-256); the first one signs.
    ///
    /// # Errors
    /// When there is none, or one cannot be used.
    pub fn new<P: AsRef<str>>(pems: &[P]) -> Result<Keys, KeyError> {
        Ok(Keys {
            keys: RwLock::new(Arc::new(parse(pems)?)),
        })
    }

    /// Takes new keys: tokens signed by keys that are no longer among them are refused from now on.
    ///
    /// # Errors
    /// As [`Keys::new`]; the old keys stay then.
    pub fn replace<P: AsRef<str>>(&self, pems: &[P]) -> Result<(), KeyError> {
        let parsed = Arc::new(parse(pems)?);
        *self.keys.write() = parsed;
        Ok(())
    }

    fn current(&self) -> Arc<Vec<Key>> {
        self.keys.read().clone()
    }

    /// Signs claims with the first key.
    pub(crate) fn sign(&self, claims: &impl serde::Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        let keys = self.current();
        let key = &keys[0];
        let header = Header {
            kid: Some(key.id.clone()),
            typ: None,
            ..Header::new(Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, claims, &key.signing)
    }

    /// Checks the signature with the key the token names, or with each when it names none.
    pub(crate) fn verify<T: serde::de::DeserializeOwned + Clone>(&self, token: &str) -> Result<T, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        let mut rules = jsonwebtoken::Validation::new(Algorithm::ES256);
        // Times and audiences are checked with the server's own clock and question.
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let keys = self.current();
        let named = |key: &&Key| header.kid.as_ref().is_none_or(|kid| *kid == key.id);
        for key in keys.iter().filter(named) {
            if let Ok(data) = jsonwebtoken::decode::<T>(token, &key.verifying, &rules) {
                return Ok(data.claims);
            }
        }
        Err("the token is not signed by a key of this cluster".into())
    }

    /// The document at `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.current().iter().map(Key::jwk).collect();
        json!({"keys": keys})
    }

    /// The document at `/.well-known/openid-configuration`.
    pub fn discovery(issuer: &str) -> Value {
        json!({
            "issuer": issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", issuer.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn parse<P: AsRef<str>>(pems: &[P]) -> Result<Vec<Key>, KeyError> {
    super::es256::install();
    let keys: Vec<Key> = pems
        .iter()
        .map(|pem| Key::parse(pem.as_ref()))
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        Err(KeyError::None)
    } else {
        Ok(keys)
    }
}
