//! The door over HTTP: the service's router on a real socket, spoken to with raw HTTP.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

use crate::{
    case::Step,
    door::{Door, streamed},
    world::World,
};

/// The service, called over HTTP.
pub struct HttpDoor {
    address: SocketAddr,
}

/// One answer.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// Sends one request and reads the whole answer.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: Option<Bytes>,
) -> Answer {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let request = request
        .body(Full::new(body.unwrap_or_default()))
        .expect("a request");
    let response = client.request(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    // A cut body is what has come of it.
    let mut whole = Vec::new();
    let mut body = body;
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: whole.into(),
    }
}

#[async_trait]
impl Door for HttpDoor {
    async fn open(world: &World) -> Self {
        let router = lyss_http::router(Arc::new(world.engine.clone()), Default::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address }
    }

    async fn call(&self, world: &World, step: &Step) -> Value {
        let key = world.key(&step.key);
        let id = step.id.replace('/', "%2F");
        let query = step
            .user_id
            .as_ref()
            .map(|user| format!("?user_id={user}"))
            .unwrap_or_default();
        let (method, path) = match step.call.as_str() {
            "chat" | "stream" => ("POST", "/v1/chat/completions".to_owned()),
            "embed" => ("POST", "/v1/embeddings".to_owned()),
            "tokens" => ("POST", "/v1/tokens".to_owned()),
            "models" => ("GET", "/v1/models".to_owned()),
            "model" => ("GET", format!("/v1/models/{id}")),
            "create_session" => ("POST", "/v1/sessions".to_owned()),
            "session" => ("GET", format!("/v1/sessions/{id}{query}")),
            "sessions" => ("GET", format!("/v1/sessions{query}")),
            "messages" => ("GET", format!("/v1/sessions/{id}/messages{query}")),
            "delete_session" => ("DELETE", format!("/v1/sessions/{id}{query}")),
            "request" => ("GET", format!("/v1/requests/{id}{query}")),
            other => panic!("no call `{other}`"),
        };
        let body = (method == "POST").then(|| {
            step.raw_body
                .clone()
                .unwrap_or_else(|| step.body.to_string())
                .into()
        });
        let mut headers = Vec::new();
        headers.extend(key.map(|key| ("authorization", format!("Bearer {key}"))));
        headers.extend(
            step.idempotency_key
                .clone()
                .map(|key| ("idempotency-key", key)),
        );
        let answer = send(self.address, method, &path, &headers, body).await;
        let mut outcome = outcome(step, &answer);
        outcome["request_id"] = answer.header("x-request-id").into();
        outcome
    }
}

fn outcome(step: &Step, answer: &Answer) -> Value {
    let mut outcome = match answer.status {
        200 if step.call == "stream" => {
            let text = std::str::from_utf8(&answer.body).expect("an event stream is text");
            let mut chunks = Vec::new();
            let (mut error, mut done) = (Value::Null, false);
            for event in text
                .split("\n\n")
                .filter_map(|event| event.strip_prefix("data: "))
            {
                assert!(!done, "an event after [DONE]");
                if event == "[DONE]" {
                    done = true;
                    continue;
                }
                let event: Value = serde_json::from_str(event).expect("an event is JSON");
                match event.get("error") {
                    Some(failed) => error = failed.clone(),
                    None => chunks.push(event),
                }
            }
            streamed(chunks, error, done)
        }
        200 | 204 => json!({"status": answer.status, "body": answer.json()}),
        status => json!({
            "status": status,
            "should_retry": answer.header("x-should-retry") == Some("true"),
            "error": answer.json()["error"],
        }),
    };
    for (member, header) in [
        ("provider", "x-lyss-provider"),
        ("upstream_model", "x-lyss-model"),
        ("session_id", "x-lyss-session-id"),
        ("context", "x-lyss-context"),
    ] {
        if let Some(value) = answer.header(header) {
            outcome[member] = value.into();
        }
    }
    if answer.header("idempotent-replayed") == Some("true") {
        outcome["replayed"] = true.into();
    }
    if let Some(attempts) = answer
        .header("x-lyss-attempts")
        .and_then(|attempts| attempts.parse::<u64>().ok())
    {
        outcome["attempts"] = attempts.into();
    }
    outcome
}
