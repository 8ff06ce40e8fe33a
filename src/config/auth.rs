//! Who has to say who they are, and by which key tokens are believed.

use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::ConfigError;

/// Everybody needs a key; a token where there are settings for those.
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    pub tokens: Option<TokenSettings>,
}

/// Which JSON Web Tokens are believed.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    pub key: TokenKey,
    /// `JWT_ISSUER`: the `iss` that a token must have; absent: any.
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`: what the `aud` of a token must name; absent: a token must have none.
    pub audience: Option<String>,
}

/// What tokens are signed with; it fixes the algorithm.
#[derive(Debug, Clone)]
pub enum TokenKey {
    /// `JWT_SECRET`: HS256.
    Secret(SecretString),
    /// `JWT_PUBLIC_KEY`: RS256 or ES256, as the key is.
    PublicKey(PublicKey),
    /// `JWT_JWKS`: RS256 or ES256, as the key is that a token names.
    KeySet(KeySetSource),
}

/// A public key in PEM.
#[derive(Debug, Clone)]
pub enum PublicKey {
    Pem(String),
    File(PathBuf),
}

/// Where a JSON Web Key Set (RFC 7517) is.
#[derive(Debug, Clone)]
pub enum KeySetSource {
    File(PathBuf),
    Url(Url),
}

/// Shortest secret: the length of what HS256 makes of it (RFC 7518, 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// Reads `RAGWAY_AUTH` and `JWT_…`; none: nobody has to say who they are.
pub(super) fn auth(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<AuthSettings>, ConfigError> {
    let tokens = tokens(get)?;
    match (get("RAGWAY_AUTH").as_deref(), tokens) {
        (None, None) | (Some("off"), None) => Ok(None),
        (None | Some("required"), tokens) => Ok(Some(AuthSettings { tokens })),
        (Some("off"), Some(_)) => Err(ConfigError::new(
            "RAGWAY_AUTH",
            "is `off` although a key for tokens is set (JWT_SECRET, JWT_PUBLIC_KEY or JWT_JWKS); unset one of both",
        )),
        (Some(other), _) => {
            Err(ConfigError::new("RAGWAY_AUTH", format!("`{other}` is unknown; possible: required, off")))
        }
    }
}

fn tokens(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<TokenSettings>, ConfigError> {
    let keys = [
        get("JWT_SECRET").map(secret).transpose()?,
        get("JWT_PUBLIC_KEY").map(public_key),
        get("JWT_JWKS").map(key_set).transpose()?,
    ];
    let mut keys = keys.into_iter().flatten();
    let (issuer, audience) = (get("JWT_ISSUER"), get("JWT_AUDIENCE"));
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(Some(TokenSettings { key, issuer, audience })),
        (None, _) if issuer.is_some() || audience.is_some() => Err(ConfigError::new(
            if issuer.is_some() { "JWT_ISSUER" } else { "JWT_AUDIENCE" },
            "is set without a key; set JWT_SECRET, JWT_PUBLIC_KEY or JWT_JWKS too",
        )),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(ConfigError::new(
            "JWT_SECRET, JWT_PUBLIC_KEY, JWT_JWKS",
            "only one of them can be set: it fixes the algorithm that tokens are signed with",
        )),
    }
}

fn secret(value: String) -> Result<TokenKey, ConfigError> {
    if value.len() < MIN_SECRET_BYTES {
        return Err(ConfigError::new(
            "JWT_SECRET",
            format!(
                "has {} bytes and needs {MIN_SECRET_BYTES} at least; `openssl rand -base64 48` makes a good one",
                value.len()
            ),
        ));
    }
    Ok(TokenKey::Secret(value.into()))
}

fn public_key(value: String) -> TokenKey {
    TokenKey::PublicKey(match value.trim_start().starts_with("-----BEGIN") {
        true => PublicKey::Pem(value),
        false => PublicKey::File(value.into()),
    })
}

fn key_set(value: String) -> Result<TokenKey, ConfigError> {
    if !value.starts_with("https://") && !value.starts_with("http://") {
        return Ok(TokenKey::KeySet(KeySetSource::File(value.into())));
    }
    let url = Url::parse(&value).map_err(|error| ConfigError::new("JWT_JWKS", error.to_string()))?;
    Ok(TokenKey::KeySet(KeySetSource::Url(url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<AuthSettings>, String> {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        auth(&get).map_err(|error| error.to_string())
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_key_for_tokens_asks_everybody() {
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[("RAGWAY_AUTH", "off")]).unwrap().is_none());
        assert!(of(&[("RAGWAY_AUTH", "required")]).unwrap().unwrap().tokens.is_none());
        let settings = of(&[("JWT_SECRET", SECRET), ("JWT_AUDIENCE", "ragway")]).unwrap().unwrap();
        assert_eq!(settings.tokens.unwrap().audience.as_deref(), Some("ragway"));
        let pem = of(&[("JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----")]).unwrap().unwrap().tokens.unwrap();
        assert!(matches!(pem.key, TokenKey::PublicKey(PublicKey::Pem(_))));
        let url = of(&[("JWT_JWKS", "https://login.example/keys")]).unwrap().unwrap().tokens.unwrap();
        assert!(matches!(url.key, TokenKey::KeySet(KeySetSource::Url(_))));
        let file = of(&[("JWT_JWKS", "/etc/keys.json")]).unwrap().unwrap().tokens.unwrap();
        assert!(matches!(file.key, TokenKey::KeySet(KeySetSource::File(_))));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_no_secret_is_shown() {
        for (variables, named) in [
            (&[("JWT_SECRET", "sekret")][..], "JWT_SECRET: has 6 bytes"),
            (&[("JWT_SECRET", SECRET), ("JWT_JWKS", "keys.json")], "only one of them"),
            (&[("JWT_SECRET", SECRET), ("RAGWAY_AUTH", "off")], "RAGWAY_AUTH: is `off` although"),
            (&[("RAGWAY_AUTH", "maybe")], "`maybe` is unknown"),
            (&[("JWT_AUDIENCE", "ragway")], "JWT_AUDIENCE: is set without a key"),
            (&[("JWT_JWKS", "https://")], "JWT_JWKS"),
        ] {
            let error = of(variables).unwrap_err();
            assert!(error.contains(named) && !error.contains("sekret") && !error.contains(SECRET), "{error}");
        }
        let shown = format!("{:?}", of(&[("JWT_SECRET", SECRET)]).unwrap());
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
