//! JSON Web Tokens (RFC 7519), signed by one key or by keys of a set.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Header, Validation, decode, decode_header, encode,
    errors::ErrorKind,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    AccessError, Permission, Permissions, Refusal,
    key_set::{KeySet, NoKey, PACE},
    signatures,
};
use crate::config::{KeySetSource, PublicKey, TokenKey, TokenSettings};

/// How far the clocks of issuer and server may differ.
const LEEWAY: Duration = Duration::from_secs(30);

/// Shortest modulus of an RSA key: 2048 bits (RFC 7518, 3.3).
const MIN_RSA_BYTES: usize = 256;

/// A point of P-256, uncompressed.
const P256_BYTES: usize = 65;

/// A public key or a secret, with the one algorithm that it is for.
#[derive(Debug, Clone)]
pub struct VerifyingKey {
    key: Arc<DecodingKey>,
    algorithm: Algorithm,
}

impl VerifyingKey {
    /// Refuses a key that the algorithm cannot be used with.
    pub fn new(key: DecodingKey, algorithm: Algorithm) -> Result<Self, String> {
        let bytes = match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => bytes,
            DecodingKeyKind::RsaModulusExponent { n, .. } => n,
        };
        match algorithm {
            Algorithm::RS256 if bytes.len() < MIN_RSA_BYTES => {
                Err("an RSA key needs 2048 bits at least".into())
            }
            Algorithm::ES256 if bytes.len() != P256_BYTES => Err("is no key of the curve P-256".into()),
            _ => Ok(Self { key: Arc::new(key), algorithm }),
        }
    }
}

/// What tokens are checked against.
pub struct Tokens {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
}

enum Keys {
    One(VerifyingKey),
    Set(Arc<KeySet>),
}

/// What a token says of who shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Claims {
    pub sub: Option<String>,
    /// Id or name of the tenant.
    pub tenant_id: Option<String>,
    #[serde(default)]
    permissions: Vec<String>,
    /// The same as OAuth names it (RFC 9068): names with spaces between them.
    scope: Option<String>,
}

impl Claims {
    pub fn permissions(&self) -> Permissions {
        let scope = self.scope.as_deref().unwrap_or_default();
        Permissions::known_of(self.permissions.iter().map(String::as_str).chain(scope.split_whitespace()))
    }
}

impl Tokens {
    /// Reads the keys. Those behind a URL may come later: an issuer that is away stops no server from starting.
    pub async fn new(settings: &TokenSettings) -> Result<Self, AccessError> {
        signatures::install();
        let keys = match &settings.key {
            TokenKey::Secret(secret) => {
                let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
                let key = key.map_err(|_| AccessError("JWT_SECRET: is empty".into()))?;
                Keys::One(VerifyingKey { key: Arc::new(key), algorithm: Algorithm::HS256 })
            }
            TokenKey::PublicKey(key) => Keys::One(public_key(key)?),
            TokenKey::KeySet(source) => Keys::Set(key_set(source).await?),
        };
        Ok(Self { keys, issuer: settings.issuer.clone(), audience: settings.audience.clone() })
    }

    /// What a token says that is signed by a known key, for this server, and valid now.
    pub async fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let header = decode_header(token).map_err(|error| self.refusal(error.kind(), None))?;
        let key = match &self.keys {
            Keys::One(key) => key.clone(),
            Keys::Set(set) => set.key(header.kid.as_deref()).await?,
        };
        let claims = decode::<Claims>(token, &key.key, &self.rules(key.algorithm));
        Ok(claims.map_err(|error| self.refusal(error.kind(), Some(key.algorithm)))?.claims)
    }

    fn rules(&self, algorithm: Algorithm) -> Validation {
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY.as_secs();
        rules.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        // Without one of ours, a token for any audience is for somebody else (RFC 7519, 4.1.3).
        if let Some(audience) = &self.audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        rules.set_required_spec_claims(&required);
        rules
    }

    fn refusal(&self, kind: &ErrorKind, algorithm: Option<Algorithm>) -> Refusal {
        Refusal::Invalid(match kind {
            ErrorKind::ExpiredSignature => "the token has expired".into(),
            ErrorKind::ImmatureSignature => "the token is not valid yet (`nbf`)".into(),
            ErrorKind::InvalidIssuer => "the token is of another issuer (`iss`)".into(),
            ErrorKind::InvalidAudience if self.audience.is_none() => {
                "the token is for a certain audience (`aud`), and this server has no name (JWT_AUDIENCE)"
                    .into()
            }
            ErrorKind::InvalidAudience => "the token is for another audience (`aud`)".into(),
            ErrorKind::InvalidSignature => {
                "the token's signature is not of the key that this server knows".into()
            }
            ErrorKind::MissingRequiredClaim(claim) => format!("the token lacks the claim `{claim}`"),
            ErrorKind::InvalidClaimFormat(claim) => format!("the token's claim `{claim}` cannot be read"),
            ErrorKind::InvalidAlgorithm => {
                let wanted = algorithm.map_or("another algorithm".into(), |known| format!("{known:?}"));
                format!("the token is not signed by {wanted}, which this server's key is for")
            }
            _ => "what was sent is neither a key of ragway nor a JSON Web Token that can be read".into(),
        })
    }
}

