#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cost;
mod faults;
mod proxy;

use std::sync::Arc;

use super::{
    scripts::{listing_key, session_keys},
    *,
};
use crate::{session::SharedSessionStore, testing::conformance::session_store as promises};

const HOUR: Duration = Duration::from_secs(3600);

/// The test server's address, and whether it speaks TLS.
fn server() -> (String, bool) {
    let url = std::env::var("LYSS_TEST_REDIS").expect(
        "LYSS_TEST_REDIS is not set: run `make test`, or start a server with tests/services/redis.sh",
    );
    let (scheme, addr) = url.split_once("://").expect("redis://host:port/");
    (addr.trim_end_matches('/').to_owned(), scheme == "rediss")
}

fn source(addr: String) -> RedisSource {
    RedisSource {
        addr,
        // The machine that runs the tests is busy: the promises are not about speed.
        command_timeout: Duration::from_secs(5),
        ..RedisSource::default()
    }
}

async fn store(ttl: Duration) -> RedisSessionStore {
    let (addr, tls) = server();
    let source = RedisSource {
        tls,
        ..source(addr)
    };
    RedisSessionStore::connect(source, ttl).await.unwrap()
}

async fn raw<T: ::redis::FromRedisValue + Send>(store: &RedisSessionStore, args: &[&str]) -> T {
    let mut command = ::redis::cmd(args[0]);
    command.arg(&args[1..]);
    store.redis.command(&command).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises() {
    promises::run_all(async |ttl| Arc::new(store(ttl).await) as SharedSessionStore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_order_of_turns() {
    promises::turns(async |ttl| Arc::new(store(ttl).await) as SharedSessionStore).await;
}

async fn on_a_cluster(ttl: Duration) -> SharedSessionStore {
    let nodes = std::env::var("LYSS_TEST_REDIS_CLUSTER").expect(
        "LYSS_TEST_REDIS_CLUSTER is not set: run `make test`, or start one with tests/services/redis.sh cluster",
    );
    let source = RedisSource {
        cluster: nodes.split(',').map(str::to_owned).collect(),
        ..source(String::new())
    };
    Arc::new(RedisSessionStore::connect(source, ttl).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises_on_a_cluster() {
    promises::run_all(on_a_cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_order_of_turns_on_a_cluster() {
    promises::turns(on_a_cluster).await;
}

#[tokio::test]
async fn damage_is_reported_and_left() {
    let store = store(HOUR).await;
    let store = &store;
    // The header by `{h}`, the messages by `{m}`.
    for damage in [
        "SET {h} garbage",
        "HSET {h} schema 2",
        "HSET {h} version 1.5e9",
        "HSET {h} user other",
        "DEL {m}",
        "SET {m} garbage",
        // What compression leaves.
        "HSET {h} prefix one",
        "HSET {h} upto 2",
        "HSET {h} upto -1",
        "HSET {h} covered 1e3",
        "HSET {h} compressing_until never",
    ] {
        promises::damage_is_reported_and_left(
            store,
            async |key| {
                let [header, messages, ..] = session_keys(key);
                let words = damage.split(' ').map(|word| match word {
                    "{h}" => header.as_str(),
                    "{m}" => messages.as_str(),
                    word => word,
                });
                let _: Value = raw(store, &words.collect::<Vec<_>>()).await;
            },
            async |key| {
                let [header, messages, ..] = session_keys(key);
                let mut dumps = Vec::new();
                for key in [header, messages] {
                    dumps.extend(raw::<Option<Vec<u8>>>(store, &["DUMP", &key]).await);
                }
                dumps
            },
        )
        .await;
    }
    // Damage that only reading finds.
    let key = promises::fresh_key("s");
    let [header, messages, ..] = session_keys(&key);
    store
        .append(&key, &promises::turn(&["a"]), 0)
        .await
        .unwrap();
    let field = "summary_tokens";
    let _: Value = raw(store, &["HSET", &header, field, "9999999999"]).await;
    let error = store.load(&key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionCorrupt);
    let _: Value = raw(store, &["HSET", &header, field, "0"]).await;
    let _: Value = raw(store, &["LSET", &messages, "0", "not a message"]).await;
    let error = store.load(&key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionCorrupt);
    // One damaged session does not hide the others of its user.
    let _: Value = raw(store, &["SET", &header, "garbage"]).await;
    let other = SessionKey {
        id: "t".into(),
        ..key.clone()
    };
    store.create(&other, None).await.unwrap();
    let page = store.list(&key.user_id, None, 10).await.unwrap();
    assert_eq!(page.sessions.len(), 1);
    assert_eq!(
        store.get(&key).await.unwrap_err().kind(),
        ErrorKind::SessionCorrupt
    );
}

#[tokio::test]
async fn the_listing_heals_itself() {
    let store = store(HOUR).await;
    let key = promises::fresh_key("s");
    let ghost = SessionKey {
        id: "ghost".into(),
        ..key.clone()
    };
    store.create(&key, None).await.unwrap();
    store.create(&ghost, None).await.unwrap();
    let [header, messages, ..] = session_keys(&ghost);
    let _: Value = raw(&store, &["DEL", &header, &messages]).await;
    let listing = listing_key(&key.user_id);
    assert_eq!(raw::<u64>(&store, &["ZCARD", &listing]).await, 2);
    assert_eq!(
        store
            .list(&key.user_id, None, 10)
            .await
            .unwrap()
            .sessions
            .len(),
        1
    );
    assert_eq!(raw::<u64>(&store, &["ZCARD", &listing]).await, 1);
    // A listing that was lost comes back with the next turn.
    let _: Value = raw(&store, &["DEL", &listing]).await;
    store
        .append(&key, &promises::turn(&["a"]), 0)
        .await
        .unwrap();
    assert_eq!(
        store
            .list(&key.user_id, None, 10)
            .await
            .unwrap()
            .sessions
            .len(),
        1
    );
}

#[tokio::test]
async fn every_key_has_an_end() {
    let store = store(HOUR).await;
    let key = promises::fresh_key("s");
    store.create(&key, None).await.unwrap();
    store
        .append(&key, &promises::turn(&["a"]), 0)
        .await
        .unwrap();
    let [header, messages, ..] = session_keys(&key);
    for name in [header, messages, listing_key(&key.user_id)] {
        let left: i64 = raw(&store, &["PTTL", &name]).await;
        assert!((3_590_000..=7_200_000).contains(&left), "{name}: {left}");
    }
}

fn ticket(instance: &str) -> Ticket {
    Ticket {
        request_id: RequestId::new(),
        instance: instance.into(),
        first: true,
        wait: true,
        lease: Duration::from_secs(60),
        queue_max: 100,
    }
}

#[tokio::test]
async fn a_queue_ends_with_its_last_turn_or_by_itself() {
    let store = store(HOUR).await;
    let key = promises::fresh_key("s");
    let [_, _, turns, queue, _] = session_keys(&key);
    let (a, b) = (ticket("a"), ticket("b"));
    for ticket in [&a, &b] {
        store.begin_turn(&key, ticket).await.unwrap();
    }
    for name in [&turns, &queue] {
        let left: i64 = raw(&store, &["PTTL", name]).await;
        assert!((600_000..=660_000).contains(&left), "{name}: {left}");
    }
    store.end_turn(&key, &a).await.unwrap();
    let begun = store.begin_turn(&key, &b).await.unwrap();
    assert_eq!(begun, Begun::Granted(None));
    let turn = Turn {
        request_id: b.request_id,
        ..promises::turn(&["a"])
    };
    store.append(&key, &turn, 0).await.unwrap();
    assert_eq!(
        raw::<u64>(&store, &["EXISTS", &turns, &queue]).await,
        0,
        "nothing is left of it"
    );
    assert!(!store.renew_turn(&key, &b).await.unwrap());
    store.end_turn(&key, &b).await.unwrap();
    assert_eq!(raw::<u64>(&store, &["EXISTS", &turns, &queue]).await, 0);
}

#[tokio::test]
async fn a_queue_that_cannot_be_read_is_reported_and_left() {
    let store = store(HOUR).await;
    for damage in [
        ["SET", "{t}", "garbage", ""],
        ["SET", "{q}", "garbage", ""],
        ["HSET", "{t}", "holder", "someone"],
        ["HSET", "{t}", "until", "later"],
    ] {
        let key = promises::fresh_key("s");
        let [_, _, turns, queue, _] = session_keys(&key);
        let a = ticket("a");
        store.begin_turn(&key, &a).await.unwrap();
        let words: Vec<_> = damage
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| match *word {
                "{t}" => turns.as_str(),
                "{q}" => queue.as_str(),
                word => word,
            })
            .collect();
        let _: Value = raw(&store, &words).await;
        let dump = async || -> Vec<Option<Vec<u8>>> {
            vec![
                raw(&store, &["DUMP", &turns]).await,
                raw(&store, &["DUMP", &queue]).await,
            ]
        };
        let before = dump().await;
        let turn = Turn {
            request_id: a.request_id,
            ..promises::turn(&["a"])
        };
        for (what, error) in [
            ("begin", store.begin_turn(&key, &a).await.err()),
            ("renew", store.renew_turn(&key, &a).await.err()),
            ("append", store.append(&key, &turn, 0).await.err()),
            ("end", store.end_turn(&key, &a).await.err()),
        ] {
            let kind = error.map(|error| error.kind());
            assert_eq!(kind, Some(ErrorKind::SessionCorrupt), "{damage:?} {what}");
        }
        assert_eq!(dump().await, before, "{damage:?} is left as it was");
        store.delete(&key).await.unwrap();
        assert_eq!(
            store.begin_turn(&key, &a).await.unwrap(),
            Begun::Granted(None),
            "{damage:?}: delete is the way out"
        );
    }
}

#[tokio::test]
async fn old_marks_of_instances_are_dropped() {
    let store = store(HOUR).await;
    let key = promises::fresh_key("s");
    let turns = &session_keys(&key)[2];
    let (a, b) = (ticket("a"), ticket("b"));
    for ticket in [&a, &b] {
        store.begin_turn(&key, ticket).await.unwrap();
    }
    for n in 0..60 {
        let mark = format!("seen old-{n}");
        let _: Value = raw(&store, &["HSET", turns, &mark, "1000"]).await;
    }
    store.end_turn(&key, &a).await.unwrap();
    assert!(raw::<u64>(&store, &["HLEN", turns]).await < 5);
    assert_eq!(
        store.begin_turn(&key, &b).await.unwrap(),
        Begun::Granted(None)
    );
}
