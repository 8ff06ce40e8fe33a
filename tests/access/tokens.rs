//! Tokens for tests. They are made here, not by what checks them: RS256 by OpenSSL, the others by `ring`.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Now and some seconds, as tokens count time.
pub fn in_seconds(seconds: i64) -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + seconds
}

/// A token with this header and these claims, signed by `sign`.
pub fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| base64url(&serde_json::to_vec(value).unwrap());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64url(&signature))
}

/// HMAC with SHA-256 over the message.
pub fn hmac_sha256(secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |message| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

pub fn hs256(secret: &str, claims: &Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, hmac_sha256(secret.as_bytes()))
}

/// A pair of keys for RS256, made by OpenSSL.
pub struct Rsa {
    folder: tempfile::TempDir,
}

impl Rsa {
    pub fn new(bits: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rsa = Self { folder };
        let bits = format!("rsa_keygen_bits:{bits}");
        let private = rsa.private();
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits, "-out", private.to_str().unwrap()], b"");
        rsa
    }

    pub fn private(&self) -> PathBuf {
        self.folder.path().join("private.pem")
    }

    pub fn public_pem(&self) -> String {
        let private = self.private();
        let pem = openssl(&["pkey", "-in", private.to_str().unwrap(), "-pubout"], b"");
        String::from_utf8(pem).unwrap()
    }

    pub fn jwk(&self, id: &str) -> Value {
        let private = self.private();
        let shown = openssl(&["rsa", "-in", private.to_str().unwrap(), "-noout", "-modulus"], b"");
        let shown = String::from_utf8(shown).unwrap();
        let hex = shown.trim().strip_prefix("Modulus=").unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        json!({"kty": "RSA", "kid": id, "use": "sig", "alg": "RS256", "n": base64url(&bytes), "e": "AQAB"})
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let private = self.private();
        openssl(&["dgst", "-sha256", "-sign", private.to_str().unwrap()], message)
    }

    pub fn token(&self, header: &Value, claims: &Value) -> String {
        signed(header, claims, |message| self.sign(message))
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tests need `openssl`");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// A pair of keys for ES256.
pub struct Ec(EcdsaKeyPair);

impl Ec {
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self(pair)
    }

    pub fn public_pem(&self) -> String {
        // SubjectPublicKeyInfo of P-256 (RFC 5480) before the point.
        let mut der = vec![
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        der.extend_from_slice(self.0.public_key().as_ref());
        let text = STANDARD.encode(der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    pub fn jwk(&self, id: &str) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": id, "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
    }

    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let sign = |message: &[u8]| self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        signed(header, claims, sign)
    }
}

/// A file with this text, which goes with the folder.
pub fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, text).unwrap();
    (folder, path)
}
