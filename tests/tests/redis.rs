//! Redis killed, frozen and restarted under load: only sessions fail, nothing acknowledged is lost, and all is well again
//! by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lyss_mock_provider::{MockProvider, Options, Script};
use lyss_tests::{
    client::{Answer, CHAT, Client, chat, is_done},
    process::Setup,
    services::Server,
};
use serde_json::{Value, json};

fn setup(mock: &MockProvider, redis: &Server) -> Setup {
    Setup::new(&json!({
        "data": {"redis": {"addr": redis.address()}},
        "auth": {"default_user": "alice"},
        "providers": {"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}},
    }))
}

fn turn(session: &str, text: &str) -> Value {
    let mut body = chat("gpt-4o-mini", text);
    body["session_id"] = session.into();
    body
}

fn is_away(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains("\"session_store_unavailable\"")
}

/// Waits until a turn is served again; gives how long that took.
async fn back(client: &Client, limit: Duration) -> Duration {
    let began = Instant::now();
    loop {
        let answer = client.chat(&turn("probe", "hello")).await;
        if answer.status == 200 {
            return began.elapsed();
        }
        assert!(is_away(&answer), "{}", answer.json());
        assert!(began.elapsed() < limit, "sessions are not back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Load and what it has seen.
#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    away: Arc<AtomicUsize>,
    stateless: Arc<AtomicUsize>,
}

impl Load {
    /// One conversation; gives the texts of the turns that were acknowledged.
    async fn converse(self, client: Client, session: String) -> Vec<String> {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            if self.stop.load(Relaxed) {
                break;
            }
            let text = format!("{session} turn {n}");
            let mut body = turn(&session, &text);
            body["stream"] = (n % 2 == 1).into();
            let answer = client.send("POST", CHAT, Some(&body)).await.unwrap();
            if answer.status == 200 && (n % 2 == 0 || is_done(&answer)) {
                acknowledged.push(text);
                self.served.fetch_add(1, Relaxed);
            } else {
                let said = String::from_utf8_lossy(&answer.body);
                assert!(is_away(&answer), "{text}: {} {said}", answer.status);
                self.away.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        acknowledged
    }

    async fn call(self, client: Client) {
        while !self.stop.load(Relaxed) {
            let answer = client.chat(&chat("gpt-4o-mini", "stateless")).await;
            assert_eq!(answer.status, 200, "{}", answer.json());
            self.stateless.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many more turns are served.
    async fn serve(&self, more: usize) {
        let enough = self.served.load(Relaxed) + more;
        let began = Instant::now();
        while self.served.load(Relaxed) < enough {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "no turns are served"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The user messages of a session, in order.
async fn stored(client: &Client, session: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/sessions/{session}/messages?limit=200&cursor={cursor}");
        let page = client.get(path.trim_end_matches("&cursor=")).await.json();
        for turn in page["data"].as_array().unwrap().chunks(2) {
            let [asked, answered] = turn else {
                panic!("half a turn: {turn:?}");
            };
            assert_eq!(answered["message"]["role"], "assistant");
            texts.push(asked["message"]["content"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return texts,
        }
    }
}

/// S3, and the stop of an operator: with the append-only file nothing that was acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_under_load() {
    let mock = MockProvider::start(Options::default()).unwrap();
    mock.set_script(Script {
        delay_ms: 5,
        ..Script::default()
    });
    let mut redis = Server::redis();
    let setup = setup(&mock, &redis);
    let lyss = setup.start().await;
    let client = lyss.client();
    let load = Load::default();
    let callers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(load.clone().call(client.clone())))
        .collect();
    let conversations: Vec<_> = (0..6)
        .map(|n| tokio::spawn(load.clone().converse(client.clone(), format!("s{n}"))))
        .collect();
    for round in 0..4 {
        load.serve(30).await;
        let (away, stateless) = (load.away.load(Relaxed), load.stateless.load(Relaxed));
        match round % 2 {
            0 => redis.kill(),
            _ => redis.stop(),
        }
        // Turns that had their answer are tried for two seconds.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(load.away.load(Relaxed) > away + 6, "sessions need it");
        assert!(
            load.stateless.load(Relaxed) > stateless + 10,
            "others do not"
        );
        redis.up();
        let took = back(&client, Duration::from_secs(8)).await;
        assert!(took <= Duration::from_secs(3), "{took:?}");
    }
    load.serve(30).await;
    load.stop.store(true, Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    for (n, conversation) in conversations.into_iter().enumerate() {
        let acknowledged = conversation.await.unwrap();
        let stored = stored(&client, &format!("s{n}")).await;
        // A turn of which the store could not say that it was stored may be there as well, at its place.
        let mut rest = stored.iter();
        for text in &acknowledged {
            assert!(
                rest.any(|other| other == text),
                "{text} is lost: {stored:?}"
            );
        }
        let mut once = stored.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), stored.len(), "a turn is stored twice");
    }
}

/// S5: a Redis that neither answers nor goes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_and_thawed() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let redis = Server::redis();
    let setup = setup(&mock, &redis);
    let lyss = setup.start().await;
    let client = lyss.client();
    for n in 0..5 {
        let answer = client.chat(&turn("s", &format!("turn {n}"))).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
    }
    // One turn runs into the frost.
    mock.set_script(Script {
        delay_ms: 300,
        ..Script::default()
    });
    let running = tokio::spawn({
        let client = client.clone();
        async move { client.chat(&turn("s", "caught")).await }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    redis.freeze();
    let caught = running.await.unwrap();
    assert!(is_away(&caught), "{}", caught.json());
    mock.set_script(Script::default());
    let dispatched = mock.ledger().len();
    for n in 0..20 {
        let began = Instant::now();
        let refused = client.chat(&turn("s", "refused")).await;
        let took = began.elapsed();
        assert!(is_away(&refused), "{}", refused.json());
        assert_eq!(refused.status, 503);
        // Asked three times with pauses between, at 50 ms each until Redis is not asked any more.
        let limit = if n < 5 { 700 } else { 400 };
        assert!(took < Duration::from_millis(limit), "{n}: {took:?}");
        let began = Instant::now();
        let answer = client.chat(&chat("gpt-4o-mini", "stateless")).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        let took = began.elapsed();
        assert!(took < Duration::from_millis(300), "stateless {n}: {took:?}");
    }
    assert_eq!(
        mock.ledger().len(),
        dispatched + 20,
        "no refused turn was dispatched"
    );
    redis.thaw();
    let took = back(&client, Duration::from_secs(8)).await;
    assert!(took <= Duration::from_secs(2), "{took:?}");
    // The turn that ran into it holds up nobody.
    let began = Instant::now();
    let answer = client.chat(&turn("s", "after")).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    let stored = stored(&client, "s").await;
    assert!(stored.starts_with(&["turn 0".to_owned()]), "{stored:?}");
    assert!(stored.ends_with(&["after".to_owned()]), "{stored:?}");
    assert!((6..=7).contains(&stored.len()), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_warns_of_a_redis_that_forgets() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let redis = Server::redis();
    let warning = "redis keeps no append-only file";
    let setup = setup(&mock, &redis);
    let lyss = setup.start().await;
    assert!(!lyss.log().contains(warning));
    drop(lyss);
    let mut connection = redis::Client::open(redis.url.as_str())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    redis::cmd("CONFIG")
        .arg(&["SET", "appendonly", "no"])
        .exec_async(&mut connection)
        .await
        .unwrap();
    let lyss = setup.start().await;
    assert!(lyss.logs(warning).await, "{}", lyss.log());
    assert_eq!(lyss.log().matches(warning).count(), 1, "once");
}
