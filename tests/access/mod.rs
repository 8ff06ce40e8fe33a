//! Who may do what: real tokens of each algorithm, keys, and everything that is not believed.

mod audit;
mod endpoints;
mod keys;
mod logs;
mod tokens;

use ragway::config::{AuthSettings, KeySetSource, PublicKey, TokenKey, TokenSettings};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::method};

use crate::harness::{TestApp, execute, good, problem};
use tokens::{Ec, Rsa, file, hmac_sha256, hs256, in_seconds, signed};

pub const SECRET: &str = "a secret of the tests that is long enough for HS256";

/// Settings for tokens by one key.
fn believing(key: TokenKey) -> AuthSettings {
    AuthSettings { tokens: Some(TokenSettings { key, issuer: None, audience: None }) }
}

fn by_secret() -> AuthSettings {
    believing(TokenKey::Secret(SECRET.into()))
}

async fn start(auth: AuthSettings) -> TestApp {
    TestApp::with(|setup| setup.auth = Some(auth)).await
}

/// Claims of somebody who may search, with these changed; null takes one away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({"sub": "ada", "exp": in_seconds(600), "permissions": ["search"]});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn listing(app: &TestApp) -> RequestBuilder {
    app.get("/api/v1/collections")
}

async fn with_token(app: &TestApp, token: &str) -> Response {
    listing(app).bearer_auth(token).send().await.unwrap()
}

async fn accepted(app: &TestApp, token: &str) {
    good(with_token(app, token).await).await;
}

/// Refused as a token that is not believed, with these words.
async fn refused(app: &TestApp, token: &str, words: &str) {
    let response = with_token(app, token).await;
    let challenge = response.headers().get("www-authenticate").cloned();
    let told = problem(response, 401, "invalid_credentials").await;
    assert_eq!(challenge.unwrap(), "Bearer realm=\"ragway\", error=\"invalid_token\"");
    assert!(told["detail"].as_str().unwrap().contains(words), "{words}: {told}");
}

#[tokio::test]
async fn hs256_by_the_secret_is_believed_and_nothing_else() {
    let app = start(by_secret()).await;
    let good_token = hs256(SECRET, &claims(json!({})));
    accepted(&app, &good_token).await;

    refused(&app, &hs256("another secret that is long enough for it too", &claims(json!({}))), "signature")
        .await;
    // A claim that was changed after it was signed.
    let parts: Vec<&str> = good_token.split('.').collect();
    let richer = hs256(SECRET, &claims(json!({"permissions": ["search", "admin"]})));
    let richer = richer.split('.').nth(1).unwrap();
    refused(&app, &format!("{}.{richer}.{}", parts[0], parts[2]), "signature").await;

    let unsigned = |algorithm: &str| signed(&json!({"alg": algorithm}), &claims(json!({})), |_| Vec::new());
    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        refused(&app, &unsigned(algorithm), "JSON Web Token that can be read").await;
    }
    let none = unsigned("none");
    refused(&app, none.trim_end_matches('.'), "JSON Web Token that can be read").await;
    refused(&app, &unsigned("HS256"), "signature").await;
    for algorithm in ["HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA"] {
        let token = signed(&json!({"alg": algorithm}), &claims(json!({})), hmac_sha256(SECRET.as_bytes()));
        refused(&app, &token, "not signed by").await;
    }
    let critical = json!({"alg": "HS256", "crit": ["exp2"], "exp2": 1});
    refused(&app, &signed(&critical, &claims(json!({})), hmac_sha256(SECRET.as_bytes())), "").await;
    for rubbish in ["a", "a.b", "a.b.c", "a.b.c.d", "..", "ey.ey.ey", &"a.".repeat(5000)] {
        refused(&app, rubbish, "JSON Web Token that can be read").await;
    }
}

#[tokio::test]
async fn a_token_is_valid_for_its_time_only() {
    let app = start(by_secret()).await;
    let with = |changes: Value| hs256(SECRET, &claims(changes));
    refused(&app, &with(json!({"exp": in_seconds(-60)})), "has expired").await;
    refused(&app, &with(json!({"exp": 0})), "has expired").await;
    refused(&app, &with(json!({"exp": null})), "lacks the claim `exp`").await;
    refused(&app, &with(json!({"exp": "tomorrow"})), "`exp`").await;
    refused(&app, &with(json!({"nbf": in_seconds(120)})), "not valid yet").await;
    refused(&app, &with(json!({"nbf": "tomorrow"})), "`nbf`").await;
    accepted(&app, &with(json!({"nbf": in_seconds(-10)}))).await;
    // The clocks may differ a little.
    accepted(&app, &with(json!({"exp": in_seconds(-10)}))).await;
    accepted(&app, &with(json!({"nbf": in_seconds(10)}))).await;
}

