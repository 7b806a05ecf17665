//! A memory of one's own behind an engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::*;
use crate::{
    Engine, Gateway,
    config::{Config, Env},
    error::{Error, ErrorKind},
    types::{CallContext, ChatRequest},
};

/// Remembers calls, and answers as told.
#[derive(Default)]
struct Own {
    answer: Mutex<Option<Vec<Memorized>>>,
    refuse: Mutex<Option<ErrorKind>>,
    queries: Mutex<Vec<(String, String, usize)>>,
    turns: Mutex<Vec<SpokenTurn>>,
    forgotten: Mutex<Vec<(String, String)>>,
}

#[async_trait]
impl Memory for Own {
    async fn search(&self, user_id: &str, query: &str, limit: usize) -> Result<Vec<Memorized>> {
        self.queries
            .lock()
            .push((user_id.into(), query.into(), limit));
        let answer = self.answer.lock().clone();
        answer.ok_or_else(|| Error::new(ErrorKind::StoreUnavailable, "away"))
    }

    async fn add(&self, turn: &SpokenTurn) -> Result<()> {
        if let Some(kind) = *self.refuse.lock() {
            return Err(Error::new(kind, "no"));
        }
        self.turns.lock().push(turn.clone());
        Ok(())
    }

    async fn forget(&self, user_id: &str, session_id: &str) -> Result<()> {
        self.forgotten
            .lock()
            .push((user_id.into(), session_id.into()));
        Ok(())
    }
}

async fn engine(dir: &std::path::Path, memory: Arc<Own>) -> Engine {
    let yaml = format!(
        "data: {{ dir: {} }}\nproviders: {{ simulated: {{}} }}\nmemory: {{ max_bytes: 1KiB }}",
        dir.display()
    );
    let config = Config::parse("gateway.yaml", &yaml, &Env::default()).unwrap();
    let builder = Engine::builder(config.config).memory(memory);
    builder.start().await.unwrap()
}

fn request(session: &str, text: &str) -> ChatRequest {
    let body = serde_json::json!({"model": "simulated/echo", "session_id": session,
        "messages": [{"role": "user", "content": text}]});
    ChatRequest::parse(body.to_string().into()).unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(std::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn memorized(text: &str, user_id: Option<&str>) -> Memorized {
    Memorized {
        text: text.into(),
        user_id: user_id.map(Into::into),
        score: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_of_ones_own_is_asked_told_and_made_to_forget() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(Own::default());
    let engine = engine(dir.path(), Arc::clone(&memory)).await;
    let chat = async |session: &str, text: &str| {
        let context = CallContext::process("ann");
        engine.chat(context, request(session, text)).await.unwrap()
    };

    // It fails, and the call does not.
    let answer = chat("s", "I sail").await;
    assert!(answer.info.memory_unavailable);
    assert_eq!(
        *memory.queries.lock(),
        [("ann".to_owned(), "I sail".to_owned(), 5)]
    );
    eventually("the turn is told", || memory.turns.lock().len() == 1).await;
    let turn = memory.turns.lock()[0].clone();
    assert_eq!(turn.request_id, answer.info.request_id.to_string());
    assert_eq!(
        (turn.user_id.as_str(), turn.session_id.as_deref()),
        ("ann", Some("s"))
    );
    let roles: Vec<&str> = turn.messages.iter().map(|message| &*message.role).collect();
    assert_eq!(roles, ["user", "assistant"]);

    // What it finds counts in the prompt; what is another's does not.
    let tokens = chat("a", "hello").await.usage.input_tokens;
    *memory.answer.lock() = Some(vec![
        memorized("sails", Some("ann")),
        memorized("of another", Some("bob")),
        memorized("of nobody", None),
    ]);
    let answer = chat("b", "hello").await;
    assert!(!answer.info.memory_unavailable);
    assert!(answer.usage.input_tokens > tokens);
    let metrics = engine.metrics();
    assert!(
        metrics.contains("gateway_memory_foreign_dropped_total 2"),
        "{metrics}"
    );

    // A turn that it refuses for good is set aside, and the next one goes on.
    *memory.refuse.lock() = Some(ErrorKind::InvalidValue);
    chat("c", "refused").await;
    let aside = dir.path().join("spool/outbox/memory/set_aside.jsonl");
    eventually("it is set aside", || aside.exists()).await;
    *memory.refuse.lock() = None;
    let told = memory.turns.lock().len();
    chat("c", "taken").await;
    eventually("the next one is told", || {
        memory.turns.lock().len() == told + 1
    })
    .await;

    engine
        .delete_session(CallContext::process("ann"), "s")
        .await
        .unwrap();
    eventually("it forgets", || {
        *memory.forgotten.lock() == [("ann".to_owned(), "s".to_owned())]
    })
    .await;

    engine.shutdown(Duration::from_secs(5)).await;
    let left = std::fs::read_dir(dir.path().join("spool/outbox/memory")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(
        left,
        ["set_aside.jsonl"],
        "nothing waits, so nothing is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_memory_changes_while_serving() {
    let dir = tempfile::tempdir().unwrap();
    let config = |memory: &str| {
        let dir = dir.path().display();
        let yaml = format!("data: {{ dir: {dir} }}\nproviders: {{ simulated: {{}} }}\n{memory}");
        Config::parse("gateway.yaml", &yaml, &Env::default())
            .unwrap()
            .config
    };
    let engine = Engine::start(config("")).await.unwrap();
    let unavailable = async || {
        let answer = engine
            .chat(CallContext::process("ann"), request("s", "hello"))
            .await;
        answer.unwrap().info.memory_unavailable
    };
    assert!(!unavailable().await);
    // Nobody listens there.
    let away = "memory: { mem0: { flavor: oss, base_url: 'http://127.0.0.1:9', api_key: k } }";
    engine.reload(config(away)).await.unwrap();
    assert!(unavailable().await);
    let waiting = "gateway_outbox_records{topic=\"memory\"} 1";
    assert!(engine.metrics().contains(waiting), "{}", engine.metrics());
    // Switched to another one, which takes what waits.
    let builtin = "memory: { builtin: { embedding_model: simulated/embedding, timeout: 20s } }";
    engine.reload(config(builtin)).await.unwrap();
    let added = "gateway_memory_adds_total{outcome=\"added\"} 1";
    eventually("the turn is taken", || engine.metrics().contains(added)).await;
    assert!(!unavailable().await);
    engine.reload(config("")).await.unwrap();
    assert!(!unavailable().await);
    engine.shutdown(Duration::from_secs(5)).await;
}
