//! What is charged, for every way a request can end: read from the tables, compared with the provider's own ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use lyss_mock_provider::{MockProvider, Options, Script};
use lyss_tests::{
    client::{CHAT, chat},
    process::{Lyss, Setup},
    services,
    store::{Store, of_model},
};
use serde_json::{Value, json};

/// Per million tokens: input 2.50, cached 1.25, output 10 of a unit; so 2,500,000 pico a token and so on.
const INPUT: i64 = 2_500_000;
const CACHED: i64 = 1_250_000;
const OUTPUT: i64 = 10_000_000;

struct Gateway {
    first: MockProvider,
    second: MockProvider,
    store: Store,
    lyss: Lyss,
    setup: Setup,
}

impl Gateway {
    async fn start() -> Self {
        Self::with(json!({}), None).await
    }

    /// `one` is tried first, `two` when it fails.
    async fn with(billing: Value, postgres: Option<String>) -> Self {
        let first = MockProvider::start(Options::default()).unwrap();
        let second = MockProvider::start(Options::default()).unwrap();
        let price = json!({"input": "2.5", "cached_input": "1.25", "output": "10"});
        let names = [
            "priced", "cached", "streamed", "left", "failed", "broken", "timed", "embedded",
        ];
        let mut billing = billing;
        billing["prices"] = names
            .iter()
            .map(|name| ((*name).to_owned(), price.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let rules: Vec<Value> = names
            .iter()
            .chain(&["unpriced"])
            .flat_map(|model| {
                [("one", 1), ("two", 2)].map(|(provider, priority)| {
                    json!({"model": model, "provider": provider, "priority": priority})
                })
            })
            .collect();
        let provider = |mock: &MockProvider| json!({"kind": "openai", "api_key": "sk-upstream", "base_url": mock.base_url_openai(), "timeout": "1s"});
        let mut overlay = json!({
            "auth": {"default_user": "somebody"},
            "billing": billing,
            "routing": {"rules": rules, "default_provider": "one"},
            "providers": {"one": provider(&first), "two": provider(&second)},
        });
        if let Some(url) = &postgres {
            overlay["data"] = json!({"database": {"driver": "postgres", "source": url}});
        }
        let setup = Setup::new(&overlay);
        let lyss = setup.start().await;
        let store = match postgres {
            Some(url) => Store::Postgres(url),
            None => setup.sqlite(),
        };
        Self {
            first,
            second,
            store,
            lyss,
            setup,
        }
    }

    async fn ask(&self, body: &Value) -> (u16, Value) {
        let answer = self.lyss.client().send("POST", CHAT, Some(body)).await;
        let answer = answer.unwrap();
        (answer.status, answer.json())
    }

    /// The row of a model, as the API gives it.
    async fn row(&self, model: &str) -> Value {
        let there = |rows: &[Value]| !of_model(rows, model).is_empty();
        let rows = self.store.rows_when(Duration::from_secs(5), there).await;
        let rows = of_model(&rows, model);
        assert_eq!(rows.len(), 1, "{model}: {rows:?}");
        let id = rows[0]["request_id"].as_str().unwrap();
        let row = self.lyss.client().get(&format!("/v1/requests/{id}")).await;
        row.json()
    }
}

/// Charge and cost of a row, in pico.
fn amounts(row: &Value) -> (i64, i64) {
    let amount = |name: &str| {
        row[name]
            .as_i64()
            .unwrap_or_else(|| panic!("{name}: {row}"))
    };
    (amount("user_charge_pico"), amount("provider_cost_pico"))
}

async fn every_way_a_request_ends(gateway: &Gateway) {
    // A whole answer, as reported.
    let (status, _) = gateway.ask(&chat("priced", "[[usage:11/22]]")).await;
    assert_eq!(status, 200);
    let row = gateway.row("priced").await;
    let cost = 11 * INPUT + 22 * OUTPUT;
    assert_eq!(amounts(&row), (cost, cost), "{row}");
    assert_eq!(row["currency"], "USD");
    assert!(
        row["price_id"].as_str().unwrap().contains("priced"),
        "{row}"
    );

    // Cached tokens have their own price.
    gateway
        .ask(&chat("cached", "[[usage:100/1 cached:60]]"))
        .await;
    let row = gateway.row("cached").await;
    let cost = 40 * INPUT + 60 * CACHED + OUTPUT;
    assert_eq!(amounts(&row), (cost, cost), "{row}");

    // A stream.
    let mut body = chat("streamed", "[[usage:7/9]]");
    body["stream"] = true.into();
    let client = gateway.lyss.client();
    client.send("POST", CHAT, Some(&body)).await.unwrap();
    let row = gateway.row("streamed").await;
    let cost = 7 * INPUT + 9 * OUTPUT;
    assert_eq!(amounts(&row), (cost, cost), "{row}");

    // A stream whose caller leaves: what was delivered.
    let mut body = chat("left", "[[chunks:500 size:6 every:10]]");
    body["stream"] = true.into();
    let mut reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
    assert!(reading.events(5).await.unwrap());
    drop(reading);
    let row = gateway.row("left").await;
    let tokens = |name: &str| row[name].as_i64().unwrap();
    let cost = tokens("input_tokens") * INPUT + tokens("output_tokens") * OUTPUT;
    assert!(tokens("output_tokens") > 0, "{row}");
    assert_eq!(amounts(&row), (cost, cost), "{row}");

    // The first provider fails, and bills for it; the caller pays for the second's answer only.
    gateway.first.push(Script {
        status: Some(500),
        body: Some(
            r#"{"error":{"message":"oh"},"usage":{"prompt_tokens":5,"completion_tokens":3}}"#
                .into(),
        ),
        ..Script::default()
    });
    gateway.ask(&chat("failed", "[[usage:11/22]]")).await;
    let row = gateway.row("failed").await;
    let charge = 11 * INPUT + 22 * OUTPUT;
    let cost = charge + 5 * INPUT + 3 * OUTPUT;
    assert_eq!(amounts(&row), (charge, cost), "{row}");

    // The first provider does not answer in time: its prompt is counted, and the caller does not pay for it.
    gateway.first.push(Script {
        delay_ms: 5_000,
        ..Script::default()
    });
    gateway.ask(&chat("timed", "[[usage:11/22]]")).await;
    let row = gateway.row("timed").await;
    let (charged, cost) = amounts(&row);
    assert!(charged == 0 || charged == charge, "{row}");
    assert!(cost > charged, "{row}");

    // A stream that breaks: what was delivered is charged, and the provider's bill is the same.
    let mut body = chat("broken", "[[chunks:50 size:6 error@9]]");
    body["stream"] = true.into();
    client.send("POST", CHAT, Some(&body)).await.unwrap();
    let row = gateway.row("broken").await;
    assert_eq!(row["status"], "error", "{row}");
    assert_eq!(row["usage_source"], "partial", "{row}");
    let (charged, cost) = amounts(&row);
    assert!(charged > 0 && charged == cost, "{row}");

    // A model without a price is served, costs nothing, and its row says so.
    let (status, _) = gateway.ask(&chat("unpriced", "[[usage:11/22]]")).await;
    assert_eq!(status, 200);
    let row = gateway.row("unpriced").await;
    assert_eq!(
        (amounts(&row), &row["price_id"]),
        ((0, 0), &json!("unpriced"))
    );

    // Refused: nothing.
    let (status, _) = gateway.ask(&json!({"model": "priced"})).await;
    assert_eq!(status, 400);
}

/// Every attempt is a row of its own, and together they cost what the request cost.
async fn every_attempt_is_a_row(gateway: &Gateway) {
    let query = match gateway.store {
        Store::Postgres(_) => {
            "SELECT a.provider_id || ' ' || a.outcome || ' ' || a.cost_pico || ' ' || a.output_tokens
             FROM request_attempts a JOIN request_logs l USING (request_id, created_at)
             WHERE l.model_name = 'failed' ORDER BY a.attempt"
        }
        Store::Sqlite(_) => {
            "SELECT a.provider_id || ' ' || a.outcome || ' ' || a.cost_pico || ' ' || a.output_tokens
             FROM request_attempts a JOIN request_logs l USING (request_id)
             WHERE l.model_name = 'failed' ORDER BY a.attempt"
        }
    };
    let attempts = gateway.store.texts(query).await.unwrap();
    let first = 5 * INPUT + 3 * OUTPUT;
    let second = 11 * INPUT + 22 * OUTPUT;
    assert_eq!(
        attempts,
        [
            format!("one upstream_error {first} 3"),
            format!("two ok {second} 22")
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let gateway = Gateway::start().await;
    every_way_a_request_ends(&gateway).await;
    every_attempt_is_a_row(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let url = services::new_database(&services::postgres()).await;
    let gateway = Gateway::with(json!({}), Some(url)).await;
    every_way_a_request_ends(&gateway).await;
    every_attempt_is_a_row(&gateway).await;
    // The second provider has done what it is billed for, and nothing more.
    assert!(
        gateway
            .second
            .ledger()
            .iter()
            .all(|entry| entry.status == 200)
    );
}

/// With `durability: database` an answer that has come has its row in the table, whatever becomes of the machine then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_row_is_there_before_the_answer() {
    let url = services::new_database(&services::postgres()).await;
    let gateway = Gateway::with(json!({"durability": "database"}), Some(url)).await;
    for number in 0..10 {
        let mut body = chat("priced", "[[usage:1/1]]");
        body["stream"] = (number % 2 == 1).into();
        let answer = gateway.lyss.client().send("POST", CHAT, Some(&body)).await;
        assert_eq!(answer.unwrap().status, 200);
        assert_eq!(gateway.store.rows().await.len(), number + 1);
    }
}

/// With `durability: disk` every answer is served as before, and every row lands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synced_to_the_disk() {
    let gateway = Gateway::with(json!({"durability": "disk"}), None).await;
    let calls = (0..60).map(|number| {
        let client = gateway.lyss.client();
        async move {
            let mut body = chat("priced", "[[usage:1/1]]");
            body["stream"] = (number % 2 == 1).into();
            client.send("POST", CHAT, Some(&body)).await.unwrap().status
        }
    });
    let statuses = futures::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let all = |rows: &[Value]| rows.len() == 60;
    assert!(all(&gateway
        .store
        .rows_when(Duration::from_secs(5), all)
        .await));
}

/// A process that dies in the middle of a stream: what it had delivered is charged, at least, and to whom it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_a_stream() {
    let mut gateway = Gateway::start().await;
    let mut body = chat("streamed", "[[chunks:500 size:6 every:20]]");
    body["stream"] = true.into();
    let client = gateway.lyss.client();
    let mut reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
    assert!(reading.events(60).await.unwrap());
    gateway.lyss.kill();
    gateway.lyss = gateway.setup.start().await;
    let row = gateway.row("streamed").await;
    assert_eq!(row["status"], "aborted", "{row}");
    assert_eq!(row["usage_source"], "partial", "{row}");
    assert_eq!(row["provider_id"], "one", "{row}");
    let output = row["output_tokens"].as_i64().unwrap();
    // Of 59 pieces those of the last half second may be missing.
    assert!((10..=59).contains(&output), "{row}");
    let cost = row["input_tokens"].as_i64().unwrap() * INPUT + output * OUTPUT;
    assert_eq!(amounts(&row), (cost, cost), "{row}");
}
