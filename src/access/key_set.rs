//! Public keys of whoever issues tokens: a JSON Web Key Set (RFC 7517) in a file or behind a URL.
//!
//! Issuers change their keys: a token that names an unknown one makes the set be read again, at most once in
//! [`Pace::pause`], whoever asks. Keys that are known are used meanwhile.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::tokens::VerifyingKey;
use crate::{config::KeySetSource, tls};

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Real sets have a few kilobytes.
const MAX_BYTES: usize = 1 << 20;

/// How often the set is read.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two attempts at least.
    pub pause: Duration,
    /// After which it is looked whether the issuer has withdrawn a key.
    pub max_age: Duration,
}

/// The pace of a server.
pub const PACE: Pace = Pace { pause: Duration::from_secs(10), max_age: Duration::from_secs(600) };

/// The keys, read again when they have to be.
pub struct KeySet {
    source: Source,
    pace: Pace,
    known: RwLock<Known>,
    /// When the set was last tried to be read. Whoever reads holds it, the others wait and find what was read.
    tried: Mutex<Option<Instant>>,
}

enum Source {
    File(PathBuf),
    Url { client: reqwest::Client, url: Url },
}

#[derive(Default, Clone)]
struct Known {
    keys: Arc<[NamedKey]>,
    read: Option<Instant>,
}

struct NamedKey {
    id: Option<String>,
    key: VerifyingKey,
}

/// Why there is no key for a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// The token's fault.
    #[error("the token names the key `{0}`, which its issuer does not have")]
    Unknown(String),
    /// The token's fault.
    #[error("the token names no key (`kid`), and its issuer has several")]
    Unnamed,
    /// The issuer's fault, or the network's.
    #[error("the keys of the token's issuer cannot be read at the moment; try again shortly")]
    Unreadable,
}

impl KeySet {
    /// Nothing is read yet.
    pub fn new(source: &KeySetSource, pace: Pace) -> reqwest::Result<Arc<Self>> {
        let source = match source {
            KeySetSource::File(path) => Source::File(path.clone()),
            KeySetSource::Url(url) => {
                tls::install();
                let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).build()?;
                Source::Url { client, url: url.clone() }
            }
        };
        let (known, tried) = (RwLock::default(), Mutex::new(None));
        Ok(Arc::new(Self { source, pace, known, tried }))
    }

    /// The key of this `kid`, or the only one.
    pub async fn key(self: &Arc<Self>, id: Option<&str>) -> Result<VerifyingKey, NoKey> {
        if let Ok(key) = self.find(id) {
            if self.is_old() {
                let set = Arc::clone(self);
                tokio::spawn(async move { set.refresh().await });
            }
            return Ok(key);
        }
        self.refresh().await;
        self.find(id)
    }

    /// Reads the set unless that was tried a moment ago; says why it could not be.
    pub async fn refresh(&self) -> Option<String> {
        let mut tried = self.tried.lock().await;
        if tried.is_some_and(|at| at.elapsed() < self.pace.pause) {
            return None;
        }
        let read = self.read().await;
        *tried = Some(Instant::now());
        match read {
            Ok(keys) => {
                let known = Known { keys: keys.into(), read: Some(Instant::now()) };
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
                None
            }
            Err(error) => {
                tracing::warn!(error, "JWT_JWKS: the issuer's keys cannot be read: {error}");
                Some(error)
            }
        }
    }

    /// Whether the set should be read again and nobody is about to.
    fn is_old(&self) -> bool {
        let old = self.known().read.is_some_and(|read| read.elapsed() >= self.pace.max_age);
        let idle =
            || self.tried.try_lock().is_ok_and(|at| at.is_none_or(|at| at.elapsed() >= self.pace.pause));
        old && idle()
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, id: Option<&str>) -> Result<VerifyingKey, NoKey> {
        let known = self.known();
        let Some(id) = id else {
            return match &*known.keys {
                [] => Err(NoKey::Unreadable),
                [only] => Ok(only.key.clone()),
                _ => Err(NoKey::Unnamed),
            };
        };
        match known.keys.iter().find(|key| key.id.as_deref() == Some(id)) {
            Some(found) => Ok(found.key.clone()),
            None if known.read.is_none() => Err(NoKey::Unreadable),
            None => Err(NoKey::Unknown(id.chars().take(100).collect())),
        }
    }

    async fn read(&self) -> Result<Vec<NamedKey>, String> {
        let text = match &self.source {
            Source::File(path) => {
                let read = tokio::fs::read(path).await;
                read.map_err(|error| format!("{}: {error}", path.display()))?
            }
            Source::Url { client, url } => fetch(client, url).await?,
        };
        parse(&text)
    }
}

