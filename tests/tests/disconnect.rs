//! B7: a client that goes away stops what it asked for, and is billed for what it got.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use lyss_core::{
    context::tokens::{Counter, Tokenizer},
    types::ChatRequest,
};
use lyss_mock_provider::{Entry, MockProvider, Options, Outcome};
use lyss_tests::{
    client::{CHAT, Client, chat},
    process::{Lyss, Setup},
    store::{Store, of_model},
};
use serde_json::{Value, json};

/// How soon the provider must notice.
const SOON: u64 = 250;

struct Gateway {
    mock: MockProvider,
    setup: Setup,
    lyss: Lyss,
}

impl Gateway {
    async fn start() -> Self {
        Self::billing(json!({})).await
    }

    async fn on_disconnect(rule: Value) -> Self {
        Self::billing(json!({"on_disconnect": rule})).await
    }

    async fn billing(billing: Value) -> Self {
        let mock = MockProvider::start(Options::default()).unwrap();
        let setup = Setup::new(&json!({
            "auth": {"default_user": "somebody"},
            "billing": billing,
            "providers": {"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}},
        }));
        let lyss = setup.start().await;
        Self { mock, setup, lyss }
    }

    fn client(&self) -> Client {
        self.lyss.client()
    }

    fn store(&self) -> Store {
        self.setup.sqlite()
    }

    fn entry(&self, model: &str) -> Option<Entry> {
        self.mock
            .ledger()
            .into_iter()
            .find(|entry| entry.model == model)
    }

    /// The provider's entry of a model, once it has ended.
    async fn ended(&self, model: &str) -> Entry {
        for _ in 0..400 {
            if let Some(entry) = self.entry(model).filter(|entry| entry.ended_ms.is_some()) {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{model}: the provider still works on it");
    }

    /// The only row of a model.
    async fn row(&self, model: &str) -> Value {
        let found = |rows: &[Value]| !of_model(rows, model).is_empty();
        self.store().rows_when(Duration::from_secs(5), found).await;
        // A second one would come now.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let rows = self.store().rows().await;
        let rows = of_model(&rows, model);
        assert_eq!(rows.len(), 1, "{model}: {rows:?}");
        rows[0].clone()
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_millis() as u64
}

fn streamed(model: &str, text: &str) -> Value {
    let mut body = chat(model, text);
    body["stream"] = true.into();
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_a_stream() {
    let gateway = Gateway::start().await;
    // The first event has the role only; with the second there is content.
    for k in [1, 2, 3, 10, 40] {
        let model = format!("after-{k}");
        let body = streamed(&model, "[[chunks:500 size:6 every:10]]");
        let mut reading = gateway
            .client()
            .open("POST", CHAT, Some(&body))
            .await
            .unwrap();
        assert!(
            reading.events(k).await.unwrap(),
            "the stream is long enough"
        );
        let gone = now_ms();
        drop(reading);

        let entry = gateway.ended(&model).await;
        assert_eq!(entry.outcome, Outcome::ClientClosed, "{entry:?}");
        let noticed = entry.ended_ms.unwrap().saturating_sub(gone);
        assert!(
            noticed <= SOON,
            "after {k}: the provider noticed after {noticed} ms"
        );
        assert!(entry.completion_tokens < entry.planned_tokens, "{entry:?}");

        let row = gateway.row(&model).await;
        assert_eq!(row["status"], "cancelled", "{row}");
        assert_eq!(row["usage_source"], "partial", "{row}");
        assert!(row["input_tokens"].as_u64().unwrap() > 0, "{row}");
        if k > 1 {
            assert!(
                row["output_tokens"].as_u64().unwrap() > 0,
                "after {k}: {row}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_known_tokenizer_not_a_token_is_lost_or_added() {
    let gateway = Gateway::start().await;
    // The first one loads the vocabulary.
    for (model, k) in [("gpt-4o-mini", 5), ("gpt-4o", 2), ("gpt-4-turbo", 9)] {
        let body = streamed(model, "one two three [[chunks:500 size:7 every:150]]");
        let client = gateway.client();
        let mut reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
        assert!(reading.events(k).await.unwrap());
        let content = reading.content();
        // The next event is far: what has been read is all that was delivered.
        drop(reading);

        let counter = Counter::for_model(model);
        assert_ne!(counter.tokenizer(), Tokenizer::Estimate);
        let request = ChatRequest::parse(body.to_string().into()).unwrap();
        let row = gateway.row(model).await;
        assert_eq!(row["usage_source"], "partial", "{row}");
        assert!(!content.is_empty());
        assert_eq!(
            row["output_tokens"],
            counter.text(&content),
            "{content:?}: {row}"
        );
        assert_eq!(
            row["input_tokens"],
            counter.request(&request).input_tokens,
            "{row}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_chunk() {
    let gateway = Gateway::start().await;
    let client = gateway.client();
    let body = streamed("too-late", "[[delay:8000]]");
    let call = client.open("POST", CHAT, Some(&body));
    assert!(
        tokio::time::timeout(Duration::from_millis(300), call)
            .await
            .is_err(),
        "the provider has not answered yet"
    );
    let gone = now_ms();
    let entry = gateway.ended("too-late").await;
    assert_eq!(entry.outcome, Outcome::ClientClosed, "{entry:?}");
    let noticed = entry.ended_ms.unwrap().saturating_sub(gone);
    assert!(noticed <= SOON, "the provider noticed after {noticed} ms");
    let row = gateway.row("too-late").await;
    assert_eq!(row["status"], "cancelled", "{row}");
    assert_eq!(row["output_tokens"], 0, "{row}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_call_that_is_not_streamed() {
    let gateway = Gateway::start().await;
    let client = gateway.client();
    let body = chat("unary", "[[delay:700 usage:11/22]]");
    let call = client.open("POST", CHAT, Some(&body));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), call)
            .await
            .is_err(),
        "the provider has not answered yet"
    );
    // The provider charges for it whoever listens: so the answer is awaited, and its usage is known.
    let entry = gateway.ended("unary").await;
    assert_eq!(entry.outcome, Outcome::Finished, "{entry:?}");
    let row = gateway.row("unary").await;
    assert_eq!(row["status"], "cancelled", "{row}");
    assert_eq!(row["usage_source"], "reported", "{row}");
    assert_eq!(
        (&row["input_tokens"], &row["output_tokens"]),
        (&json!(11), &json!(22))
    );
}

/// Reads some events of a stream and leaves.
async fn leave_after(gateway: &Gateway, events: usize, body: &Value) {
    let client = gateway.client();
    let mut reading = client.open("POST", CHAT, Some(body)).await.unwrap();
    assert!(reading.events(events).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_to_the_end_it_is_charged_as_reported() {
    let gateway = Gateway::on_disconnect(json!("drain")).await;
    let body = streamed("drained", "[[chunks:60 size:6 every:10 usage:11/222]]");
    leave_after(&gateway, 3, &body).await;
    let entry = gateway.ended("drained").await;
    assert_eq!(entry.outcome, Outcome::Finished, "{entry:?}");
    let row = gateway.row("drained").await;
    let told = [
        &row["status"],
        &row["usage_source"],
        &row["input_tokens"],
        &row["output_tokens"],
    ];
    assert_eq!(
        told,
        [
            &json!("cancelled"),
            &json!("reported"),
            &json!(11),
            &json!(222)
        ],
        "{row}"
    );
    // In a session: what nobody has seen is no turn of it, and the next one need not wait for its end.
    let mut body = streamed("unseen", "[[chunks:200 size:6 every:10]]");
    body["session_id"] = "drained".into();
    leave_after(&gateway, 3, &body).await;
    body = chat("seen", "go on");
    body["session_id"] = "drained".into();
    let client = gateway.client();
    let answer = client.send("POST", CHAT, Some(&body)).await.unwrap();
    assert_eq!(answer.status, 200);
    let entry = gateway.entry("unseen").unwrap();
    assert_eq!(entry.outcome, Outcome::Open, "still read: {entry:?}");
    assert_eq!(gateway.ended("unseen").await.outcome, Outcome::Finished);
    let messages = "/v1/sessions/drained/messages";
    let messages = client.send("GET", messages, None).await.unwrap().json();
    assert_eq!(messages["data"].as_array().unwrap().len(), 2, "{messages}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_until_a_bound_is_reached() {
    let bounds = json!({"drain_until": {"seconds": 20, "tokens": 40}});
    let gateway = Gateway::on_disconnect(bounds).await;
    let body = streamed("bounded", "[[chunks:2000 size:6 every:5]]");
    leave_after(&gateway, 3, &body).await;
    let entry = gateway.ended("bounded").await;
    assert_eq!(entry.outcome, Outcome::ClientClosed, "{entry:?}");
    let row = gateway.row("bounded").await;
    assert_eq!(row["status"], "cancelled", "{row}");
    assert_eq!(row["usage_source"], "partial", "{row}");
    let read = row["output_tokens"].as_u64().unwrap();
    assert!((20..200).contains(&read), "{row}");

    let gateway = Gateway::on_disconnect(json!({"drain_until": {"seconds": 1}})).await;
    let body = streamed("timed", "[[chunks:2000 size:6 every:5]]");
    let began = std::time::Instant::now();
    leave_after(&gateway, 3, &body).await;
    let entry = gateway.ended("timed").await;
    assert_eq!(entry.outcome, Outcome::ClientClosed, "{entry:?}");
    assert!(began.elapsed() > Duration::from_millis(900));
    assert_eq!(gateway.row("timed").await["usage_source"], "partial");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_can_be_cancelled_too() {
    let gateway = Gateway::on_disconnect(json!("cancel")).await;
    let client = gateway.client();
    let body = chat("unary", "[[delay:8000]]");
    let call = client.open("POST", CHAT, Some(&body));
    let left = tokio::time::timeout(Duration::from_millis(300), call).await;
    assert!(left.is_err(), "the provider has not answered yet");
    let gone = now_ms();
    let entry = gateway.ended("unary").await;
    assert_eq!(entry.outcome, Outcome::ClientClosed, "{entry:?}");
    let noticed = entry.ended_ms.unwrap().saturating_sub(gone);
    assert!(noticed <= SOON, "the provider noticed after {noticed} ms");
    let row = gateway.row("unary").await;
    assert_eq!(row["status"], "cancelled", "{row}");
    assert_eq!(row["usage_source"], "partial", "{row}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_of_them() {
    const COUNT: usize = 300;
    let gateway = Gateway::start().await;
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    let leave: Vec<usize> = (0..COUNT).map(|_| random.usize(0..30)).collect();
    futures::stream::iter(leave.iter().enumerate())
        .for_each_concurrent(30, |(number, k)| {
            let client = gateway.client();
            async move {
                let body = streamed(&format!("gone-{number}"), "[[chunks:1000 size:6 every:5]]");
                let mut reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
                assert!(reading.events(*k).await.unwrap());
            }
        })
        .await;

    let all = |rows: &[Value]| rows.len() >= COUNT;
    gateway
        .store()
        .rows_when(Duration::from_secs(10), all)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let rows = gateway.store().rows().await;
    assert_eq!(rows.len(), COUNT, "seed {seed}");
    for (number, k) in leave.iter().enumerate() {
        let model = format!("gone-{number}");
        let row = of_model(&rows, &model);
        assert_eq!(row.len(), 1, "seed {seed}: {model}: {row:?}");
        assert_eq!(row[0]["status"], "cancelled", "seed {seed}: {}", row[0]);
        assert_eq!(row[0]["usage_source"], "partial", "seed {seed}: {}", row[0]);
        if *k > 1 {
            assert!(
                row[0]["output_tokens"].as_u64().unwrap() > 0,
                "seed {seed}: {}",
                row[0]
            );
        }
    }
    let closed = gateway
        .mock
        .ledger()
        .iter()
        .filter(|entry| entry.outcome == Outcome::ClientClosed)
        .count();
    assert_eq!(closed, COUNT, "each was cancelled at the provider");
}
