//! Two gateways on one store: turns of one session that come at the same moment, at either, run one after another, and
//! each sees those before it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lyss_mock_provider::{MockProvider, Options, Script};
use lyss_tests::{
    client::{Client, chat, is_done},
    process::{Lyss, Setup},
    services,
};
use serde_json::{Value, json};

const TURNS: usize = 16;

/// Two gateways whose `data` is the same; each has spool and log of its own.
async fn pair(data: &Value) -> ([(Setup, Lyss); 2], MockProvider) {
    let openai = MockProvider::start(Options::default()).unwrap();
    openai.set_script(Script {
        delay_ms: 20,
        ..Script::default()
    });
    let setup = || {
        Setup::new(&json!({
            "data": data,
            "auth": {"mode": "keys", "pepper": "a pepper that both instances share"},
            "providers": {"openai": {"api_key": "sk-openai", "base_url": openai.base_url_openai()}},
        }))
    };
    let (first, second) = (setup(), setup());
    let (mut one, mut two) = (first.spawn(), second.spawn());
    tokio::join!(one.ready(), two.ready());
    ([(first, one), (second, two)], openai)
}

/// The user messages of a request, in order.
fn asked(messages: &Value) -> Vec<String> {
    let messages = messages.as_array().unwrap().iter();
    messages
        .filter(|message| message["role"] == "user")
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect()
}

async fn turn(client: &Client, number: usize) {
    let mut body = chat("gpt-4o-mini", &format!("turn {number}"));
    body["session_id"] = "s".into();
    let stream = number % 4 >= 2;
    body["stream"] = stream.into();
    let answer = client.chat(&body).await;
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200, "turn {number}: {text}");
    assert!(!stream || is_done(&answer), "turn {number}: {text}");
}

/// All turns at once, half of them at each gateway.
async fn all_are_stored_in_order(data: Value) {
    let (gateways, openai) = pair(&data).await;
    let user = format!("alice-{}", uuid::Uuid::new_v4().simple());
    let key = gateways[0].0.create_key(&["--user", &user]);
    let clients = gateways
        .each_ref()
        .map(|(_, lyss)| lyss.client().with_key(&key));
    futures::future::join_all((0..TURNS).map(|number| turn(&clients[number % 2], number))).await;

    // What the provider was sent: one conversation that grows by a turn each time.
    let mut before = Vec::new();
    let requests = openai.requests().into_iter();
    // Its models are asked for as well.
    for request in requests.filter(|request| !request.body.is_empty()) {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let asked = asked(&body["messages"]);
        assert_eq!(asked[..asked.len() - 1], before, "a turn is not seen");
        before = asked;
    }
    assert_eq!(before.len(), TURNS);

    for client in &clients {
        let page = client.get("/v1/sessions/s/messages").await.json();
        let stored = page["data"].as_array().unwrap();
        let turns: Vec<_> = stored
            .iter()
            .map(|one| one["turn"].as_u64().unwrap())
            .collect();
        assert!(
            turns
                .iter()
                .copied()
                .eq((2..2 + 2 * TURNS as u64).map(|n| n / 2))
        );
        let messages = stored.iter().map(|one| one["message"].clone()).collect();
        assert_eq!(
            asked(&messages),
            before,
            "the stored order is the order of the answers"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let url = services::new_database(&services::postgres()).await;
    all_are_stored_in_order(json!({"database": {"driver": "postgres", "source": url}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_sqlite_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shared.db");
    all_are_stored_in_order(json!({"database": {"driver": "sqlite", "source": file}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis() {
    let url = services::new_database(&services::postgres()).await;
    all_are_stored_in_order(json!({
        "database": {"driver": "postgres", "source": url},
        "redis": {"addr": services::redis()},
    }))
    .await;
}