async fn fetch(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, String> {
    // A URL may hold a password.
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let mut response =
        client.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BYTES {
            return Err(format!("the answer is longer than {MAX_BYTES} bytes"));
        }
    }
    Ok(body)
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The keys that can sign tokens; a set may hold others, for other uses and of other kinds.
fn parse(text: &[u8]) -> Result<Vec<NamedKey>, String> {
    let set: Set =
        serde_json::from_slice(text).map_err(|error| format!("is no JSON Web Key Set: {error}"))?;
    let keys: Vec<NamedKey> = set.keys.into_iter().filter_map(usable).collect();
    match keys.is_empty() {
        true => Err("the set has no key for RS256 (2048 bits or more) or ES256".into()),
        false => Ok(keys),
    }
}

/// The kind of the key fixes the algorithm; a shared secret has no place in a public set.
fn usable(key: Value) -> Option<NamedKey> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let fits = jwk.common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm));
    let key = VerifyingKey::new(DecodingKey::from_jwk(&jwk).ok()?, algorithm).ok()?;
    (signs && fits).then_some(NamedKey { id: jwk.common.key_id, key })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::method};

    use super::*;

    /// A key with this id; whether it is a point of the curve matters to no test here.
    fn key(id: &str) -> Value {
        let number = "A".repeat(43);
        json!({"kty": "EC", "crv": "P-256", "kid": id, "x": number, "y": number})
    }

    async fn answer(server: &MockServer, response: ResponseTemplate) {
        server.reset().await;
        Mock::given(method("GET")).respond_with(response).mount(server).await;
    }

    const LONG: Duration = Duration::from_secs(3600);

    fn set(server: &MockServer, pause: Duration, max_age: Duration) -> Arc<KeySet> {
        KeySet::new(&KeySetSource::Url(server.uri().parse().unwrap()), Pace { pause, max_age }).unwrap()
    }

    async fn fetches(server: &MockServer) -> usize {
        server.received_requests().await.unwrap().len()
    }

    #[tokio::test]
    async fn a_key_that_came_later_is_found_and_known_ones_are_not_asked_for() {
        let server = MockServer::start().await;
        answer(&server, ResponseTemplate::new(200).set_body_json(json!({"keys": [key("old")]}))).await;
        let set = set(&server, Duration::ZERO, LONG);
        for _ in 0..3 {
            set.key(Some("old")).await.unwrap();
        }
        assert_eq!(fetches(&server).await, 1);
        answer(&server, ResponseTemplate::new(200).set_body_json(json!({"keys": [key("old"), key("new")]})))
            .await;
        set.key(Some("new")).await.unwrap();
        assert_eq!(fetches(&server).await, 1);
        assert_eq!(set.key(None).await.unwrap_err(), NoKey::Unnamed);
    }

    #[tokio::test]
    async fn unknown_keys_make_nobody_fetch_more_than_once_in_a_pause() {
        let server = MockServer::start().await;
        answer(&server, ResponseTemplate::new(200).set_body_json(json!({"keys": [key("a")]}))).await;
        let set = set(&server, LONG, LONG);
        let asked = (0..20).map(|n| {
            let set = Arc::clone(&set);
            tokio::spawn(async move { set.key(Some(&format!("made up {n}"))).await })
        });
        for asked in asked.collect::<Vec<_>>() {
            assert!(matches!(asked.await.unwrap(), Err(NoKey::Unknown(_))));
        }
        assert_eq!(fetches(&server).await, 1);
        set.key(Some("a")).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_that_was_withdrawn_ends_in_time() {
        let server = MockServer::start().await;
        answer(&server, ResponseTemplate::new(200).set_body_json(json!({"keys": [key("old")]}))).await;
        let set = set(&server, Duration::ZERO, Duration::ZERO);
        set.key(Some("old")).await.unwrap();
        answer(&server, ResponseTemplate::new(200).set_body_json(json!({"keys": [key("new")]}))).await;
        for _ in 0..1000 {
            // The first of these are still let in, while the set is read behind them.
            if set.key(Some("old")).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the key is still believed");
    }

    #[tokio::test]
    async fn an_issuer_that_fails_leaves_the_keys_that_are_known() {
        let server = MockServer::start().await;
        answer(&server, ResponseTemplate::new(500)).await;
        let set = set(&server, Duration::ZERO, LONG);
        assert_eq!(set.key(Some("a")).await.unwrap_err(), NoKey::Unreadable);
        answer(&server, ResponseTemplate::new(200).set_body_json(json!({"keys": [key("a")]}))).await;
        set.key(Some("a")).await.unwrap();
        for broken in [ResponseTemplate::new(500), ResponseTemplate::new(200).set_body_string("{}")] {
            answer(&server, broken).await;
            assert!(matches!(set.key(Some("b")).await, Err(NoKey::Unknown(_))));
            set.key(Some("a")).await.unwrap();
        }
        let endless = ResponseTemplate::new(200).set_body_bytes(vec![b' '; MAX_BYTES + 1]);
        answer(&server, endless).await;
        assert!(set.refresh().await.unwrap().contains("longer than"));
    }

    #[test]
    fn keys_of_other_kinds_and_uses_are_left_out() {
        let number = "A".repeat(43);
        let rsa = |bytes: usize| json!({"kty": "RSA", "kid": "rsa", "n": "A".repeat(bytes * 4 / 3 + 1), "e": "AQAB"});
        let with = |mut key: Value, name: &str, value: &str| {
            key[name] = value.into();
            key
        };
        for other in [
            json!({"kty": "oct", "kid": "shared", "k": number}),
            json!({"kty": "EC", "crv": "P-384", "kid": "p384", "x": number, "y": number}),
            json!({"kty": "EC", "crv": "secp256k1", "kid": "coin", "x": number, "y": number}),
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": number}),
            json!({"kty": "new"}),
            with(key("enc"), "use", "enc"),
            with(key("es384"), "alg", "ES384"),
            rsa(128),
        ] {
            assert!(parse(&serde_json::to_vec(&json!({"keys": [other]})).unwrap()).is_err(), "{other}");
            let both = json!({"keys": [other, with(with(key("good"), "use", "sig"), "alg", "ES256")]});
            let kept = parse(&serde_json::to_vec(&both).unwrap()).unwrap();
            assert_eq!(
                kept.iter().map(|key| key.id.as_deref()).collect::<Vec<_>>(),
                [Some("good")],
                "{other}"
            );
        }
        assert_eq!(parse(&serde_json::to_vec(&json!({"keys": [rsa(257)]})).unwrap()).unwrap().len(), 1);
    }
}
