//! A door into the gateway, as the runner of the cases sees it, and the runner.

use async_trait::async_trait;
use futures::StreamExt;
use lyss_core::{
    Engine, Error, Gateway,
    gateway::{NewSession, PageQuery},
    types::{CallContext, ChatRequest, Credential, EmbeddingRequest, IdempotencyKey, ReplyInfo},
};
use lyss_mock_provider::Rule;
use serde_json::{Value, json};

use crate::{
    case::{Case, Step},
    matching::matches,
    world::World,
};

/// A way to call the gateway.
///
/// The outcome of a step is one JSON object, the same through every door:
/// `{"status", "body", "provider", "upstream_model", "session_id", "context", "attempts", "request_id"}` for an answer, and
/// `"replayed": true` for one that was given before; for a stream `"text"`, `"finish_reason"`, `"usage"`, `"chunks"`, `"done"` and, if it ended so, `"error"`; for a failure
/// `{"status", "error": {"code", "type", "param", "message"}, "should_retry"}`.
#[async_trait]
pub trait Door: Send + Sync {
    /// Opens the door to a world.
    async fn open(world: &World) -> Self
    where
        Self: Sized;

    /// Makes one call.
    async fn call(&self, world: &World, step: &Step) -> Value;
}

/// Runs one case through a door; what went wrong, if anything did.
pub async fn run<D: Door>(case: &Case) -> Result<(), String> {
    let world = World::start(&case.config).await;
    for (mock, scripts) in [
        (&world.openai, &case.upstream),
        (&world.backup, &case.backup),
    ] {
        for script in scripts {
            // Not for the engine's own look at the models.
            let path = Some("/v1/chat/completions".to_owned());
            mock.rule(Rule {
                path,
                times: Some(1),
                script: script.clone(),
                ..Rule::default()
            });
        }
    }
    let door = D::open(&world).await;
    let mut last = String::new();
    for (index, step) in case.steps.iter().enumerate() {
        let mut step = Step {
            id: step.id.replace("$last", &last),
            ..clone(step)
        };
        if step.call == "request" {
            world.rows(index).await;
        }
        step.id = step.id.clone();
        let outcome = door.call(&world, &step).await;
        if let Some(id) = outcome["request_id"].as_str() {
            last = id.to_owned();
        }
        matches(&step.expect, &outcome)
            .map_err(|error| format!("{}, step {index}: {error}\n  {outcome}", case.id))?;
    }
    if let Some(rows) = &case.rows {
        let got: Vec<Value> = world
            .rows(rows.len())
            .await
            .iter()
            .map(|row| serde_json::to_value(row).expect("a row is JSON"))
            .collect();
        matches(&Value::from(rows.clone()), &Value::from(got))
            .map_err(|error| format!("{}, rows: {error}", case.id))?;
    }
    for (name, mock, expected) in [
        ("received", &world.openai, &case.received),
        ("backup_received", &world.backup, &case.backup_received),
    ] {
        if let Some(expected) = expected {
            let got: Vec<Value> = mock
                .requests()
                .iter()
                .filter(|request| request.method == "POST")
                .map(|request| serde_json::from_slice(&request.body).unwrap_or(Value::Null))
                .collect();
            matches(&Value::from(expected.clone()), &Value::from(got))
                .map_err(|error| format!("{}, {name}: {error}", case.id))?;
        }
    }
    world
        .engine
        .shutdown(std::time::Duration::from_secs(1))
        .await;
    Ok(())
}

fn clone(step: &Step) -> Step {
    Step {
        call: step.call.clone(),
        key: step.key.clone(),
        body: step.body.clone(),
        raw_body: step.raw_body.clone(),
        id: step.id.clone(),
        user_id: step.user_id.clone(),
        idempotency_key: step.idempotency_key.clone(),
        expect: step.expect.clone(),
    }
}

