#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

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

/// Between a store and its server: counts what passes, and can hold it up.
struct Proxy {
    addr: String,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    frozen: Arc<AtomicBool>,
    thawed: Arc<Notify>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            addr: listener.local_addr().unwrap().to_string(),
            sent: Arc::default(),
            received: Arc::default(),
            frozen: Arc::default(),
            thawed: Arc::default(),
        };
        let (sent, received) = (proxy.sent.clone(), proxy.received.clone());
        let (frozen, thawed) = (proxy.frozen.clone(), proxy.thawed.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server().0).await.unwrap();
                let (client_in, client_out) = client.into_split();
                let (server_in, server_out) = server.into_split();
                for (mut from, mut to, count) in [
                    (client_in, server_out, sent.clone()),
                    (server_in, client_out, received.clone()),
                ] {
                    let (frozen, thawed) = (frozen.clone(), thawed.clone());
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 65536];
                        while let Ok(n @ 1..) = from.read(&mut buffer).await {
                            count.fetch_add(n as u64, Ordering::SeqCst);
                            let waiting = thawed.notified();
                            if frozen.load(Ordering::SeqCst) {
                                waiting.await;
                            }
                            if to.write_all(&buffer[..n]).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        proxy
    }

    fn bytes(&self) -> u64 {
        self.sent.load(Ordering::SeqCst) + self.received.load(Ordering::SeqCst)
    }
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
    // Damage that only reading the messages can find.
    let key = promises::fresh_key("s");
    store
        .append(&key, &promises::turn(&["a"]), 0)
        .await
        .unwrap();
    let _: Value = raw(
        store,
        &["LSET", &session_keys(&key)[1], "0", "not a message"],
    )
    .await;
    let error = store.load(&key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionCorrupt);
    // One damaged session does not hide the others of its user.
    let _: Value = raw(store, &["SET", &session_keys(&key)[0], "garbage"]).await;
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
async fn an_append_costs_as_much_as_its_turn() {
    let proxy = Proxy::start().await;
    let store = RedisSessionStore::connect(source(proxy.addr.clone()), HOUR)
        .await
        .unwrap();
    let key = promises::fresh_key("s");
    let text = "x".repeat(1000);
    let mut costs = Vec::new();
    for version in 0..300 {
        let before = proxy.bytes();
        store
            .append(&key, &promises::turn(&[&text, &text]), version)
            .await
            .unwrap();
        costs.push(proxy.bytes() - before);
    }
    // The first ones send the script.
    let (early, late) = (costs[10], costs[299]);
    assert!(
        (2000..3500).contains(&late),
        "{late} bytes for a turn of 2000"
    );
    assert!(
        late <= early + 32,
        "{early} bytes after 10 turns, {late} after 300"
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

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_given_up_after_five_commands_and_found_again() {
    let proxy = Proxy::start().await;
    let source = RedisSource {
        command_timeout: Duration::from_millis(50),
        dial_timeout: Duration::from_secs(1),
        ..source(proxy.addr.clone())
    };
    let store = RedisSessionStore::connect(source, HOUR).await.unwrap();
    let key = promises::fresh_key("s");
    proxy.frozen.store(true, Ordering::SeqCst);
    for n in 0..20 {
        let begin = Instant::now();
        let error = store.load(&key).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::SessionStoreUnavailable,
            "{error:?}"
        );
        let took = begin.elapsed();
        if n < 5 {
            assert!((45..200).contains(&took.as_millis()), "{n}: {took:?}");
        } else {
            assert!(took < Duration::from_millis(20), "{n}: {took:?}");
        }
    }
    assert!(store.ping().await.is_err());
    proxy.frozen.store(false, Ordering::SeqCst);
    proxy.thawed.notify_waiters();
    let begin = Instant::now();
    while store.ping().await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(2), "not found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.load(&key).await.unwrap(), None);
}