#[tokio::test]
async fn a_token_is_for_this_server_and_of_its_issuer() {
    let with = |changes: Value| hs256(SECRET, &claims(changes));
    let app = start(by_secret()).await;
    accepted(&app, &with(json!({"iss": "whoever"}))).await;
    refused(&app, &with(json!({"aud": "ragway"})), "JWT_AUDIENCE").await;

    let mut settings = by_secret();
    let tokens = settings.tokens.as_mut().unwrap();
    (tokens.issuer, tokens.audience) = (Some("https://login.example".into()), Some("ragway".into()));
    let app = start(settings).await;
    let fits = json!({"iss": "https://login.example", "aud": "ragway"});
    let but = |name: &str, value: Value| {
        let mut changes = fits.clone();
        changes[name] = value;
        with(changes)
    };
    accepted(&app, &with(fits.clone())).await;
    accepted(&app, &but("aud", json!(["other", "ragway"]))).await;
    for other in [json!("other"), json!(["other"]), json!("RAGWAY"), json!("")] {
        refused(&app, &but("aud", other), "another audience").await;
    }
    refused(&app, &but("aud", json!(null)), "lacks the claim `aud`").await;
    refused(&app, &but("iss", json!("https://evil.example")), "another issuer").await;
    refused(&app, &but("iss", json!(null)), "lacks the claim `iss`").await;
}

#[tokio::test]
async fn rs256_by_the_public_key_cannot_be_confused_with_hs256() {
    let rsa = Rsa::new(2048);
    let pem = rsa.public_pem();
    let app = start(believing(TokenKey::PublicKey(PublicKey::Pem(pem.clone())))).await;
    let header = json!({"alg": "RS256"});
    accepted(&app, &rsa.token(&header, &claims(json!({})))).await;
    refused(&app, &Rsa::new(2048).token(&header, &claims(json!({}))), "signature").await;
    // Whoever takes the public key for a secret would believe these.
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    for secret in [pem.as_str(), pem.trim(), body.as_str()] {
        refused(&app, &hs256(secret, &claims(json!({}))), "not signed by RS256").await;
        let lying = signed(&header, &claims(json!({})), hmac_sha256(secret.as_bytes()));
        refused(&app, &lying, "signature").await;
    }
    for algorithm in ["RS384", "RS512", "PS256", "ES256"] {
        refused(&app, &rsa.token(&json!({"alg": algorithm}), &claims(json!({}))), "not signed by RS256")
            .await;
    }
    refused(&app, &signed(&json!({"alg": "none"}), &claims(json!({})), |_| Vec::new()), "").await;
    refused(&app, &rsa.token(&header, &claims(json!({"exp": in_seconds(-60)}))), "has expired").await;
    // A key that comes with the token proves nothing.
    let own = Rsa::new(2048);
    let bringing = json!({"alg": "RS256", "jwk": own.jwk("own"), "kid": "own"});
    refused(&app, &own.token(&bringing, &claims(json!({}))), "signature").await;
}

#[tokio::test]
async fn es256_by_the_public_key_of_a_file() {
    let (ec, other) = (Ec::new(), Ec::new());
    let (_folder, path) = file(&ec.public_pem());
    let app = start(believing(TokenKey::PublicKey(PublicKey::File(path)))).await;
    let header = json!({"alg": "ES256"});
    accepted(&app, &ec.token(&header, &claims(json!({})))).await;
    refused(&app, &other.token(&header, &claims(json!({}))), "signature").await;
    refused(&app, &hs256(&ec.public_pem(), &claims(json!({}))), "not signed by ES256").await;
    // A signature of zeros is valid where nobody looks.
    refused(&app, &signed(&header, &claims(json!({})), |_| vec![0; 64]), "signature").await;
}

#[tokio::test]
async fn a_key_set_tells_by_the_kid_which_key_and_algorithm() {
    let (rsa, ec) = (Rsa::new(2048), Ec::new());
    let set =
        json!({"keys": [rsa.jwk("one"), ec.jwk("two"), {"kty": "oct", "kid": "three", "k": "c2VjcmV0"}]});
    let (_folder, path) = file(&set.to_string());
    let app = start(believing(TokenKey::KeySet(KeySetSource::File(path)))).await;
    accepted(&app, &rsa.token(&json!({"alg": "RS256", "kid": "one"}), &claims(json!({})))).await;
    accepted(&app, &ec.token(&json!({"alg": "ES256", "kid": "two"}), &claims(json!({})))).await;
    refused(
        &app,
        &ec.token(&json!({"alg": "ES256", "kid": "one"}), &claims(json!({}))),
        "not signed by RS256",
    )
    .await;
    refused(
        &app,
        &rsa.token(&json!({"alg": "RS256", "kid": "two"}), &claims(json!({}))),
        "not signed by ES256",
    )
    .await;
    refused(&app, &rsa.token(&json!({"alg": "RS256", "kid": "none"}), &claims(json!({}))), "`none`").await;
    refused(&app, &rsa.token(&json!({"alg": "RS256"}), &claims(json!({}))), "names no key").await;
    let shared = signed(&json!({"alg": "HS256", "kid": "three"}), &claims(json!({})), hmac_sha256(b"secret"));
    refused(&app, &shared, "`three`").await;
}

