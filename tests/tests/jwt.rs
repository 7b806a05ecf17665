//! Tokens of an identity provider at the door: the user they name, and nobody else's business.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use lyss_tests::{client::chat, process::Setup};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_speaks_for_its_user() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let keys = json!({"keys": [Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()]});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, keys.to_string()).unwrap();
    let setup = Setup::new(&json!({
        "auth": {
            "mode": "keys", "admin_key": "an-admin-key-of-the-tests",
            "jwt": {"jwks_file": file, "issuer": "i", "audience": ["lyss"], "admin_scope": "root"},
        },
        "routing": {"default_provider": "simulated"},
        "providers": {"simulated": {}},
    }));
    let mut lyss = setup.start().await;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let token = |claims: Value| {
        let mut all = json!({"iss": "i", "aud": "lyss", "sub": "alice", "exp": now + 600});
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        encode(&Header::new(Algorithm::ES256), &all, &key).unwrap()
    };
    let client = |claims: Value| lyss.client().with_key(&token(claims));

    let alice = client(json!({}));
    let mut body = chat("simulated/echo", "hello");
    body["session_id"] = "s".into();
    let answer = alice.chat(&body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let rows = setup
        .sqlite()
        .rows_when(Duration::from_secs(5), |rows| !rows.is_empty())
        .await;
    assert_eq!(rows[0]["user_id"], "alice");
    assert_eq!(alice.get("/v1/sessions/s").await.status, 200);
    let bob = client(json!({"sub": "bob"}));
    assert_eq!(bob.get("/v1/sessions/s").await.status, 404);

    body["user_id"] = "bob".into();
    let mut codes = Vec::new();
    for (client, path) in [
        (&alice, "/v1/admin/routing-rules"),
        (&client(json!({"scope": "usage"})), "/v1/sessions"),
        (&client(json!({"exp": now - 600})), "/v1/sessions"),
        (&client(json!({"aud": "others"})), "/v1/sessions"),
    ] {
        let answer = client.get(path).await;
        codes.push((
            answer.status,
            answer.json()["error"]["code"].as_str().unwrap().to_owned(),
        ));
    }
    let answer = alice.chat(&body).await;
    codes.push((
        answer.status,
        answer.json()["error"]["code"].as_str().unwrap().to_owned(),
    ));
    let codes: Vec<(u16, &str)> = codes
        .iter()
        .map(|(status, code)| (*status, code.as_str()))
        .collect();
    assert_eq!(
        codes,
        [
            (403, "admin_required"),
            (403, "scope_missing"),
            (401, "expired_api_key"),
            (401, "invalid_api_key"),
            (403, "user_mismatch"),
        ]
    );
    let admin = client(json!({"scope": "root"}));
    assert_eq!(admin.get("/v1/admin/routing-rules").await.status, 200);
    // API keys are good beside them.
    let key = setup.create_key(&["--user", "carol"]);
    let carol = lyss.client().with_key(&key);
    assert_eq!(carol.get("/v1/sessions").await.status, 200);
    let shown = lyss.log();
    assert!(!shown.contains(token(json!({})).rsplit('.').next().unwrap()));
    lyss.terminate();
    assert!(lyss.end(Duration::from_secs(10)).await.is_some());
}
