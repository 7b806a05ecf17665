#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Instant};

use super::{super::RateLimits, *};
use crate::redis::RedisSource;

/// The machine that runs the tests is busy.
const TEST_PATIENCE: Duration = Duration::from_millis(250);

async fn windows(source: RedisSource) -> SharedWindows {
    let source = RedisSource {
        command_timeout: TEST_PATIENCE,
        ..source
    };
    SharedWindows {
        patience: TEST_PATIENCE,
        ..SharedWindows::new(RedisHandle::connect(source).await.unwrap())
    }
}

async fn single() -> SharedWindows {
    let url = std::env::var("LYSS_TEST_REDIS").expect("LYSS_TEST_REDIS: run `make test`");
    let (scheme, addr) = url.split_once("://").expect("redis://host:port/");
    windows(RedisSource {
        addr: addr.trim_end_matches('/').to_owned(),
        tls: scheme == "rediss",
        ..RedisSource::default()
    })
    .await
}

async fn cluster() -> SharedWindows {
    let nodes = std::env::var("LYSS_TEST_REDIS_CLUSTER")
        .expect("LYSS_TEST_REDIS_CLUSTER: run `make test`, or tests/services/redis.sh cluster");
    windows(RedisSource {
        cluster: nodes
            .split(',')
            .map(|node| {
                node.trim()
                    .trim_start_matches("redis://")
                    .trim_end_matches('/')
                    .to_owned()
            })
            .collect(),
        ..RedisSource::default()
    })
    .await
}

fn limit(most: u32) -> RateLimit {
    RateLimit::of_provider(&uuid::Uuid::new_v4().to_string(), most)
}

async fn length(windows: &SharedWindows, limit: &RateLimit) -> usize {
    let mut command = ::redis::cmd("LLEN");
    command.arg(key(limit));
    windows.redis.command(&command).await.unwrap()
}

/// Two instances under load: the starts of both, in order.
async fn starts(one: SharedWindows, two: SharedWindows, most: u32, span: Duration) -> Vec<Instant> {
    let id = uuid::Uuid::new_v4().to_string();
    let end = Instant::now() + span;
    let mut tasks = tokio::task::JoinSet::new();
    for windows in [one, two] {
        let limits = Arc::new(RateLimits {
            shared: Some(windows),
            ..RateLimits::default()
        });
        // Each instance has its own idea of the limit, as two processes have.
        let limit = Arc::new(RateLimit::of_provider(&id, most));
        for _ in 0..4 {
            let (limits, limit) = (limits.clone(), limit.clone());
            tasks.spawn(async move {
                let mut starts = Vec::new();
                while Instant::now() < end {
                    if limits.take(&[&limit]).await {
                        starts.push(Instant::now());
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                starts
            });
        }
    }
    let mut all: Vec<Instant> = tasks.join_all().await.concat();
    all.sort_unstable();
    all
}

fn assert_at_most(most: usize, starts: &[Instant]) {
    for (at, start) in starts.iter().enumerate() {
        let within = starts[at..]
            .iter()
            .take_while(|later| **later - *start < WINDOW)
            .count();
        assert!(within <= most, "{within} starts within a second");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_a_window() {
    let starts = starts(
        single().await,
        single().await,
        7,
        Duration::from_millis(3000),
    )
    .await;
    assert_at_most(7, &starts);
    // 0 s, 1.25 s, 2.5 s: the window is given out in full each time.
    assert_eq!(starts.len(), 21, "{starts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_a_window_in_a_cluster() {
    let starts = starts(
        cluster().await,
        cluster().await,
        7,
        Duration::from_millis(1500),
    )
    .await;
    assert_at_most(7, &starts);
    assert_eq!(starts.len(), 14, "{starts:?}");
}

#[tokio::test]
async fn a_place_in_both_windows_or_in_none() {
    for windows in [single().await, cluster().await] {
        let (rule, provider) = (limit(5), limit(2));
        for _ in 0..2 {
            assert!(matches!(
                windows.take(&[&rule, &provider]).await,
                Told::Taken
            ));
        }
        for _ in 0..3 {
            let Told::Full(full, pause) = windows.take(&[&rule, &provider]).await else {
                panic!("there is no place");
            };
            assert!(std::ptr::eq(full, &provider));
            assert!(
                pause <= WINDOW + TEST_PATIENCE && pause > WINDOW / 2,
                "{pause:?}"
            );
        }
        assert_eq!(length(&windows, &rule).await, 2);
        assert_eq!(length(&windows, &provider).await, 2);
    }
}

#[tokio::test]
async fn a_window_is_forgotten_and_never_grows_beyond_its_limit() {
    let windows = single().await;
    let limit = limit(30);
    let end = Instant::now() + Duration::from_millis(2700);
    while Instant::now() < end {
        windows.take(&[&limit]).await;
        assert!(length(&windows, &limit).await <= 60);
    }
    tokio::time::sleep(WINDOW + TEST_PATIENCE + Duration::from_millis(100)).await;
    assert_eq!(length(&windows, &limit).await, 0);
}

#[tokio::test]
async fn an_instance_counts_alone_while_redis_is_away() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let windows = windows(RedisSource {
        addr: format!("127.0.0.1:{port}"),
        dial_timeout: Duration::from_millis(100),
        ..RedisSource::default()
    })
    .await;
    let limits = RateLimits {
        shared: Some(windows),
        ..RateLimits::default()
    };
    let limit = limit(3);
    let begin = Instant::now();
    for _ in 0..3 {
        assert!(limits.take(&[&limit]).await);
    }
    assert!(!limits.take(&[&limit]).await);
    assert_eq!(limits.alone(), 3);
    assert!(
        begin.elapsed() < Duration::from_millis(50),
        "it is not waited for"
    );
}
