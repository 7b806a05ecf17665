#![allow(clippy::unwrap_used, clippy::panic)]
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// A key of an issuer.
struct Signer {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Value,
}

impl Signer {
    fn new(kid: &'static str, algorithm: Algorithm) -> Self {
        if algorithm == Algorithm::EdDSA {
            let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            // RFC 8410, section 7: without the public key, which the reader of the private one does not take.
            let mut der =
                b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
            der.extend_from_slice(&pair.serialize_der()[16..48]);
            let x = BASE64.encode(pair.public_key_raw());
            return Self {
                kid,
                algorithm,
                key: EncodingKey::from_ed_der(&der),
                public: json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid}),
            };
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        jwk.common.key_id = Some(kid.to_owned());
        Self {
            kid,
            algorithm,
            key,
            public: serde_json::to_value(jwk).unwrap(),
        }
    }

    fn published(&self) -> Value {
        self.public.clone()
    }

    fn header(&self) -> Header {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.to_owned());
        header
    }

    fn token(&self, claims: &Value) -> String {
        encode(&self.header(), claims, &self.key).unwrap()
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Good claims, with others laid over them; `null` takes one away.
fn claims(other: Value) -> Value {
    let mut claims =
        json!({"iss": "the-issuer", "aud": "lyss", "sub": "alice", "exp": now() + 600});
    for (name, value) in other.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn config() -> JwtConfig {
    JwtConfig {
        issuer: Some("the-issuer".into()),
        audience: vec!["lyss".into(), "lyss-test".into()],
        admin_scope: Some("lyss-admin".into()),
        ..JwtConfig::default()
    }
}

/// A verifier with a file of keys.
fn verifier(keys: &[Value]) -> (tempfile::TempDir, JwtVerifier) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, set(keys)).unwrap();
    let config = JwtConfig {
        jwks_file: Some(path),
        ..config()
    };
    (directory, JwtVerifier::start(&config).unwrap())
}

async fn refused(verifier: &JwtVerifier, token: &str) -> (ErrorKind, String) {
    let error = verifier.verify(token).await.unwrap_err();
    (error.kind(), error.message().to_owned())
}

#[tokio::test]
async fn a_good_token_names_its_user_and_scopes() {
    let (one, two) = (
        Signer::new("one", Algorithm::ES256),
        Signer::new("two", Algorithm::EdDSA),
    );
    let (_directory, verifier) = verifier(&[one.published(), two.published()]);
    for signer in [&one, &two] {
        let bearer = verifier
            .verify(&signer.token(&claims(json!({}))))
            .await
            .unwrap();
        assert_eq!(&*bearer.user_id, "alice");
        assert_eq!(bearer.scopes, Scopes::CALLER);
    }
    let several = claims(json!({"aud": ["other", "lyss-test"], "nbf": now() + 20}));
    verifier.verify(&one.token(&several)).await.unwrap();
    // Without the name of a key.
    let mut header = two.header();
    header.kid = None;
    let token = encode(&header, &claims(json!({})), &two.key).unwrap();
    verifier.verify(&token).await.unwrap();
    for (scope, is) in [
        (
            json!("openid chat usage"),
            Scopes::of_names(["chat", "usage"]),
        ),
        (json!(["embeddings"]), Scopes::of_names(["embeddings"])),
        (json!("admin"), Scopes::NONE),
        (json!("chat lyss-admin"), Scopes::ALL),
        (json!(7), Scopes::NONE),
    ] {
        let token = one.token(&claims(json!({"scope": scope})));
        assert_eq!(verifier.verify(&token).await.unwrap().scopes, is, "{scope}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_noticed() {
    let signer = Signer::new("one", Algorithm::ES256);
    let (_directory, verifier) = verifier(&[signer.published()]);
    let good = signer.token(&claims(json!({})));
    for (other, why) in [
        (json!({"exp": now() - 600}), "expired"),
        (json!({"exp": null}), "lacks"),
        (json!({"exp": "tomorrow"}), "lacks"),
        (json!({"nbf": now() + 600}), "not good yet"),
        (json!({"nbf": "never"}), "form is wrong"),
        (json!({"iss": "another"}), "issuer"),
        (json!({"iss": null}), "lacks"),
        (json!({"aud": "another"}), "somebody else"),
        (json!({"aud": null}), "lacks"),
        (json!({"sub": null}), "names no user"),
        (json!({"sub": ""}), "names no user"),
        (json!({"sub": 7}), "names no user"),
        (json!({"sub": "a\nb"}), "names no user"),
        (json!({"sub": "x".repeat(5000)}), "names no user"),
    ] {
        let (kind, message) = refused(&verifier, &signer.token(&claims(other.clone()))).await;
        let expired = why == "expired";
        let expected = if expired {
            ErrorKind::ExpiredApiKey
        } else {
            ErrorKind::InvalidApiKey
        };
        assert_eq!(kind, expected, "{other}");
        assert!(message.contains(why), "{other}: {message}");
    }

    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!()
    };
    let of = |value: Value| BASE64.encode(value.to_string());
    let mallory = of(claims(json!({"sub": "mallory"})));
    let impostor = Signer::new("one", Algorithm::ES256);
    let mut critical = signer.header();
    critical.crit = Some(vec!["b64".into()]);
    let mut with_own_key = impostor.header();
    with_own_key.jwk = Some(Jwk::from_encoding_key(&impostor.key, Algorithm::ES256).unwrap());
    with_own_key.kid = Some("mine".into());
    // Signed with the published key as if it were a shared secret.
    let public = signer.published();
    let secret = BASE64.decode(public["x"].as_str().unwrap()).unwrap();
    let mut symmetric = Header::new(Algorithm::HS256);
    symmetric.kid = Some("one".into());
    let hmac = EncodingKey::from_secret(&secret);
    for (what, token) in [
        ("another payload", format!("{header}.{mallory}.{signature}")),
        ("no signature", format!("{header}.{payload}.")),
        (
            "alg none",
            format!("{}.{payload}.", of(json!({"alg": "none", "kid": "one"}))),
        ),
        (
            "a wrong alg",
            format!(
                "{}.{payload}.{signature}",
                of(json!({"alg": "RS256", "kid": "one"}))
            ),
        ),
        (
            "hmac",
            encode(&symmetric, &claims(json!({})), &hmac).unwrap(),
        ),
        (
            "another key of that name",
            impostor.token(&claims(json!({}))),
        ),
        (
            "a key in the token",
            encode(&with_own_key, &claims(json!({})), &impostor.key).unwrap(),
        ),
        (
            "critical",
            encode(&critical, &claims(json!({})), &signer.key).unwrap(),
        ),
        ("no token", "a.b.c".into()),
        (
            "long",
            format!("{header}.{}.{signature}", "A".repeat(20_000)),
        ),
    ] {
        let (kind, message) = refused(&verifier, &token).await;
        assert_eq!(kind, ErrorKind::InvalidApiKey, "{what}");
        assert!(
            !message.contains("mallory") && !message.contains(payload),
            "{what}: {message}"
        );
    }
    verifier.verify(&good).await.unwrap();
}

/// RFC 7515, appendix A.2: a signature with RSA. Its claims lack an audience, which is looked at after the signature.
#[tokio::test]
async fn rsa_as_in_the_standard() {
    let key = json!({
        "kty": "RSA", "e": "AQAB",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-\
              SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-\
              UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2et\
              hFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    });
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
        b290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5ju\
        jGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN\
        9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywl\
        VmtVrBp0igcN_IoypGlUPQGe77Rw";
    let (_directory, verifier) = verifier(std::slice::from_ref(&key));
    let (_, message) = refused(&verifier, token).await;
    assert!(
        message.contains("lacks"),
        "the signature is right: {message}"
    );
    let (_, message) = refused(&verifier, &token.replacen("cC4", "cC5", 1)).await;
    assert!(message.contains("signature"), "{message}");
}

#[test]
fn only_keys_for_signatures_are_taken() {
    let good = Signer::new("one", Algorithm::ES256).published();
    let of = |changes: Value| {
        let mut key = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        KeySet::parse(set(&[key]).as_bytes()).is_ok()
    };
    assert!(of(json!({})) && of(json!({"use": "sig"})));
    assert!(
        !of(json!({"use": "enc"})) && !of(json!({"alg": "ES384"})) && !of(json!({"alg": "HS256"}))
    );
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"keys": []}"#,
        r#"{"keys": [7, {"kty": "new"}]}"#,
        r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#,
        r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#,
    ] {
        assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let mixed = set(&[json!({"kty": "new"}), good]);
    assert!(KeySet::parse(mixed.as_bytes()).is_ok());
}

