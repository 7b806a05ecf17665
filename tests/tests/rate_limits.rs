//! `max_rps` over two gateways on one Redis: what they send together keeps to it, Redis or not the service goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::{Client, chat},
    process::{Lyss, Setup, free_port},
    services::Server,
};
use serde_json::json;
use tokio::task::JoinSet;

const MAX_RPS: usize = 20;

/// Calls as fast as the gateways let for a while; gives the number of answers, and the slowest.
async fn load(clients: &[Client], span: Duration) -> (usize, Duration) {
    let end = Instant::now() + span;
    let mut callers = JoinSet::new();
    for client in clients {
        for _ in 0..4 {
            let client = client.clone();
            callers.spawn(async move {
                let (mut answered, mut slowest) = (0, Duration::ZERO);
                while Instant::now() < end {
                    let began = Instant::now();
                    let answer = client.chat(&chat("gpt-4o-mini", "hello")).await;
                    slowest = slowest.max(began.elapsed());
                    match answer.status {
                        200 => answered += 1,
                        503 => {
                            assert_eq!(answer.json()["error"]["code"], "overloaded");
                            assert!(answer.header("retry-after").is_some());
                        }
                        status => panic!("{status}: {}", answer.json()),
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (answered, slowest)
            });
        }
    }
    callers
        .join_all()
        .await
        .into_iter()
        .fold((0, Duration::ZERO), |(sum, slowest), (answered, took)| {
            (sum + answered, slowest.max(took))
        })
}

/// The most calls that the provider saw begin within any one second.
fn busiest_second(provider: &MockProvider) -> usize {
    let mut starts: Vec<u64> = provider
        .ledger()
        .iter()
        .filter(|entry| entry.path.ends_with("/chat/completions"))
        .map(|entry| entry.started_ms)
        .collect();
    starts.sort_unstable();
    let within = |start: &u64| {
        starts
            .iter()
            .filter(|at| (*start..start + 1000).contains(at))
            .count()
    };
    starts.iter().map(within).max().unwrap_or_default()
}

/// How many calls were counted without Redis so far. On a machine that is too busy to answer within 50 ms some are.
async fn alone(metrics: [u16; 2]) -> usize {
    let mut sum = 0;
    for port in metrics {
        let client = Client::new(([127, 0, 0, 1], port).into());
        let text = client.get("/metrics").await.body;
        sum += std::str::from_utf8(&text)
            .unwrap()
            .lines()
            .find_map(|line| {
                line.strip_prefix("gateway_rate_limit_local_decisions_total ")?
                    .parse::<usize>()
                    .ok()
            })
            .expect("the metric");
    }
    sum
}

/// Waits until both say that Redis is there, or that it is not.
async fn redis_is(up: bool, gateways: &[Lyss]) {
    for lyss in gateways {
        let end = Instant::now() + Duration::from_secs(10);
        while lyss.client().get("/health").await.json()["status"]["redis"] != up {
            assert!(Instant::now() < end, "redis up: {up}: not noticed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_max_rps_and_go_on_without_redis() {
    let mut redis = Server::redis();
    let provider = MockProvider::start(Options::default()).unwrap();
    let metrics = [free_port(), free_port()];
    let setup = |metrics: u16| {
        Setup::new(&json!({
            "data": {"redis": {"addr": redis.address()}},
            "session": {"store": "memory"},
            "providers": {"openai": {
                "api_key": "sk-openai", "base_url": provider.base_url_openai(), "max_rps": MAX_RPS,
            }},
            "monitoring": {"prometheus": {"enabled": true, "addr": format!("127.0.0.1:{metrics}")}},
        }))
    };
    let setups = metrics.map(setup);
    let mut gateways = setups.each_ref().map(Setup::spawn);
    for lyss in &mut gateways {
        lyss.ready().await;
    }
    let clients = gateways.each_ref().map(Lyss::client);

    let (answered, _) = load(&clients, Duration::from_secs(4)).await;
    let busiest = busiest_second(&provider);
    assert!(busiest <= MAX_RPS + alone(metrics).await, "{busiest}");
    // At 0, 1.05, 2.1 and 3.15 s: what is allowed is also given out.
    assert!(answered >= 3 * MAX_RPS, "{answered} answers in 4 s");

    redis.stop();
    let (answered, slowest) = load(&clients, Duration::from_secs(3)).await;
    assert!(
        answered >= 3 * MAX_RPS,
        "{answered} answers in 3 s without redis"
    );
    assert!(
        slowest < Duration::from_secs(1),
        "a call waited {slowest:?} for redis"
    );
    redis_is(false, &gateways).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    provider.reset();
    load(&clients, Duration::from_secs(2)).await;
    // Each by itself. The way to the provider may bunch a few: no slack is kept for that then.
    let busiest = busiest_second(&provider);
    assert!(
        (MAX_RPS + 1..=2 * MAX_RPS + MAX_RPS / 2).contains(&busiest),
        "{busiest}"
    );
    assert!(alone(metrics).await > 0);

    redis.up();
    redis_is(true, &gateways).await;
    // What was started alone is not known there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    provider.reset();
    let before = alone(metrics).await;
    let (answered, _) = load(&clients, Duration::from_secs(3)).await;
    let (busiest, late) = (busiest_second(&provider), alone(metrics).await - before);
    assert!(busiest <= MAX_RPS + late, "{busiest}, {late} decided alone");
    assert!(answered >= 2 * MAX_RPS, "{answered} answers in 3 s");
}
