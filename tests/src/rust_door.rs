//! The door of Rust: the trait that every gateway is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use lyss_core::{
    Engine, Error, Gateway,
    gateway::{NewSession, PageQuery, RequestQuery, UsageQuery},
    types::{
        CallContext, ChatRequest, ChatStream, Credential, EmbeddingRequest, IdempotencyKey,
        ReplyInfo,
    },
};
use serde_json::{Value, json};

use crate::{
    case::Step,
    door::{Door, Doorway, streamed},
    http_door::Service,
    world::Surroundings,
};

/// Opens doors to an engine in this process, called from Rust.
pub struct RustDoorway;

#[async_trait]
impl Doorway for RustDoorway {
    async fn open(&self, surroundings: &Surroundings) -> Box<dyn Door> {
        let engine = surroundings.start_engine().await;
        Box::new(RustDoor {
            gateway: Arc::new(engine.clone()),
            behind: Behind::Engine(engine),
            held: Mutex::default(),
        })
    }
}

/// Opens doors to a service, called from Rust as if it were an engine.
pub struct RustConnectedDoorway;

#[async_trait]
impl Doorway for RustConnectedDoorway {
    async fn open(&self, surroundings: &Surroundings) -> Box<dyn Door> {
        let service = Service::start(surroundings).await;
        Box::new(RustDoor {
            gateway: Arc::new(service.connect()),
            behind: Behind::Service(service),
            held: Mutex::default(),
        })
    }
}

struct RustDoor {
    gateway: Arc<dyn Gateway>,
    behind: Behind,
    held: Mutex<HashMap<String, ChatStream>>,
}

/// What is ended with the door.
enum Behind {
    Engine(Engine),
    Service(Service),
}

#[async_trait]
impl Door for RustDoor {
    async fn call(&self, surroundings: &Surroundings, step: &Step) -> Value {
        let credential = surroundings
            .key(&step.key)
            .map_or(Credential::Anonymous, |key| Credential::Key(key.into()));
        let context = CallContext {
            user_id: step.user_id.clone(),
            ..CallContext::new(credential)
        };
        let (request_id, report) = (context.request_id, context.report.clone());
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
        let request_id = report.request_id().unwrap_or(request_id);
        outcome["request_id"] = request_id.to_string().into();
        outcome
    }

    async fn close(self: Box<Self>) {
        drop(self.held);
        match self.behind {
            Behind::Engine(engine) => engine.shutdown(Duration::from_secs(1)).await,
            Behind::Service(service) => service.stop().await,
        }
    }
}

impl RustDoor {
    async fn answer(&self, context: CallContext, step: &Step) -> Result<Value, Error> {
        let gateway = &self.gateway;
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
                let stream = gateway
                    .chat_stream(context, ChatRequest::parse(body())?)
                    .await?;
                self.read(stream, step).await
            }
            "rest" => {
                let stream = self.let_go(&step.id);
                self.read(stream, step).await
            }
            "drop" => {
                drop(self.let_go(&step.id));
                json!({"status": 200})
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
            "requests" => {
                json!({"status": 200, "body": gateway.requests(context, query::<RequestQuery>(step)).await?})
            }
            "request" => json!({"status": 200, "body": gateway.request(context, &step.id).await?}),
            "usage" => {
                json!({"status": 200, "body": {"data": gateway.usage(context, query::<UsageQuery>(step)).await?}})
            }
            "admin" => {
                json!({"status": 200, "body": {"data": self.listed(context, &step.id).await?}})
            }
            other => panic!("no call `{other}`"),
        })
    }

    /// What an admin lists.
    async fn listed(&self, context: CallContext, what: &str) -> Result<Value, Error> {
        let gateway = &self.gateway;
        Ok(match what {
            "keys" => json!(gateway.keys(context).await?),
            "budgets" => json!(gateway.budgets(context).await?),
            "prices" => json!(gateway.prices(context).await?),
            "providers" => json!(gateway.admin_providers(context).await?),
            "routing_rules" => json!(gateway.routing_rules(context).await?),
            other => panic!("no list `{other}`"),
        })
    }

    /// Reads a stream, as far as the step says.
    async fn read(&self, mut stream: ChatStream, step: &Step) -> Value {
        let mut events = Vec::new();
        let mut done = true;
        let mut open = true;
        while step.read.is_none_or(|read| events.len() < read) {
            match stream.next().await {
                Some(Ok(chunk)) => {
                    events.push(serde_json::from_slice(&chunk.json()).expect("a chunk is JSON"));
                }
                Some(Err(error)) => {
                    done = false;
                    events.push(json!({"error": failure(&error)["error"]}));
                }
                None => {
                    open = false;
                    break;
                }
            }
        }
        let mut outcome = streamed(events, done && !open, open);
        lay_info(&mut outcome, &stream.info);
        if let Some(name) = step.hold.clone().filter(|_| open) {
            self.held.lock().expect("no panic").insert(name, stream);
        }
        outcome
    }

    fn let_go(&self, name: &str) -> ChatStream {
        let held = self.held.lock().expect("no panic").remove(name);
        held.unwrap_or_else(|| panic!("no stream is held as `{name}`"))
    }
}

/// The query of a step, its body.
fn query<T: serde::de::DeserializeOwned + Default>(step: &Step) -> T {
    match &step.body {
        Value::Null => T::default(),
        body => serde_json::from_value(body.clone()).expect("a query"),
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