/// Runs every case through a door and fails with all that went wrong.
pub async fn run_all<D: Door>() {
    let cases = crate::case::all();
    assert!(cases.len() >= 20, "the cases are not found");
    let failures: Vec<String> = futures::stream::iter(&cases)
        .map(|case| async move {
            match tokio::time::timeout(std::time::Duration::from_secs(30), run::<D>(case)).await {
                Ok(outcome) => outcome.err(),
                Err(_) => Some(format!("{}: not done after 30 s", case.id)),
            }
        })
        .buffer_unordered(4)
        .filter_map(|failure| async move { failure })
        .collect()
        .await;
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// The engine called from Rust.
pub struct RustDoor(Engine);

#[async_trait]
impl Door for RustDoor {
    async fn open(world: &World) -> Self {
        Self(world.engine.clone())
    }

    async fn call(&self, world: &World, step: &Step) -> Value {
        let credential = world
            .key(&step.key)
            .map_or(Credential::Anonymous, |key| Credential::Key(key.into()));
        let context = CallContext {
            user_id: step.user_id.clone(),
            ..CallContext::new(credential)
        };
        let request_id = context.request_id.to_string();
        let answer = match step.idempotency_key.as_deref().map(IdempotencyKey::parse) {
            Some(Err(error)) => Err(error),
            key => {
                let idempotency_key = key.and_then(Result::ok);
                let context = CallContext {
                    idempotency_key,
                    ..context
                };
                self.answer(context, step).await
            }
        };
        let mut outcome = answer.unwrap_or_else(|error| failure(&error));
        outcome["request_id"] = request_id.into();
        outcome
    }
}

impl RustDoor {
    async fn answer(&self, context: CallContext, step: &Step) -> Result<Value, Error> {
        let gateway: &dyn Gateway = &self.0;
        let body = || {
            step.raw_body
                .clone()
                .unwrap_or_else(|| step.body.to_string())
                .into()
        };
        Ok(match step.call.as_str() {
            "chat" => {
                let answer = gateway.chat(context, ChatRequest::parse(body())?).await?;
                described(&answer.info, &answer.body.to_bytes())
            }
            "stream" => {
                let mut stream = gateway
                    .chat_stream(context, ChatRequest::parse(body())?)
                    .await?;
                let info = stream.info.clone();
                let mut chunks = Vec::new();
                let mut error = Value::Null;
                while let Some(item) = stream.next().await {
                    match item {
                        Ok(chunk) => chunks
                            .push(serde_json::from_slice(&chunk.json()).expect("a chunk is JSON")),
                        Err(failed) => error = failure(&failed)["error"].clone(),
                    }
                }
                let done = error.is_null();
                let mut outcome = streamed(chunks, error, done);
                lay_info(&mut outcome, &info);
                outcome
            }
            "embed" => {
                let answer = gateway
                    .embed(context, EmbeddingRequest::parse(body())?)
                    .await?;
                described(&answer.info, &answer.body.to_bytes())
            }
            "tokens" => {
                let request = ChatRequest::parse(body())?;
                json!({"status": 200, "body": gateway.count_tokens(context, request).await?})
            }
            "models" => {
                json!({"status": 200, "body": {"object": "list", "data": gateway.models(context).await?}})
            }
            "model" => json!({"status": 200, "body": gateway.model(context, &step.id).await?}),
            "create_session" => {
                let new: NewSession =
                    serde_json::from_value(step.body.clone()).expect("a session body");
                json!({"status": 200, "body": session(&gateway.create_session(context, new).await?)})
            }
            "session" => {
                json!({"status": 200, "body": session(&gateway.session(context, &step.id).await?)})
            }
            "sessions" => {
                let page = gateway.sessions(context, PageQuery::default()).await?;
                json!({"status": 200, "body": {"data": page.sessions.iter().map(session).collect::<Vec<_>>()}})
            }
            "messages" => {
                let page = gateway.session_messages(context, &step.id, 0, 100).await?;
                let compressed = page.session.compressed_count;
                let data: Vec<Value> = page
                    .messages
                    .iter()
                    .map(|stored| {
                        let message: Value = serde_json::from_slice(&stored.json).expect("JSON");
                        json!({
                            "seq": stored.seq,
                            "turn": stored.turn,
                            "compressed": stored.seq <= compressed,
                            "message": message,
                        })
                    })
                    .collect();
                json!({"status": 200, "body": {"data": data}})
            }
            "delete_session" => {
                gateway.delete_session(context, &step.id).await?;
                json!({"status": 204})
            }
            "request" => json!({"status": 200, "body": gateway.request(context, &step.id).await?}),
            other => panic!("no call `{other}`"),
        })
    }
}

fn session(session: &lyss_core::types::Session) -> Value {
    json!({"id": session.id, "user_id": session.user_id, "message_count": session.message_count, "metadata": session.metadata})
}

fn described(info: &ReplyInfo, body: &[u8]) -> Value {
    let mut outcome = json!({"status": 200, "body": serde_json::from_slice::<Value>(body).expect("an answer is JSON")});
    lay_info(&mut outcome, info);
    outcome
}

fn lay_info(outcome: &mut Value, info: &ReplyInfo) {
    outcome["provider"] = (*info.provider).into();
    outcome["upstream_model"] = (*info.upstream_model).into();
    outcome["session_id"] = info.session_id.as_deref().into();
    outcome["context"] = info.context.map(|context| context.as_str()).into();
    outcome["attempts"] = info.attempts.into();
    if info.replay_of.is_some() {
        outcome["replayed"] = true.into();
    }
}

fn failure(error: &Error) -> Value {
    let mut outcome = json!({
        "status": error.status(),
        "should_retry": error.should_retry(),
        "error": {"code": error.code(), "type": error.type_name(), "param": error.param(), "message": error.message()},
    });
    if error.is_replayed() {
        outcome["replayed"] = true.into();
    }
    outcome
}

/// The outcome of a stream from its chunks.
pub fn streamed(chunks: Vec<Value>, error: Value, done: bool) -> Value {
    let choice = |chunk: &Value| chunk["choices"].get(0).cloned().unwrap_or(Value::Null);
    let text: String = chunks
        .iter()
        .filter_map(|chunk| {
            choice(chunk)["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    let finish = chunks
        .iter()
        .map(|chunk| choice(chunk)["finish_reason"].clone())
        .find(|reason| !reason.is_null());
    let usage = chunks
        .iter()
        .map(|chunk| chunk["usage"].clone())
        .find(|usage| !usage.is_null());
    json!({
        "status": 200,
        "text": text,
        "finish_reason": finish,
        "usage": usage,
        "empty_choices": chunks.iter().filter(|chunk| chunk["choices"].as_array().is_some_and(Vec::is_empty)).count(),
        "usage_members": chunks.iter().filter(|chunk| chunk.get("usage").is_some()).count(),
        "chunks": chunks.len(),
        "error": error,
        "done": done,
    })
}
