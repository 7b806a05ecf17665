//! Keys through the admin API and the command line: made, limited, rotated, revoked, and never shown again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use lyss_tests::{
    client::{Client, chat},
    process::Setup,
    world::World,
};
use serde_json::{Value, json};

struct Admin {
    world: World,
    anybody: Client,
    admin: Client,
}

impl Admin {
    async fn start() -> Self {
        let world = World::start(&json!({})).await;
        let router = lyss_http::router(Arc::new(world.engine.clone()), Default::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let anybody = Client::new(listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let admin = anybody.with_key(&world.key("admin").unwrap());
        Self {
            world,
            anybody,
            admin,
        }
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then_some(body);
        let path = format!("/v1/admin/keys{path}");
        let answer = self.admin.send(method, &path, body.as_ref()).await.unwrap();
        match answer.status {
            204 => (204, Value::Null),
            status => (status, answer.json()),
        }
    }

    /// Makes a key; gives its id and a client with it.
    async fn make(&self, new: Value) -> (String, Client) {
        let (status, key) = self.send("POST", "", new).await;
        assert_eq!(status, 201, "{key}");
        let secret = key["key"].as_str().unwrap();
        (
            key["id"].as_str().unwrap().into(),
            self.anybody.with_key(secret),
        )
    }
}

async fn status(client: &Client) -> (u16, Value) {
    let answer = client.chat(&chat("gpt-4o-mini", "hello")).await;
    (answer.status, answer.json()["error"]["code"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lives_and_dies_over_http() {
    let admin = Admin::start().await;
    let (id, carol) = admin
        .make(
            json!({"user_id": "carol", "name": "ci", "rpm": 3, "scopes": ["chat"],
            "models": ["gpt-4o-mini"], "expires_at": "2100-01-01T00:00:00Z",
            "budget": {"amount": "10", "currency": "USD", "period": "month"}}),
        )
        .await;
    assert_eq!(status(&carol).await.0, 200, "good at once");
    let refused = carol.get("/v1/sessions").await;
    assert_eq!(refused.json()["error"]["code"], "scope_missing");
    assert_eq!(refused.status, 403);
    assert_eq!(carol.get("/v1/usage").await.status, 403);
    let other = carol.chat(&chat("gpt-4o", "hello")).await;
    assert_eq!(other.json()["error"]["code"], "model_not_allowed");

    let (code, shown) = admin.send("GET", &format!("/{id}"), Value::Null).await;
    assert_eq!((code, &shown["state"]), (200, &json!("active")));
    assert_eq!(shown["budget"]["amount"], "10");
    assert_eq!(shown["expires_at"], "2100-01-01T00:00:00.000Z");
    assert_eq!(shown["object"], "api_key");
    let secret = |shown: &Value| shown.to_string().contains("lyss_") || shown.get("key").is_some();
    assert!(!secret(&shown), "{shown}");
    let (_, all) = admin.send("GET", "", Value::Null).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 3);
    assert!(!all.to_string().contains("lyss_"));

    // Its own limit holds, and a change of it at once.
    assert_eq!(status(&carol).await.0, 200);
    assert_eq!(status(&carol).await.0, 200);
    assert_eq!(status(&carol).await, (429, json!("rate_limited")));
    let change = json!({"rpm": 5, "models": null, "scopes": ["chat", "usage"]});
    let (code, changed) = admin.send("PATCH", &format!("/{id}"), change).await;
    assert_eq!((code, &changed["rpm"]), (200, &json!(5)));
    assert_eq!(changed["name"], "ci");
    assert_eq!(status(&carol).await.0, 200);
    assert_eq!(carol.get("/v1/usage").await.status, 200);

    let rotation = json!({"grace_seconds": 3600});
    let (code, rotated) = admin.send("POST", &format!("/{id}/rotate"), rotation).await;
    assert_eq!((code, &rotated["id"]), (200, &json!(id)));
    assert!(rotated["previous_secret_until"].is_string());
    let renewed = admin.anybody.with_key(rotated["key"].as_str().unwrap());
    assert_eq!(renewed.get("/v1/models").await.status, 200);
    assert_eq!(carol.get("/v1/models").await.status, 200, "in its grace");
    let (_, none) = admin
        .send(
            "POST",
            &format!("/{id}/rotate"),
            json!({"grace_seconds": 0}),
        )
        .await;
    assert_eq!(none["previous_secret_until"], Value::Null);
    assert_eq!(renewed.get("/v1/models").await.status, 401, "no grace");

    assert_eq!(
        admin.send("DELETE", &format!("/{id}"), Value::Null).await.0,
        204
    );
    let last = admin.anybody.with_key(none["key"].as_str().unwrap());
    assert_eq!(last.get("/v1/models").await.status, 401, "revoked at once");
    let (_, shown) = admin.send("GET", &format!("/{id}"), Value::Null).await;
    assert_eq!(shown["state"], "revoked");
    assert_eq!(admin.send("DELETE", "/nobody", Value::Null).await.0, 404);
    for (body, param) in [
        (json!({"rpm": 0}), "rpm"),
        (
            json!({"budget": {"amount": "-1", "currency": "USD", "period": "day"}}),
            "budget",
        ),
    ] {
        let (code, refused) = admin.send("POST", "", body).await;
        assert_eq!((code, &refused["error"]["param"]), (400, &json!(param)));
    }
    for body in [
        json!({"scopes": ["root"]}),
        json!({"hash": "x"}),
        json!({"expires_at": "soon"}),
    ] {
        assert_eq!(admin.send("POST", "", body).await.0, 400);
    }
    drop(admin.world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_changes_itself() {
    let admin = Admin::start().await;
    let (id, own) = admin.make(json!({"admin": true, "rpm": 1})).await;
    let (other, user) = admin.make(json!({"user_id": "dave"})).await;
    let change = json!({"rpm": null});
    for (client, id, expected) in [(&own, &id, 403), (&own, &other, 200), (&user, &other, 403)] {
        let path = format!("/v1/admin/keys/{id}");
        let rotate = format!("{path}/rotate");
        let changed = client.send("PATCH", &path, Some(&change)).await.unwrap();
        assert_eq!(changed.status, expected, "{}", changed.json());
        let rotated = client.send("POST", &rotate, None).await.unwrap();
        assert_eq!(rotated.status, expected);
        if expected == 403 {
            assert_eq!(changed.json()["error"]["code"], "admin_required");
            let revoked = client.send("DELETE", &path, None).await.unwrap();
            assert_eq!(revoked.status, 403);
        }
    }
}

#[test]
fn a_key_lives_and_dies_on_the_command_line() {
    let setup = Setup::new(
        &json!({"routing": {"default_provider": "simulated"}, "providers": {"simulated": {}}}),
    );
    let run = |line: &str| {
        let output = setup.run(&line.split(' ').collect::<Vec<_>>());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, secret, said) = run(
        "keys create --user alice --name ci --rpm 60 --tpm 1000 --concurrent 2 --budget 10USD/month --models a,b --scopes chat,usage --expires 90d",
    );
    assert_eq!(code, Some(0), "{said}");
    let id = secret[5..17].to_owned();
    let (_, listed, _) = run("keys list");
    let shown = [
        "chat,usage",
        "rpm=60,tpm=1000,concurrent=2",
        "10USD/month",
        "a,b",
        "active",
    ];
    for part in shown {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    assert!(!listed.contains(&secret[18..]));
    let (code, renewed, said) = run(&format!("keys rotate {id} --grace 24h"));
    assert_eq!(code, Some(0), "{said}");
    assert!(renewed.starts_with(&format!("lyss_{id}_")) && renewed != secret);
    assert_eq!(run(&format!("keys revoke {id}")).0, Some(0));
    assert!(run("keys list").1.contains("revoked"));
    for (line, code) in [
        (format!("keys rotate {id}"), 1),
        ("keys rotate nobody".into(), 1),
        ("keys create --user a --budget 10".into(), 2),
        ("keys create --user a --scopes root".into(), 2),
        ("keys create --user a --expires then".into(), 2),
        ("keys create".into(), 2),
    ] {
        let (found, _, said) = run(&line);
        assert_eq!(found, Some(code), "{line}: {said}");
    }
}
