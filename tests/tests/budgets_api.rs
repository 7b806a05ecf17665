//! Budgets by the admin API: made, changed, deleted, and how they stand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, sync::Arc};

use lyss_tests::{client::Client, world::World};
use serde_json::{Value, json};

const BUDGETS: &str = "/v1/admin/budgets";

async fn serve(world: &World) -> SocketAddr {
    let router = lyss_http::router(Arc::new(world.engine.clone()), Default::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn admin(world: &World) -> Client {
    Client::new(serve(world).await).with_key(&world.key("admin").unwrap())
}

async fn shown(client: &Client, path: &str) -> Value {
    client.get(path).await.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_are_added_changed_and_deleted() {
    let world = World::start(&json!({
        "budgets": [{"user": "*", "amount": "7", "period": "day"}],
        "billing": {"prices": {"openai/fast-upstream": {"input": 1, "output": 1}}},
        "providers": {"openai": {"models": {"fast": "fast-upstream"}}},
    }))
    .await;
    let client = admin(&world).await;
    let configured = &shown(&client, BUDGETS).await["data"][0];
    assert_eq!(configured["source"], "config");
    assert_eq!(
        (&configured["user"], &configured["id"]),
        (&json!("*"), &Value::Null)
    );
    assert_eq!(configured["spent"], Value::Null, "it has no one balance");

    let budget = json!({"total": true, "amount": "0.000001", "currency": "USD", "period": "month"});
    let made = client.send("POST", BUDGETS, Some(&budget)).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.json());
    let made = made.json();
    assert_eq!(made["source"], "api");
    assert_eq!(
        (&made["spent"], &made["reserved"]),
        (&json!("0"), &json!("0"))
    );
    assert_eq!(made["left"], "0.000001");
    assert!(
        made["renews_at"]
            .as_str()
            .unwrap()
            .ends_with("-01T00:00:00.000Z")
    );
    let path = format!("{BUDGETS}/{}", made["id"]);
    assert_eq!(shown(&client, &path).await, made);

    // In force at once where it was made.
    let chat = json!({
        "model": "fast", "user_id": "u", "max_tokens": 100,
        "messages": [{"role": "user", "content": "a prompt of a few words"}],
    });
    let refused = client
        .send("POST", "/v1/chat/completions", Some(&chat))
        .await
        .unwrap();
    let error = refused.json()["error"].clone();
    assert_eq!(
        (refused.status, &error["code"]),
        (402, &json!("budget_exceeded")),
        "{error}"
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("0.000001 USD a month for the whole gateway")
    );

    let mut more = budget.clone();
    more["amount"] = "10".into();
    let put = client.send("PUT", &path, Some(&more)).await.unwrap();
    assert_eq!(
        (put.status, put.json()["amount"].clone()),
        (200, json!("10"))
    );
    let answered = client
        .send("POST", "/v1/chat/completions", Some(&chat))
        .await
        .unwrap();
    assert_eq!(answered.status, 200, "{}", answered.json());

    let deleted = client.send("DELETE", &path, None).await.unwrap();
    assert_eq!(deleted.status, 204);
    for (method, body) in [("GET", None), ("DELETE", None), ("PUT", Some(&budget))] {
        let answer = client.send(method, &path, body).await.unwrap();
        assert_eq!(answer.status, 404, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_budgets_are_refused() {
    let world = World::start(&json!({})).await;
    let client = admin(&world).await;
    let good = json!({"user": "u", "amount": "1", "currency": "USD", "period": "day"});
    for (member, value) in [
        ("id", json!(7)),
        ("user", json!("")),
        ("total", json!(true)),
        ("amount", json!("-1")),
        ("amount", json!("9000001")),
        ("amount", json!(null)),
        ("currency", json!("usd")),
        ("period", json!("week")),
        ("perid", json!("day")),
    ] {
        let mut bad = good.clone();
        bad[member] = value.clone();
        let answer = client.send("POST", BUDGETS, Some(&bad)).await.unwrap();
        assert_eq!(answer.status, 400, "{member}: {value}: {}", answer.json());
    }
    assert_eq!(shown(&client, BUDGETS).await["data"], json!([]));
}