impl From<NoKey> for Refusal {
    fn from(error: NoKey) -> Self {
        match error {
            NoKey::Unknown(_) | NoKey::Unnamed => Refusal::Invalid(error.to_string()),
            NoKey::Unreadable => Refusal::Unavailable(error.to_string()),
        }
    }
}

async fn key_set(source: &KeySetSource) -> Result<Arc<KeySet>, AccessError> {
    let set = KeySet::new(source, PACE).map_err(|error| AccessError(format!("JWT_JWKS: {error}")))?;
    match (set.refresh().await, source) {
        (Some(error), KeySetSource::File(_)) => Err(AccessError(format!("JWT_JWKS: {error}"))),
        // It is in the log, and tried again when a token comes.
        (Some(_), KeySetSource::Url(_)) | (None, _) => Ok(set),
    }
}

fn public_key(key: &PublicKey) -> Result<VerifyingKey, AccessError> {
    let (origin, pem) = match key {
        PublicKey::Pem(pem) => ("JWT_PUBLIC_KEY".to_owned(), pem.clone()),
        PublicKey::File(path) => (format!("JWT_PUBLIC_KEY: {}", path.display()), read(path)?),
    };
    let failed = |reason: String| AccessError(format!("{origin}: {reason}"));
    if pem.contains("PRIVATE KEY-----") {
        return Err(failed("is a private key; give the public one (`openssl pkey -pubout`)".into()));
    }
    let unreadable = || failed("is no public RSA or P-256 key in PEM (`-----BEGIN PUBLIC KEY-----`)".into());
    if !pem.contains("PUBLIC KEY-----") {
        return Err(unreadable());
    }
    let rsa = DecodingKey::from_rsa_pem(pem.as_bytes()).map(|key| (key, Algorithm::RS256));
    let found = rsa.or_else(|_| DecodingKey::from_ec_pem(pem.as_bytes()).map(|key| (key, Algorithm::ES256)));
    let (key, algorithm) = found.map_err(|_| unreadable())?;
    VerifyingKey::new(key, algorithm).map_err(failed)
}

fn read(path: &Path) -> Result<String, AccessError> {
    fs::read_to_string(path)
        .map_err(|error| AccessError(format!("JWT_PUBLIC_KEY: {}: {error}", path.display())))
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    pub subject: &'a str,
    /// Absent: the default tenant.
    pub tenant: Option<&'a str>,
    pub permissions: Permissions,
    pub lifetime: Duration,
}

/// Signs a token with `JWT_SECRET`.
pub fn mint(settings: &TokenSettings, token: &NewToken<'_>) -> Result<SecretString, AccessError> {
    let TokenKey::Secret(secret) = &settings.key else {
        return Err(AccessError("tokens are made with JWT_SECRET; a public key can only check them".into()));
    };
    signatures::install();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = MintedClaims {
        sub: token.subject,
        iat: now.as_secs(),
        exp: (now + token.lifetime).as_secs(),
        iss: settings.issuer.as_deref(),
        aud: settings.audience.as_deref(),
        tenant_id: token.tenant,
        permissions: token.permissions.iter().map(Permission::name).collect(),
    };
    let failed = |error: jsonwebtoken::errors::Error| AccessError(format!("the token: {error}"));
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes()).map_err(failed)?;
    encode(&Header::new(Algorithm::HS256), &claims, &key).map(SecretString::from).map_err(failed)
}

#[derive(Serialize)]
struct MintedClaims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    permissions: Vec<&'static str>,
}
