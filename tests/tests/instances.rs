//! Two gateways on one PostgreSQL and one Redis: what is told to one holds for both, and a conversation may change
//! between them at any turn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use lyss_tests::{
    client::{Client, chat},
    pair::{ADMIN, Pair, unique},
};
use serde_json::{Value, json};

/// How soon a change must be in force everywhere.
const SOON: Duration = Duration::from_secs(1);

/// Who answers for a model.
async fn provider(client: &Client, model: &str) -> String {
    let mut body = chat(model, "hello");
    body["user_id"] = "admin".into();
    let answer = client.chat(&body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.header("x-lyss-provider").unwrap().to_owned()
}

/// Waits until something holds, and fails if that takes longer than [`SOON`].
async fn soon(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{what}: not after 5 s"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        began.elapsed() <= SOON,
        "{what}: after {:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_start_at_once_on_an_empty_database() {
    let pair = Pair::start(&json!({})).await;
    let migrations = pair
        .store
        .texts("SELECT version::text FROM _sqlx_migrations WHERE success ORDER BY version")
        .await
        .unwrap();
    assert!(migrations.len() >= 4, "{migrations:?}");
    for lyss in [&pair.first.1, &pair.second.1] {
        let health = lyss.client().get("/health").await.json();
        assert_eq!(health["healthy"], true, "{health}");
        let troubles: Vec<String> = lyss
            .log()
            .lines()
            .filter(|line| line.contains("\"ERROR\"") || line.contains("cannot be"))
            .map(str::to_owned)
            .collect();
        assert!(troubles.is_empty(), "{troubles:?}");
    }
    for client in pair.clients(ADMIN) {
        assert_eq!(provider(&client, "gpt-4o-mini").await, "openai");
    }
    let rows = pair
        .store
        .rows_when(Duration::from_secs(5), |rows| rows.len() >= 2)
        .await;
    assert_eq!(rows.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_in_force_on_both_within_a_second() {
    let pair = Pair::start(&json!({})).await;
    let [one, two] = pair.clients(ADMIN);
    assert_eq!(
        provider(&two, "shared-model").await,
        "openai",
        "the default"
    );

    let rule = json!({"model_name": "shared-model", "provider_id": "backup"});
    let made = one
        .send("POST", "/v1/admin/routing-rules", Some(&rule))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.json());
    assert_eq!(
        provider(&one, "shared-model").await,
        "backup",
        "at once where it was made"
    );
    soon("the other one", async || {
        provider(&two, "shared-model").await == "backup"
    })
    .await;

    pair.store
        .execute(
            "UPDATE routing_rules SET provider_id = 'openai' WHERE model_name = 'shared-model'",
        )
        .await;
    soon("by hand, first", async || {
        provider(&one, "shared-model").await == "openai"
    })
    .await;
    soon("by hand, second", async || {
        provider(&two, "shared-model").await == "openai"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_is_in_force_on_both_within_a_second() {
    let models = json!({"priced-model": "priced-upstream"});
    let pair = Pair::start(&json!({"providers": {"openai": {"models": models}}})).await;
    let [one, two] = pair.clients(ADMIN);
    let price = async |client: &Client| {
        let model = client.get("/v1/models/priced-model").await.json();
        model["input_price"].as_str().map(str::to_owned)
    };
    assert_eq!(price(&two).await, None);
    let new = json!({"model": "priced-upstream", "currency": "USD", "input": "1.5", "output": "2"});
    let made = one
        .send("POST", "/v1/admin/prices", Some(&new))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.json());
    assert_eq!(
        price(&one).await.as_deref(),
        Some("1.5"),
        "at once where it was made"
    );
    soon("the other one", async || {
        price(&two).await.as_deref() == Some("1.5")
    })
    .await;
    pair.store
        .execute("UPDATE prices SET input = 0.25 WHERE model = 'priced-upstream'")
        .await;
    soon("by hand", async || {
        price(&two).await.as_deref() == Some("0.25")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_known_and_forgotten_on_both_within_a_second() {
    let pair = Pair::start(&json!({})).await;
    let key = pair.first.0.create_key(&["--user", "alice"]);
    let clients = pair.clients(&key);
    for client in &clients {
        soon("a new key", async || {
            client.get("/v1/models").await.status == 200
        })
        .await;
    }
    let id = key.split('_').nth(1).unwrap();
    let revoked = pair.first.0.run(&["keys", "revoke", id]);
    assert!(revoked.status.success(), "{revoked:?}");
    for client in &clients {
        soon("a revoked key", async || {
            client.get("/v1/models").await.status == 401
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_at_either() {
    let pair = Pair::start(&json!({})).await;
    let key = pair.first.0.create_key(&["--user", &unique("alice")]);
    let clients = pair.clients(&key);
    for turn in 0..10 {
        let mut body = chat("gpt-4o-mini", &format!("turn {turn}"));
        body["session_id"] = "s".into();
        body["stream"] = (turn % 3 == 2).into();
        let answer = clients[turn % 2].chat(&body).await;
        assert_eq!(answer.status, 200, "turn {turn}: {}", answer.json());
        let requests = pair.openai.requests();
        let last: Value = serde_json::from_slice(&requests.last().unwrap().body).unwrap();
        let asked: Vec<&str> = last["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|message| message["role"] == "user")
            .map(|message| message["content"].as_str().unwrap())
            .collect();
        let expected: Vec<String> = (0..=turn).map(|turn| format!("turn {turn}")).collect();
        assert_eq!(
            asked, expected,
            "every turn before is seen, wherever it was made"
        );
    }
}
