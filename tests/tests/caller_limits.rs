//! `limits` over one gateway and over two on one Redis: exact, told in headers, and shared out while Redis is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::{Answer, CHAT, Client, chat},
    process::{Lyss, Setup, free_port},
    services::Server,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

fn config(limits: &Value, provider: &MockProvider) -> Value {
    json!({
        "session": {"store": "memory"},
        "limits": limits,
        "providers": {"openai": {"api_key": "sk-openai", "base_url": provider.base_url_openai()}},
    })
}

async fn ask(client: &Client, user: &str) -> Answer {
    let mut body = chat("gpt-4o-mini", "hello");
    body["user_id"] = user.into();
    client.chat(&body).await
}

/// Asks so many times at once, in turn at each gateway; gives how many were answered.
async fn burst(clients: &[Client], user: &str, times: usize) -> usize {
    let mut calls = JoinSet::new();
    for client in clients.iter().cycle().take(times) {
        let (client, user) = (client.clone(), user.to_owned());
        calls.spawn(async move { ask(&client, &user).await });
    }
    let answers = calls.join_all().await;
    for answer in &answers {
        match answer.status {
            200 => {}
            429 => {
                assert_eq!(answer.json()["error"]["code"], "rate_limited");
                assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
                let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=61).contains(&after), "{after}");
                assert_eq!(answer.header("x-should-retry"), Some("true"));
                let left = answer.header("x-ratelimit-remaining-requests");
                assert_eq!(left, Some("0"));
            }
            status => panic!("{status}: {}", answer.json()),
        }
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

fn header(answer: &Answer, name: &str) -> String {
    let name = format!("x-ratelimit-{name}");
    let value = answer.header(&name);
    value.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_is_exact_and_says_what_is_left() {
    let provider = MockProvider::start(Options::default()).unwrap();
    let limits = json!({"rpm": 20, "tpm": 100_000});
    let lyss = Setup::new(&config(&limits, &provider)).start().await;
    let client = lyss.client();
    let first = ask(&client, "alice").await;
    assert_eq!(first.status, 200, "{}", first.json());
    assert_eq!(header(&first, "limit-requests"), "20");
    assert_eq!(header(&first, "remaining-requests"), "19");
    assert!(header(&first, "reset-requests").starts_with("1m0"));
    assert_eq!(header(&first, "limit-tokens"), "100000");
    let left: u64 = header(&first, "remaining-tokens").parse().unwrap();
    assert!((99_000..100_000).contains(&left), "{left}");

    let mut body = chat("gpt-4o-mini", "hello");
    body["user_id"] = "alice".into();
    body["stream"] = true.into();
    let stream = client.send("POST", CHAT, Some(&body)).await.unwrap();
    assert_eq!(stream.status, 200);
    assert_eq!(header(&stream, "remaining-requests"), "18");
    // What was estimated above what was used is back: the third call finds almost all of it.
    let used = first.json()["usage"]["total_tokens"].as_u64().unwrap();
    let third = ask(&client, "alice").await;
    let left: u64 = header(&third, "remaining-tokens").parse().unwrap();
    assert!(left > 100_000 - 2 * used - 600, "{left}, {used} used");

    assert_eq!(burst(std::slice::from_ref(&client), "alice", 60).await, 17);
    assert_eq!(burst(std::slice::from_ref(&client), "bob", 60).await, 20);
    // Only what the provider was asked for was answered.
    let asked = provider.requests();
    let asked = asked.iter().filter(|request| request.method == "POST");
    assert_eq!(asked.count(), 40);
    let models = client.get("/v1/models").await;
    assert_eq!(models.status, 200, "reading is not limited");
    assert!(models.header("x-ratelimit-limit-requests").is_none());
}

/// How many requests were counted without Redis so far. On a machine that is too busy to answer within 50 ms some are.
async fn alone(metrics: [u16; 2]) -> usize {
    let mut sum = 0;
    for port in metrics {
        let client = Client::new(([127, 0, 0, 1], port).into());
        let text = client.get("/metrics").await.body;
        let text = std::str::from_utf8(&text).unwrap();
        let name = "gateway_caller_limit_local_decisions_total ";
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        sum += value.expect("the metric").parse::<usize>().unwrap();
    }
    sum
}

/// What 100 at once are answered, but for those that were let in although Redis did not answer.
async fn together(clients: &[Client], metrics: [u16; 2], user: &str) -> usize {
    let before = alone(metrics).await;
    let answered = burst(clients, user, 100).await;
    let late = alone(metrics).await - before;
    assert!(
        (40..=40 + late).contains(&answered),
        "{answered}, {late} alone"
    );
    answered.min(40)
}

async fn degraded(lyss: &Lyss, what: &str) -> bool {
    let ready = lyss.client().get("/ready").await;
    assert_eq!(ready.status, 200, "{}", ready.json());
    ready.json()["degraded"].to_string().contains(what)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_are_exact_together_and_share_out_without_redis() {
    let mut redis = Server::redis();
    let provider = MockProvider::start(Options::default()).unwrap();
    let mut overlay = config(&json!({"rpm": 40}), &provider);
    overlay["data"] = json!({"redis": {"addr": redis.address()}});
    let metrics = [free_port(), free_port()];
    let setups = metrics.map(|port| {
        let addr = format!("127.0.0.1:{port}");
        overlay["monitoring"] = json!({"prometheus": {"enabled": true, "addr": addr}});
        Setup::new(&overlay)
    });
    let mut gateways = setups.each_ref().map(Setup::spawn);
    for lyss in &mut gateways {
        lyss.ready().await;
    }
    let clients = gateways.each_ref().map(Lyss::client);
    // Both have said that they are there.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(together(&clients, metrics, "alice").await, 40);

    redis.stop();
    let end = Instant::now() + Duration::from_secs(10);
    for lyss in &gateways {
        // The first that are asked for find out.
        while !degraded(lyss, "callers' limits").await {
            assert!(Instant::now() < end, "not noticed");
            ask(&lyss.client(), "somebody").await;
        }
    }
    let began = Instant::now();
    assert_eq!(burst(&clients[..1], "bob", 60).await, 20);
    assert_eq!(burst(&clients, "bob", 60).await, 20, "the other half");
    assert!(began.elapsed() < Duration::from_secs(5));
    let after = burst(&clients, "alice", 10).await;
    assert_eq!(after, 0, "what was given out before still counts");
    assert!(gateways[0].logs("gives out its share").await);

    redis.up();
    let end = Instant::now() + Duration::from_secs(10);
    for lyss in &gateways {
        while degraded(lyss, "callers' limits").await {
            assert!(Instant::now() < end, "not noticed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(together(&clients, metrics, "carol").await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_once_is_given_back_by_the_caller_that_leaves() {
    let provider = MockProvider::start(Options::default()).unwrap();
    let lyss = Setup::new(&config(&json!({"concurrent": 1}), &provider))
        .start()
        .await;
    let client = lyss.client();
    for _ in 0..20 {
        let mut body = chat("gpt-4o-mini", "hello");
        body["user_id"] = "alice".into();
        body["stream"] = true.into();
        let reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
        drop(reading);
        let end = Instant::now() + Duration::from_secs(5);
        while ask(&client, "alice").await.status != 200 {
            assert!(Instant::now() < end, "the place is not given back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
