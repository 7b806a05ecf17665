//! LD: a dependency that is away takes away only what needs it, and `/health` never.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::{CHAT, Client, chat},
    process::Setup,
    services::{self, Server},
    store::Store,
};
use serde_json::{Value, json};

fn provider(mock: &MockProvider) -> Value {
    json!({"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}})
}

/// Waits until an answer of `path` is as wanted.
async fn until(client: &Client, path: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) {
    let end = Instant::now() + limit;
    loop {
        let answer = client.get(path).await.json();
        if wanted(&answer) {
            return;
        }
        assert!(Instant::now() < end, "{path} stays {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_known_callers_are_served_and_billed() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let mut postgres = Server::postgres();
    let url = services::new_database(&postgres.url).await;
    let setup = Setup::new(&json!({
        "data": {"database": {"driver": "postgres", "source": url}},
        "auth": {"mode": "keys"},
        "session": {"store": "memory"},
        "providers": provider(&mock),
    }));
    let lyss = setup.start().await;
    let anyone = lyss.client();
    let client = anyone.with_key(&setup.create_key(&["--user", "alice"]));
    assert_eq!(client.chat(&chat("before", "hello")).await.status, 200);

    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut made = 0_usize;
                while !stop.load(Relaxed) {
                    let mut body = chat(&format!("m-{worker}-{made}"), "hello there");
                    body["stream"] = (made % 2 == 1).into();
                    let answer = client.chat(&body).await;
                    assert_eq!(answer.status, 200, "{}", answer.json());
                    made += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                made
            })
        })
        .collect();

    tokio::time::sleep(Duration::from_millis(300)).await;
    postgres.stop();
    let store = Store::Postgres(url);
    assert!(store.texts("SELECT 'there'").await.is_err(), "it is down");
    // The gateway's own look at it.
    let down = |ready: &Value| ready["degraded"] == json!(["database"]);
    until(&anyone, "/ready", Duration::from_secs(8), down).await;
    assert_eq!(anyone.get("/ready").await.status, 200);
    let health = anyone.get("/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["status"]["database"], false);

    assert_eq!(client.chat(&chat("during", "hello")).await.status, 200);
    let stranger = "lyss_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let unknown = anyone.with_key(stranger).chat(&chat("x", "hello")).await;
    assert_eq!(unknown.status, 503, "nobody can say that it is wrong");
    assert_eq!(unknown.json()["error"]["code"], "auth_store_unavailable");
    assert!(unknown.header("retry-after").is_some());

    postgres.up();
    let up = |ready: &Value| ready["degraded"] == json!([]);
    until(&anyone, "/ready", Duration::from_secs(8), up).await;
    stop.store(true, Relaxed);
    let mut made = 2;
    for worker in load {
        made += worker.await.expect("every call was answered with 200");
    }
    assert!(made > 100, "only {made} calls were made");
    let all = |rows: &[Value]| rows.len() >= made;
    let rows = store.rows_when(Duration::from_secs(10), all).await;
    assert_eq!(rows.len(), made, "a row for each, none twice");
    assert!(rows.iter().all(|row| row["status"] == "success"));
    let unknown = anyone.with_key(stranger).chat(&chat("x", "hello")).await;
    assert_eq!(unknown.status, 401, "now it is known to be wrong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_only_sessions_fail() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let mut redis = Server::redis();
    let setup = Setup::new(&json!({
        "data": {"redis": {"addr": redis.address()}},
        "auth": {"default_user": "alice"},
        "providers": provider(&mock),
    }));
    let lyss = setup.start().await;
    let client = lyss.client();
    let turn = |text: &str| {
        let mut body = chat("gpt-4o-mini", text);
        body["session_id"] = "s".into();
        body
    };
    assert_eq!(client.chat(&turn("one")).await.status, 200);
    redis.stop();
    // Until the server has gone away it may still answer.
    let end = Instant::now() + Duration::from_secs(3);
    let refused = loop {
        let answer = client.chat(&turn("lost")).await;
        if answer.status != 200 || Instant::now() > end {
            break answer;
        }
    };
    assert_eq!(refused.status, 503, "{}", refused.json());
    assert_eq!(refused.json()["error"]["code"], "session_store_unavailable");
    // A turn that had been dispatched is not to be sent again, so that no pause is named.
    assert_eq!(
        refused.header("retry-after").is_some(),
        refused.header("x-should-retry") == Some("true")
    );
    let dispatched = mock.ledger().len();
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(
            client.chat(&chat("gpt-4o-mini", "stateless")).await.status,
            200
        );
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "it waits for Redis"
        );
        let refused = client.chat(&turn("lost")).await;
        assert_eq!(refused.json()["error"]["code"], "session_store_unavailable");
    }
    assert_eq!(
        mock.ledger().len(),
        dispatched + 20,
        "no refused turn was dispatched"
    );
    assert_eq!(client.get("/health").await.status, 200);
    let down = |ready: &Value| ready["degraded"] == json!(["redis"]);
    until(&client, "/ready", Duration::from_secs(8), down).await;
    assert_eq!(client.get("/ready").await.status, 200);

    redis.up();
    let back = Instant::now();
    while client.chat(&turn("two")).await.status != 200 {
        assert!(
            back.elapsed() < Duration::from_secs(8),
            "Redis is back, sessions are not"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        back.elapsed() <= Duration::from_secs(3),
        "recovery took {:?}",
        back.elapsed()
    );
    let messages = client.get("/v1/sessions/s/messages").await.json();
    let texts: Vec<&str> = messages["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|stored| stored["message"]["role"] == "user")
        .map(|stored| stored["message"]["content"].as_str().unwrap())
        .collect();
    assert!(
        texts.starts_with(&["one"]),
        "what was acknowledged is there: {texts:?}"
    );
    assert!(texts.ends_with(&["two"]), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_down_and_comes_back() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let setup = Setup::new(&json!({
        "auth": {"default_user": "alice"},
        "routing": {"max_retries": 1, "health_check": {"enabled": true, "interval": "500ms"}},
        "providers": provider(&mock),
    }));
    let lyss = setup.start().await;
    let client = lyss.client();
    assert_eq!(client.chat(&chat("gpt-4o-mini", "hello")).await.status, 200);
    mock.set_down(true);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let answer = client.chat(&chat("gpt-4o-mini", "hello")).await;
        assert!(
            matches!(answer.status, 502 | 503),
            "{} {}",
            answer.status,
            answer.json()
        );
        seen.insert(answer.json()["error"]["code"].as_str().unwrap().to_owned());
    }
    assert!(seen.contains("upstream_error"), "{seen:?}");
    let down = |health: &Value| health["status"]["providers"] == false;
    until(&client, "/health", Duration::from_secs(5), down).await;
    assert_eq!(client.get("/health").await.status, 200);

    mock.set_down(false);
    let back = Instant::now();
    while client
        .send("POST", CHAT, Some(&chat("gpt-4o-mini", "hello")))
        .await
        .unwrap()
        .status
        != 200
    {
        assert!(
            back.elapsed() < Duration::from_secs(5),
            "the provider is back, calls still fail"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let up = |health: &Value| health["status"]["providers"] == true;
    until(&client, "/health", Duration::from_secs(5), up).await;
}
