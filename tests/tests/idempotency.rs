//! B9: a request that is sent again with its idempotency key is done once, whoever dies or leaves meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use lyss_mock_provider::{Entry, MockProvider, Options, Outcome, Rule, Script};
use lyss_tests::{
    client::{Answer, CHAT, Client, chat, is_done},
    process::{Lyss, Setup},
    services::{self, Server},
    store::{Store, of_model},
    world::lay_over,
};
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::watch;

struct Gateway {
    mock: MockProvider,
    setup: Setup,
    lyss: Lyss,
}

impl Gateway {
    /// On SQLite; `idempotency` is that section of the configuration.
    async fn start(idempotency: Value) -> Self {
        Self::with(json!({"idempotency": idempotency})).await
    }

    async fn with(overlay: Value) -> Self {
        let mock = MockProvider::start(Options::default()).unwrap();
        let mut config = json!({
            "auth": {"default_user": "somebody"},
            "providers": {"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}},
        });
        lay_over(&mut config, &overlay);
        let setup = Setup::new(&config);
        let lyss = setup.start().await;
        Self { mock, setup, lyss }
    }

    fn keyed(&self, key: &str) -> Client {
        self.lyss.client().with_idempotency_key(key)
    }

    async fn kill_and_restart(&mut self) {
        self.lyss.kill();
        self.lyss = self.setup.start().await;
    }

    /// How the provider answers the next request for a model.
    fn once(&self, model: &str, script: Script) {
        self.mock.rule(Rule {
            model: Some(model.to_owned()),
            times: Some(1),
            script,
            ..Rule::default()
        });
    }

    /// What the provider was asked for a model.
    fn served(&self, model: &str) -> Vec<Entry> {
        served(&self.mock, model)
    }

    /// Waits until the provider has been asked for a model, and its entry is so.
    async fn when(&self, model: &str, wanted: impl Fn(&Entry) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.served(model).iter().any(&wanted) {
            assert!(Instant::now() < end, "{model}: {:?}", self.served(model));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn served(mock: &MockProvider, model: &str) -> Vec<Entry> {
    let mut entries = mock.ledger();
    entries.retain(|entry| entry.model == model);
    entries
}

fn slow(ms: u64) -> Script {
    Script {
        delay_ms: ms,
        ..Script::default()
    }
}

fn streamed(model: &str, text: &str) -> Value {
    let mut body = chat(model, text);
    body["stream"] = true.into();
    body
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

fn code(answer: &Answer) -> String {
    let json = answer.json();
    json["error"]["code"].as_str().unwrap_or_default().into()
}

/// Stops a server, and waits until it is gone.
async fn stop(redis: &mut Server) {
    redis.stop();
    let address = redis.address();
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All answers are the same one, of which one was made and the others were kept.
fn assert_one(answers: &[Answer], mock: &MockProvider, model: &str) {
    for answer in answers {
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 200, "{text}");
        assert_eq!(answer.body, answers[0].body, "{text}");
    }
    let ids: BTreeSet<&str> = answers
        .iter()
        .filter_map(|answer| answer.header("x-request-id"))
        .collect();
    assert_eq!(
        ids.len(),
        answers.len(),
        "each request has an id of its own"
    );
    let made = answers.iter().filter(|answer| !is_replay(answer)).count();
    assert_eq!(made, 1);
    assert_eq!(served(mock, model).len(), 1);
}

/// As many rows as answers, but the tokens of one.
async fn assert_billed_once(store: &Store, mock: &MockProvider, model: &str, answers: usize) {
    let complete = |rows: &[Value]| of_model(rows, model).len() >= answers;
    let rows = store.rows_when(Duration::from_secs(10), complete).await;
    let rows = of_model(&rows, model);
    assert_eq!(rows.len(), answers);
    let entry = &served(mock, model)[0];
    for (column, tokens) in [
        ("input_tokens", entry.prompt_tokens),
        ("output_tokens", entry.planned_tokens),
    ] {
        let sum: i64 = rows.iter().map(|row| row[column].as_i64().unwrap()).sum();
        assert_eq!(sum, tokens, "{column}");
    }
    assert!(
        rows.iter().all(|row| row["status"] == "success"),
        "{rows:?}"
    );
    let attempts = |row: &&&Value| row["attempts"] == 1;
    assert_eq!(rows.iter().filter(attempts).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_are_one() {
    let gateway = Gateway::start(json!({})).await;
    gateway.mock.set_script(slow(300));
    let mut body = chat("m-unary", "hello");
    body["session_id"] = "s1".into();
    let client = gateway.keyed("one");
    let answers = join_all((0..50).map(|_| client.chat(&body))).await;
    assert_one(&answers, &gateway.mock, "m-unary");
    assert_billed_once(&gateway.setup.sqlite(), &gateway.mock, "m-unary", 50).await;
    let session = client.get("/v1/sessions/s1").await.json();
    assert_eq!(session["message_count"], 2, "one turn: {session}");

    let body = streamed("m-stream", "several words to be echoed in several chunks");
    let client = gateway.keyed("two");
    let answers = join_all((0..50).map(|_| client.chat(&body))).await;
    assert!(is_done(&answers[0]));
    assert_one(&answers, &gateway.mock, "m-stream");
    assert_billed_once(&gateway.setup.sqlite(), &gateway.mock, "m-stream", 50).await;

    // Another key is another request, and so is none.
    let other = gateway.keyed("three").chat(&body).await;
    let none = gateway.lyss.client().chat(&body).await;
    assert!(!is_replay(&other) && !is_replay(&none));
    assert_eq!(gateway.served("m-stream").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_keys_and_api_keys_do_not() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let url = services::new_database(&services::postgres()).await;
    // Once with Redis, once with the database alone.
    for (round, data) in [
        json!({"database": {"driver": "postgres", "source": url}, "redis": {"addr": services::redis()}}),
        json!({"database": {"driver": "postgres", "source": url}}),
    ]
    .into_iter()
    .enumerate()
    {
        let setup = || {
            Setup::new(&json!({
                "data": data,
                "auth": {"mode": "keys", "pepper": "a pepper that both instances share"},
                "providers": {"openai": {"api_key": "sk-openai", "base_url": mock.base_url_openai()}},
            }))
        };
        let (first, second) = (setup(), setup());
        let (mut one, mut two) = (first.spawn(), second.spawn());
        tokio::join!(one.ready(), two.ready());
        // The same user: it is the key that separates.
        let [alice, other] = [(); 2].map(|()| first.create_key(&["--user", "alice"]));
        let clients = |secret: &str| {
            [&one, &two].map(|lyss| lyss.client().with_key(secret).with_idempotency_key("k"))
        };
        mock.set_script(slow(300));
        let model = format!("m-{round}");
        let body = streamed(&model, "hello");
        let both = clients(&alice);
        let answers = join_all((0..40).map(|n| both[n % 2].chat(&body))).await;
        assert_one(&answers, &mock, &model);

        mock.reset();
        let [client, _] = clients(&other);
        assert!(!is_replay(&client.chat(&body).await), "another's answer");
        let reused = both[1].chat(&chat(&model, "other")).await;
        assert_eq!((reused.status, code(&reused).as_str()), (422, "idempotency_key_reused"));
        assert_eq!(reused.header("x-should-retry"), Some("false"));

        // Both end; what they knew is known to the next one.
        drop((one, two));
        let third = first.start().await;
        let client = third.client().with_key(&alice).with_idempotency_key("k");
        let again = client.chat(&body).await;
        assert!(is_replay(&again));
        assert_eq!(again.body, answers[0].body);
    }
}

/// The request of a killed process is sent again.
async fn assert_unknown(gateway: &Gateway, key: &str, body: &Value) {
    let model = body["model"].as_str().unwrap();
    for _ in 0..2 {
        let answer = gateway.keyed(key).chat(body).await;
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (409, "idempotency_outcome_unknown"),
            "{}",
            answer.json()
        );
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    assert_eq!(gateway.served(model).len(), 1, "dispatched twice");
    let answer = gateway.keyed(&format!("another-{key}")).chat(body).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_the_provider_works() {
    let mut gateway = Gateway::start(json!({"lease": "1s"})).await;
    let dripping = Script {
        every_ms: 100,
        chunks: Some(500),
        ..Script::default()
    };
    for (body, script) in [
        (chat("m-unary", "hello"), slow(30_000)),
        (streamed("m-stream", "hello"), dripping),
    ] {
        let model = body["model"].as_str().unwrap();
        gateway.once(model, script);
        let (client, sent) = (gateway.keyed(model), body.clone());
        let call = tokio::spawn(async move { client.send("POST", CHAT, Some(&sent)).await });
        gateway.when(model, |_| true).await;
        gateway.kill_and_restart().await;
        assert!(call.await.unwrap().is_err(), "the connection broke");
        assert_unknown(&gateway, model, &body).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_reply_and_its_storing() {
    let mut gateway = Gateway::start(json!({"lease": "1s"})).await;
    gateway.once("m", slow(500));
    let body = chat("m", "hello");
    let (client, sent) = (gateway.keyed("k"), body.clone());
    let call = tokio::spawn(async move { client.send("POST", CHAT, Some(&sent)).await });
    gateway.when("m", |_| true).await;
    // Who holds the write lock keeps the gateway from storing the reply.
    let options = SqliteConnectOptions::new()
        .filename(gateway.setup.dir.path().join("data/lyss.db"))
        .busy_timeout(Duration::from_secs(5));
    let mut lock = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut lock)
        .await
        .unwrap();
    gateway
        .when("m", |entry| entry.outcome == Outcome::Finished)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!call.is_finished(), "acknowledged before it was stored");
    gateway.lyss.kill();
    assert!(call.await.unwrap().is_err());
    lock.close().await.unwrap();
    gateway.lyss = gateway.setup.start().await;
    assert_unknown(&gateway, "k", &body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_anything_was_dispatched() {
    let mut gateway = Gateway::start(json!({"lease": "1s"})).await;
    gateway.once("first", slow(30_000));
    let mut first = chat("first", "hello");
    first["session_id"] = "s".into();
    let mut second = chat("second", "hello");
    second["session_id"] = "s".into();
    let (client, sent) = (gateway.lyss.client(), first.clone());
    let holder = tokio::spawn(async move { client.send("POST", CHAT, Some(&sent)).await });
    gateway.when("first", |_| true).await;
    // Waits for its turn, its key claimed.
    let (client, sent) = (gateway.keyed("k"), second.clone());
    let waiting = tokio::spawn(async move { client.send("POST", CHAT, Some(&sent)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    gateway.kill_and_restart().await;
    assert!(holder.await.unwrap().is_err() && waiting.await.unwrap().is_err());
    assert!(gateway.served("second").is_empty());
    let answer = gateway.keyed("k").chat(&second).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert!(!is_replay(&answer));
    assert!(is_replay(&gateway.keyed("k").chat(&second).await));
    assert_eq!(gateway.served("second").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_left_comes_back_for_its_answer() {
    let gateway = Gateway::start(json!({})).await;
    gateway.once("m-unary", slow(500));
    let mut body = chat("m-unary", "hello");
    body["session_id"] = "s-unary".into();
    let (client, sent) = (gateway.keyed("unary"), body.clone());
    let call = tokio::spawn(async move { client.send("POST", CHAT, Some(&sent)).await });
    gateway.when("m-unary", |_| true).await;
    call.abort();
    let _ = call.await;
    let answer = gateway.keyed("unary").chat(&body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert!(is_replay(&answer));
    assert_eq!(gateway.served("m-unary").len(), 1);

    // Before the first chunk, in the middle, and when all but the end is there.
    for k in [0, 5, 59] {
        let model = format!("m-{k}");
        gateway.once(
            &model,
            Script {
                delay_ms: 200,
                chunks: Some(60),
                size: Some(6),
                every_ms: 10,
                ..Script::default()
            },
        );
        let mut body = streamed(&model, "hello");
        body["session_id"] = format!("s-{k}").into();
        let client = gateway.keyed(&format!("stream-{k}"));
        if k == 0 {
            let (client, sent) = (client.clone(), body.clone());
            let call = tokio::spawn(async move { client.open("POST", CHAT, Some(&sent)).await });
            gateway.when(&model, |_| true).await;
            call.abort();
            let _ = call.await;
        } else {
            let mut reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
            assert!(reading.events(k).await.unwrap());
            drop(reading);
        }
        let answer = client.chat(&body).await;
        assert!(is_done(&answer), "{:?}", answer.body);
        assert!(is_replay(&answer));
        let entries = gateway.served(&model);
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0].outcome, Outcome::Finished);
        let session = format!("/v1/sessions/s-{k}");
        let session = client.get(&session).await.json();
        assert_eq!(session["message_count"], 2, "{session}");
        assert_billed_once(&gateway.setup.sqlite(), &gateway.mock, &model, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_and_size_have_bounds() {
    let gateway = Gateway::start(json!({
        "wait": "300ms", "drain": "200ms", "max_bytes": "4KiB",
    }))
    .await;
    gateway.once("m", slow(2_000));
    let body = chat("m", "hello");
    let (client, sent) = (gateway.keyed("k"), body.clone());
    let call = tokio::spawn(async move { client.chat(&sent).await });
    gateway.when("m", |_| true).await;
    let began = Instant::now();
    let busy = gateway.keyed("k").chat(&body).await;
    assert_eq!(
        (busy.status, code(&busy).as_str()),
        (409, "idempotency_in_progress")
    );
    assert!((250..1500).contains(&began.elapsed().as_millis()));
    assert_eq!(busy.header("x-should-retry"), Some("true"));
    assert_eq!(busy.header("retry-after"), Some("1"));
    let first = call.await.unwrap();
    let again = gateway.keyed("k").chat(&body).await;
    assert_eq!(first.body, again.body);

    for body in [
        chat("m-large", "hello"),
        streamed("m-large-stream", "hello"),
    ] {
        let model = body["model"].as_str().unwrap();
        let large = Script {
            reply_bytes: Some(8000),
            ..Script::default()
        };
        gateway.once(model, large);
        let first = gateway.keyed(model).chat(&body).await;
        assert_eq!(first.status, 200);
        assert!(first.body.len() > 8000);
        let again = gateway.keyed(model).chat(&body).await;
        assert_eq!(code(&again), "idempotency_outcome_unknown");
        assert_eq!(gateway.served(model).len(), 1);
    }

    // A caller that does not come back is waited for so long, and no longer.
    let body = streamed("m-left", "hello");
    let dripping = Script {
        every_ms: 50,
        chunks: Some(500),
        ..Script::default()
    };
    gateway.once("m-left", dripping);
    let client = gateway.keyed("left");
    let mut reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
    assert!(reading.events(3).await.unwrap());
    drop(reading);
    gateway
        .when("m-left", |entry| entry.outcome == Outcome::ClientClosed)
        .await;
    let again = client.chat(&body).await;
    assert_eq!(
        code(&again),
        "idempotency_outcome_unknown",
        "{}",
        again.json()
    );
    assert_eq!(gateway.served("m-left").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_stops_only_who_needs_it() {
    let mut redis = Server::redis();
    let gateway = Gateway::with(json!({"data": {"redis": {"addr": redis.address()}}})).await;
    let body = chat("m", "hello");
    assert_eq!(gateway.keyed("before").chat(&body).await.status, 200);
    stop(&mut redis).await;
    let asked = gateway.served("m").len();
    for n in 0..10 {
        let answer = gateway.keyed(&format!("during-{n}")).chat(&body).await;
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (503, "store_unavailable")
        );
        assert_eq!(answer.header("x-should-retry"), Some("true"));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(
        gateway.served("m").len(),
        asked,
        "dispatched without its key"
    );
    assert_eq!(gateway.lyss.client().chat(&body).await.status, 200);
    redis.up();
    let end = Instant::now() + Duration::from_secs(10);
    while gateway.keyed("after").chat(&body).await.status != 200 {
        assert!(Instant::now() < end, "not back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_replay(&gateway.keyed("after").chat(&body).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_store_went_away_is_delivered_and_never_made_again() {
    let mut redis = Server::redis();
    let gateway = Gateway::with(json!({
        "data": {"redis": {"addr": redis.address()}},
        "session": {"store": "memory"},
        "idempotency": {"lease": "1s"},
    }))
    .await;
    gateway.once("m", slow(1_000));
    let body = chat("m", "hello");
    let (client, sent) = (gateway.keyed("k"), body.clone());
    let call = tokio::spawn(async move { client.chat(&sent).await });
    gateway.when("m", |_| true).await;
    stop(&mut redis).await;
    let first = call.await.unwrap();
    assert_eq!(first.status, 200, "{}", first.json());
    redis.up();
    // The reply is stored once the store is back: first the outcome may be unknown, then it is the answer.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let again = gateway.keyed("k").chat(&body).await;
        if again.status == 200 {
            assert!(is_replay(&again));
            assert_eq!(again.body, first.body);
            break;
        }
        assert!([409, 503].contains(&again.status), "{}", again.json());
        assert!(Instant::now() < end, "{}", again.json());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(gateway.served("m").len(), 1);
}

/// How a client that never gives up heard of its request.
#[derive(Debug, PartialEq)]
enum Heard {
    Answer,
    Unknown,
}

/// Sends a request until it has an answer that is final.
async fn insist(gateway: &watch::Receiver<Client>, key: &str, body: &Value) -> (Heard, u32) {
    for sent in 1.. {
        let client = gateway.borrow().with_idempotency_key(key);
        match client.send("POST", CHAT, Some(body)).await {
            Ok(answer) if answer.status == 200 => {
                let whole = body["stream"] != true || is_done(&answer);
                assert!(whole, "{key}: {}", String::from_utf8_lossy(&answer.body));
                return (Heard::Answer, sent);
            }
            Ok(answer) if code(&answer) == "idempotency_outcome_unknown" => {
                return (Heard::Unknown, sent);
            }
            Ok(answer) => {
                let again = answer.header("x-should-retry") == Some("true");
                assert!(again, "{key}: {} {}", answer.status, answer.json());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifteen_kills_and_no_request_is_done_twice() {
    const SEED: u64 = 20_261_126;
    let mut gateway = Gateway::start(json!({"lease": "500ms"})).await;
    gateway.mock.set_script(Script {
        delay_ms: 8,
        every_ms: 4,
        ..Script::default()
    });
    let (address, client) = watch::channel(gateway.lyss.client());
    let stop = Arc::new(AtomicBool::new(false));
    let heard: Arc<Mutex<BTreeMap<String, (Heard, u32)>>> = Arc::default();
    let workers: Vec<_> = (0..6)
        .map(|worker| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                for turn in 0.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let model = format!("m-{worker}-{turn}");
                    let mut body = chat(&model, "some words that are echoed");
                    body["stream"] = (turn % 2 == 1).into();
                    if turn % 4 >= 2 {
                        body["session_id"] = format!("session-{worker}").into();
                    }
                    let outcome = insist(&client, &model, &body).await;
                    heard.lock().unwrap().insert(model, outcome);
                }
            })
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(SEED);
    for _ in 0..15 {
        let enough = heard.lock().unwrap().len() + random.usize(5..15);
        while heard.lock().unwrap().len() < enough {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(random.u64(0..40_000))).await;
        gateway.kill_and_restart().await;
        address.send_replace(gateway.lyss.client());
    }
    stop.store(true, Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }

    let heard = std::mem::take(&mut *heard.lock().unwrap());
    let mut unknown = 0;
    for (model, (outcome, _)) in &heard {
        let times = gateway.served(model).len();
        match outcome {
            Heard::Answer => assert_eq!(times, 1, "seed {SEED}: {model}"),
            Heard::Unknown => {
                unknown += 1;
                assert!(
                    times <= 1,
                    "seed {SEED}: {model} was dispatched {times} times"
                );
            }
        }
    }
    // Deaths did hit requests, before, while and after the provider worked on them.
    let again = heard.values().filter(|(_, sent)| *sent > 1).count();
    let recovered = heard
        .values()
        .filter(|(outcome, sent)| *outcome == Heard::Answer && *sent > 1)
        .count();
    assert!(
        again >= 15 && unknown >= 5,
        "{again} sent again, {unknown} unknown"
    );
    assert!(recovered >= 1, "no request survived a death");

    // Each turn that was answered is in its session, once.
    for worker in 0..6 {
        let answered = heard
            .iter()
            .filter(|(model, (outcome, _))| {
                let (own, turn) = model[2..].split_once('-').unwrap();
                let in_session = turn.parse::<u32>().unwrap() % 4 >= 2;
                own == worker.to_string() && in_session && *outcome == Heard::Answer
            })
            .count();
        let unknown = heard
            .iter()
            .filter(|(model, (outcome, _))| {
                model.starts_with(&format!("m-{worker}-")) && *outcome == Heard::Unknown
            })
            .count();
        let session = format!("/v1/sessions/session-{worker}");
        let session = gateway.lyss.client().get(&session).await.json();
        let turns = session["message_count"].as_u64().unwrap_or(0) / 2;
        let most = (answered + unknown) as u64;
        assert!(
            (answered as u64..=most).contains(&turns),
            "seed {SEED}: {turns} turns stored, {answered} answered, {unknown} unknown"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_calls_with_a_key_end_and_never_fakes_an_end() {
    let mut gateway = Gateway::with(json!({
        "server": {"shutdown_grace": "2s"},
        "idempotency": {"lease": "1s"},
    }))
    .await;
    let dripping = |chunks| Script {
        every_ms: 50,
        chunks: Some(chunks),
        ..Script::default()
    };
    // One ends within the grace though its caller has left; one would go on for much longer.
    let (short, long) = (streamed("m-short", "hello"), streamed("m-long", "hello"));
    gateway.once("m-short", dripping(20));
    gateway.once("m-long", dripping(2_000));
    let mut left = gateway
        .keyed("short")
        .open("POST", CHAT, Some(&short))
        .await
        .unwrap();
    assert!(left.events(2).await.unwrap());
    drop(left);
    let mut reading = gateway
        .keyed("long")
        .open("POST", CHAT, Some(&long))
        .await
        .unwrap();
    assert!(reading.events(2).await.unwrap());
    gateway.lyss.terminate();
    if let Ok(answer) = reading.whole().await {
        assert!(!is_done(&answer), "half an answer passed for a whole one");
    }
    let exit = gateway.lyss.end(Duration::from_secs(15)).await;
    assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}");

    gateway.lyss = gateway.setup.start().await;
    let again = gateway.keyed("short").chat(&short).await;
    assert!(is_replay(&again) && is_done(&again), "{}", again.json());
    let again = gateway.keyed("long").chat(&long).await;
    assert_eq!(code(&again), "idempotency_outcome_unknown");
    for model in ["m-short", "m-long"] {
        assert_eq!(gateway.served(model).len(), 1);
    }
}
