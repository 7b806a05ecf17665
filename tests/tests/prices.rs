//! Prices: the admin API, what `/models` says, and totals before and after charges are computed anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, sync::Arc};

use lyss_core::{billing::RerateQuery, config::Config, types::Pico};
use lyss_tests::{
    client::{Client, chat},
    world::World,
};
use serde_json::{Value, json};

const PRICES: &str = "/v1/admin/prices";

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

/// Input price, output price and currency of a model.
async fn shown(client: &Client, model: &str) -> [Value; 3] {
    let model = client.get(&format!("/v1/models/{model}")).await.json();
    ["input_price", "output_price", "currency"].map(|member| model[member].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_are_added_changed_and_deleted() {
    let world = World::start(&json!({
        "providers": {"openai": {"models": {"fast": "gpt-4o-mini", "mine": "unheard-of"}}},
        "billing": {"prices": {"openai/unheard-of": {"input": 3, "output": 4}}},
    }))
    .await;
    let client = admin(&world).await;
    // Shipped, and configured.
    assert_eq!(shown(&client, "fast").await, ["0.15", "0.6", "USD"]);
    assert_eq!(shown(&client, "mine").await, ["3", "4", "USD"]);

    let price = json!({
        "model": "gpt-4o-mini", "currency": "CNY", "input": 1.1, "output": "2.20", "cached_input": "0.5",
        "tiers": [{"above_input_tokens": 1000, "input": "2", "output": "3"}],
    });
    let made = client.send("POST", PRICES, Some(&price)).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.json());
    let made = made.json();
    assert_eq!(
        (&made["input"], &made["output"]),
        (&json!("1.1"), &json!("2.2"))
    );
    // At once where it was made.
    assert_eq!(shown(&client, "fast").await, ["1.1", "2.2", "CNY"]);

    let path = format!("{PRICES}/{}", made["id"]);
    assert_eq!(client.get(&path).await.json(), made);
    assert_eq!(client.get(PRICES).await.json()["data"], json!([made]));
    let again = client.send("POST", PRICES, Some(&price)).await.unwrap();
    assert_eq!(
        (again.status, again.json()["error"]["param"].clone()),
        (400, json!("valid_from"))
    );

    let mut other = price.clone();
    other["provider"] = "backup".into();
    let put = client.send("PUT", &path, Some(&other)).await.unwrap();
    assert_eq!(
        (put.status, put.json()["provider"].clone()),
        (200, json!("backup"))
    );
    assert_eq!(shown(&client, "fast").await, ["0.15", "0.6", "USD"]);

    let deleted = client.send("DELETE", &path, None).await.unwrap();
    assert_eq!(deleted.status, 204);
    for (method, body) in [("GET", None), ("DELETE", None), ("PUT", Some(&price))] {
        let answer = client.send(method, &path, body).await.unwrap();
        assert_eq!(answer.status, 404, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_prices_are_refused() {
    let world = World::start(&json!({})).await;
    let client = admin(&world).await;
    let good = json!({"model": "m", "currency": "USD", "input": "1", "output": "2"});
    for (member, value) in [
        ("id", json!(7)),
        ("model", json!("")),
        ("provider", json!("")),
        ("currency", json!("usd")),
        ("valid_from", json!("soon")),
        ("input", json!(-1)),
        ("input", json!("0.0000001")),
        ("output", json!(null)),
        ("cached", json!("1")),
        (
            "tiers",
            json!([{"above_input_tokens": 0, "input": "1", "output": "1"}]),
        ),
        ("tiers", json!([{"above_input_tokens": 5, "input": "1"}])),
        ("max_output_tokens", json!(0)),
    ] {
        let mut bad = good.clone();
        bad[member] = value.clone();
        let answer = client.send("POST", PRICES, Some(&bad)).await.unwrap();
        assert_eq!(answer.status, 400, "{member}: {value}: {}", answer.json());
    }
    assert_eq!(client.get(PRICES).await.json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_price_is_put_right() {
    let world = World::start(&json!({})).await;
    let client = admin(&world).await;
    let alice = Client::new(serve(&world).await).with_key(&world.key("alice").unwrap());
    let answer = alice.chat(&chat("gpt-4o-mini", "hello")).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let usage = answer.json()["usage"].clone();
    let tokens = |member: &str| i128::from(usage[member].as_u64().unwrap());
    let (input, output) = (tokens("prompt_tokens"), tokens("completion_tokens"));
    // Shipped: 0.15 and 0.60 USD a million, that is 150,000 and 600,000 of 1e-12 a token.
    let shipped = Pico(150_000 * input + 600_000 * output);
    let row = world.rows(1).await.remove(0);
    assert_eq!(i128::from(row.user_charge_pico), shipped.0);
    assert!(
        row.price_id
            .unwrap()
            .starts_with("shipped:openai/gpt-4o-mini@")
    );

    let cost = async || {
        let totals = client.get("/v1/usage?by=model").await.json();
        totals["data"][0]["cost"].clone()
    };
    assert_eq!(
        cost().await,
        json!({
            "currency": "USD", "user_charge": shipped.to_string(), "provider_cost": shipped.to_string(),
            "by_currency": [
                {"currency": "USD", "user_charge": shipped.to_string(), "provider_cost": shipped.to_string()},
            ],
        })
    );

    let price = json!({"model": "gpt-4o-mini", "currency": "USD", "input": "1", "output": "2"});
    let made = client.send("POST", PRICES, Some(&price)).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.json());
    assert_eq!(
        cost().await["user_charge"],
        shipped.to_string(),
        "as it was charged"
    );
    let config = Config::parse("world", &world.config.to_string(), &Default::default());
    let config = config.unwrap().config;
    let from = RerateQuery {
        from: "2026-01-01".into(),
        ..RerateQuery::default()
    };
    for changed in [1, 0] {
        let rerated = world.engine.database().rerate(&from, &config).await;
        assert_eq!(rerated.unwrap().changed, changed);
    }
    let right = Pico(1_000_000 * input + 2_000_000 * output).to_string();
    assert_eq!(cost().await["user_charge"], right);
    // The caller sees the same of its own.
    let own = alice.get("/v1/usage").await.json();
    assert_eq!(own["data"][0]["cost"]["provider_cost"], right);
}