#[tokio::test]
async fn a_new_key_is_read_when_a_token_names_it() {
    let (old, new) = (
        Signer::new("old", Algorithm::ES256),
        Signer::new("new", Algorithm::ES256),
    );
    let (directory, verifier) = verifier(&[old.published()]);
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, set(&[old.published(), new.published()])).unwrap();
    verifier
        .verify(&new.token(&claims(json!({}))))
        .await
        .unwrap();
    let never = Signer::new("never", Algorithm::ES256).token(&claims(json!({})));
    assert_eq!(refused(&verifier, &never).await.0, ErrorKind::InvalidApiKey);
    // Away: what is known is good, and of what is not nothing can be said.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        refused(&verifier, &never).await.0,
        ErrorKind::AuthStoreUnavailable
    );
    verifier
        .verify(&old.token(&claims(json!({}))))
        .await
        .unwrap();

    let missing = JwtConfig {
        jwks_file: Some(path),
        ..config()
    };
    let error = JwtVerifier::start(&missing).unwrap_err();
    assert_eq!(error.param(), Some("auth.jwt.jwks_file"));
}

/// Serves a document to everybody who connects.
async fn serve(listener: TcpListener, document: String) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 2048];
        let _ = socket.read(&mut request).await;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            document.len()
        );
        let _ = socket.write_all((head + &document).as_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_a_url_that_may_be_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let signer = Signer::new("one", Algorithm::ES256);
    let config = JwtConfig {
        jwks_url: Some(format!("http://{address}/jwks.json")),
        ..config()
    };
    let verifier = JwtVerifier::start(&config).unwrap();
    let token = signer.token(&claims(json!({})));
    assert_eq!(
        refused(&verifier, &token).await.0,
        ErrorKind::AuthStoreUnavailable
    );

    let listener = TcpListener::bind(address).await.unwrap();
    let server = tokio::spawn(serve(listener, set(&[signer.published()])));
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = verifier.verify(&token).await {
        assert_eq!(error.kind(), ErrorKind::AuthStoreUnavailable);
        assert!(tokio::time::Instant::now() < end, "it is not read again");
    }
    server.abort();
    let _ = server.await;
    verifier.verify(&token).await.unwrap();
    let unknown = Signer::new("two", Algorithm::ES256).token(&claims(json!({})));
    assert_eq!(
        refused(&verifier, &unknown).await.0,
        ErrorKind::AuthStoreUnavailable
    );
}