#[tokio::test]
async fn a_key_set_behind_a_url_is_fetched_and_its_absence_is_not_the_clients_fault() {
    let ec = Ec::new();
    let header = json!({"alg": "ES256", "kid": "two"});
    let issuer = MockServer::start().await;
    let set = ResponseTemplate::new(200).set_body_json(json!({"keys": [ec.jwk("two")]}));
    Mock::given(method("GET")).respond_with(set).mount(&issuer).await;
    let source = |url: &str| believing(TokenKey::KeySet(KeySetSource::Url(url.parse().unwrap())));
    let app = start(source(&issuer.uri())).await;
    accepted(&app, &ec.token(&header, &claims(json!({})))).await;
    accepted(&app, &ec.token(&json!({"alg": "ES256"}), &claims(json!({})))).await;

    let app = start(source("http://127.0.0.1:1/keys")).await;
    let response = with_token(&app, &ec.token(&header, &claims(json!({})))).await;
    assert!(response.headers().contains_key("retry-after"));
    problem(response, 503, "keys_unavailable").await;
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_told_at_the_start() {
    let app = TestApp::start().await;
    let told = async |key: TokenKey| {
        let made = ragway::access::Access::new(Some(&believing(key)), app.rag.store()).await;
        made.err().expect("must be refused").to_string()
    };
    let pem = |text: String| TokenKey::PublicKey(PublicKey::Pem(text));
    assert!(told(pem(Rsa::new(1024).public_pem())).await.contains("2048 bits"));
    let private = std::fs::read_to_string(Rsa::new(2048).private()).unwrap();
    let error = told(pem(private.clone())).await;
    assert!(
        error.contains("is a private key") && !error.contains(private.lines().nth(1).unwrap()),
        "{error}"
    );
    assert!(
        told(pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----".into()))
            .await
            .contains("in PEM")
    );
    let missing = TokenKey::PublicKey(PublicKey::File("/nowhere/key.pem".into()));
    assert!(told(missing).await.contains("/nowhere/key.pem"));
    let (_folder, path) = file("{\"keys\": []}");
    assert!(told(TokenKey::KeySet(KeySetSource::File(path))).await.contains("no key for RS256"));
}

#[tokio::test]
async fn permissions_and_tenant_come_from_the_claims() {
    let app = start(by_secret()).await;
    execute(
        &app.admin_url,
        "INSERT INTO tenants (id, name) VALUES ('00000000-0000-7000-8000-0000000000aa', 'acme')",
    )
    .await;
    let with = |changes: Value| hs256(SECRET, &claims(changes));
    let ingest = json!({"permissions": ["ingest"]});
    let stored =
        app.post("/api/v1/documents").bearer_auth(with(ingest)).json(&json!({"content": "a secret"}));
    good(stored.send().await.unwrap()).await;
    let total = async |token: String| {
        let response = app.get("/api/v1/documents").bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    assert_eq!(total(with(json!({}))).await.1["total"], 1);
    // OAuth's way to say it.
    assert_eq!(total(with(json!({"permissions": null, "scope": "openid search"}))).await.1["total"], 1);
    // acme has no collection yet, and sees nobody else's.
    for tenant in ["acme", "00000000-0000-7000-8000-0000000000aa"] {
        let (status, told) = total(with(json!({"tenant_id": tenant}))).await;
        assert_eq!((status, &told["code"]), (404, &json!("unknown_collection")), "{told}");
    }
    for tenant in ["ACME", "", "a\u{0}b", "00000000-0000-7000-8000-0000000000ab"] {
        let (status, told) = total(with(json!({"tenant_id": tenant}))).await;
        assert_eq!((status, &told["code"]), (403, &json!("unknown_tenant")), "{told}");
        assert!(told["detail"].as_str().unwrap().contains("tenant_id"));
    }
    for nothing in [json!(null), json!([]), json!(["Search", "searching", "*"])] {
        let (status, told) = total(with(json!({"permissions": nothing}))).await;
        assert_eq!((status, &told["code"]), (403, &json!("missing_permission")), "{told}");
    }
    refused(&app, &with(json!({"permissions": "search"})), "can be read").await;
}
