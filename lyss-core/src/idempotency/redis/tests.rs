#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::{
    idempotency::SharedIdempotencyStore,
    redis::RedisSource,
    testing::conformance::idempotency_store::{self as promises, LEASE, fresh_claim},
};

fn source() -> RedisSource {
    RedisSource {
        // The machine that runs the tests is busy: the promises are not about speed.
        command_timeout: Duration::from_secs(5),
        ..RedisSource::default()
    }
}

async fn server() -> RedisHandle {
    let url = std::env::var("LYSS_TEST_REDIS").expect(
        "LYSS_TEST_REDIS is not set: run `make test`, or start a server with tests/services/redis.sh",
    );
    let (scheme, addr) = url.split_once("://").expect("redis://host:port/");
    let source = RedisSource {
        addr: addr.trim_end_matches('/').to_owned(),
        tls: scheme == "rediss",
        ..source()
    };
    RedisHandle::connect(source).await.unwrap()
}

async fn raw<T: ::redis::FromRedisValue + Send>(redis: &RedisHandle, args: &[&str]) -> T {
    let mut command = ::redis::cmd(args[0]);
    command.arg(&args[1..]);
    redis.command(&command).await.unwrap()
}

async fn conforms(redis: RedisHandle) {
    promises::run_all(async |ttl| {
        Arc::new(RedisIdempotencyStore::new(redis.clone(), ttl)) as SharedIdempotencyStore
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises() {
    conforms(server().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises_on_a_cluster() {
    let nodes = std::env::var("LYSS_TEST_REDIS_CLUSTER").expect(
        "LYSS_TEST_REDIS_CLUSTER is not set: run `make test`, or start one with tests/services/redis.sh cluster",
    );
    let source = RedisSource {
        cluster: nodes.split(',').map(str::to_owned).collect(),
        ..source()
    };
    conforms(RedisHandle::connect(source).await.unwrap()).await;
}

#[tokio::test]
async fn every_key_has_an_end_and_a_lost_reply_is_no_free_key() {
    let redis = server().await;
    let store = RedisIdempotencyStore::new(redis.clone(), Duration::from_secs(3600));
    let claim = fresh_claim();
    let (entry, reply) = (entry_key(&claim.id), reply_key(&claim.id));
    store.claim(&claim, LEASE).await.unwrap();
    let left: i64 = raw(&redis, &["PTTL", &entry]).await;
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
    assert!(store.complete(&claim, "the reply".into()).await.unwrap());
    for key in [&entry, &reply] {
        let left: i64 = raw(&redis, &["PTTL", key]).await;
        assert!((3_590_000..=3_600_000).contains(&left), "{key}: {left}");
    }
    let _: i64 = raw(&redis, &["DEL", &reply]).await;
    let again = promises::again(&claim);
    assert_eq!(store.claim(&again, LEASE).await.unwrap(), Claimed::Lost);
}

#[tokio::test]
async fn a_redis_that_is_away_is_an_error_and_no_free_key() {
    let source = RedisSource {
        addr: "127.0.0.1:1".into(),
        dial_timeout: Duration::from_millis(100),
        ..RedisSource::default()
    };
    let redis = RedisHandle::connect(source).await.unwrap();
    let store = RedisIdempotencyStore::new(redis, Duration::from_secs(60));
    let error = store.claim(&fresh_claim(), LEASE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
}
