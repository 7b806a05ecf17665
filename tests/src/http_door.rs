//! The door over HTTP: the service's router on a real socket, spoken to with raw HTTP.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, sync::Mutex, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use lyss_core::{Engine, Gateway, RemoteGateway, remote::RemoteOptions};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    case::Step,
    door::{Door, Doorway, streamed},
    world::Surroundings,
};

/// Opens doors to a service in this process.
pub struct HttpDoorway;

#[async_trait]
impl Doorway for HttpDoorway {
    async fn open(&self, surroundings: &Surroundings) -> Box<dyn Door> {
        let service = Service::start(surroundings).await;
        Box::new(HttpDoor::new(service.url(), service, None))
    }
}

/// Opens doors to a router in this process that has a service behind it in place of an engine.
pub struct HttpConnectedDoorway;

#[async_trait]
impl Doorway for HttpConnectedDoorway {
    async fn open(&self, surroundings: &Surroundings) -> Box<dyn Door> {
        let service = Service::start(surroundings).await;
        let front = Served::start(Arc::new(service.connect())).await;
        Box::new(HttpDoor::new(front.url(), service, Some(front)))
    }
}

/// A gateway, served over HTTP on a port of its own until it is dropped.
pub struct Served {
    address: SocketAddr,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    /// Serves a gateway.
    pub async fn start(gateway: Arc<dyn Gateway>) -> Self {
        let router = lyss_http::router(gateway, Default::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, serving }
    }

    /// Where.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An engine, served over HTTP.
pub struct Service {
    engine: Engine,
    served: Served,
}

impl Service {
    /// Starts an engine and serves it on a port of its own.
    pub async fn start(surroundings: &Surroundings) -> Self {
        let engine = surroundings.start_engine().await;
        let served = Served::start(Arc::new(engine.clone())).await;
        Self { engine, served }
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.served.url()
    }

    /// A gateway that calls it.
    pub fn connect(&self) -> RemoteGateway {
        RemoteGateway::connect(RemoteOptions::new(self.url())).expect("an address")
    }

    /// Ends it.
    pub async fn stop(self) {
        self.engine.shutdown(Duration::from_secs(1)).await;
    }
}

struct HttpDoor {
    url: String,
    service: Service,
    front: Option<Served>,
    client: Client<HttpConnector, Full<Bytes>>,
    held: Mutex<HashMap<String, Events>>,
}

#[async_trait]
impl Door for HttpDoor {
    async fn call(&self, surroundings: &Surroundings, step: &Step) -> Value {
        match step.call.as_str() {
            "rest" => return self.read(self.let_go(&step.id), step).await,
            "drop" => {
                drop(self.let_go(&step.id));
                return json!({"status": 200});
            }
            _ => {}
        }
        let (head, body) = self.send(surroundings, step).await;
        if head.status == 200 && step.call == "stream" {
            return self.read(Events::of(head.headers, body), step).await;
        }
        let body = body.collect().await.expect("a whole answer").to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut outcome = match head.status.as_u16() {
            status @ (200 | 204) => json!({"status": status, "body": body}),
            status => json!({
                "status": status,
                "should_retry": text(&head.headers, "x-should-retry") == Some("true"),
                "error": body["error"],
            }),
        };
        lay_headers(&mut outcome, &head.headers);
        outcome
    }

    async fn close(self: Box<Self>) {
        drop(self.held);
        drop(self.front);
        self.service.stop().await;
    }
}

impl HttpDoor {
    fn new(url: String, service: Service, front: Option<Served>) -> Self {
        Self {
            url,
            service,
            front,
            client: Client::builder(TokioExecutor::new()).build_http(),
            held: Mutex::default(),
        }
    }

    async fn send(
        &self,
        surroundings: &Surroundings,
        step: &Step,
    ) -> (http::response::Parts, Incoming) {
        let (method, path) = line(step);
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        if let Some(key) = surroundings.key(&step.key) {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(key) = &step.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let mut body = Bytes::new();
        if method == "POST" {
            request = request.header("content-type", "application/json");
            body = match &step.raw_body {
                Some(raw) => raw.clone().into(),
                None => step.body.to_string().into(),
            };
        }
        let request = request.body(Full::new(body)).expect("a request");
        let response = self.client.request(request).await.expect("an answer");
        response.into_parts()
    }

    /// Reads a stream, as far as the step says.
    async fn read(&self, mut stream: Events, step: &Step) -> Value {
        let mut events = Vec::new();
        let mut open = true;
        while step.read.is_none_or(|read| events.len() < read) {
            match stream.next().await {
                Some(event) => events.push(event),
                None => {
                    open = false;
                    break;
                }
            }
        }
        let mut outcome = streamed(events, stream.done, open);
        lay_headers(&mut outcome, &stream.headers);
        if let Some(name) = step.hold.clone().filter(|_| open) {
            self.held.lock().expect("no panic").insert(name, stream);
        }
        outcome
    }

    fn let_go(&self, name: &str) -> Events {
        let held = self.held.lock().expect("no panic").remove(name);
        held.unwrap_or_else(|| panic!("no stream is held as `{name}`"))
    }
}

/// The method and the path of a call.
fn line(step: &Step) -> (&'static str, String) {
    let id = step.id.replace('/', "%2F");
    let query = query(step);
    match step.call.as_str() {
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
        "requests" => ("GET", format!("/v1/requests{query}")),
        "request" => ("GET", format!("/v1/requests/{id}{query}")),
        "usage" => ("GET", format!("/v1/usage{query}")),
        "admin" => ("GET", format!("/v1/admin/{}", step.id.replace('_', "-"))),
        other => panic!("no call `{other}`"),
    }
}

/// The query of a call: the user, and what `requests` and `usage` ask for. Nothing in the cases needs escaping.
fn query(step: &Step) -> String {
    let mut parts: Vec<String> = step
        .user_id
        .iter()
        .map(|user| format!("user_id={user}"))
        .collect();
    if matches!(step.call.as_str(), "requests" | "usage") {
        for (name, value) in step.body.as_object().into_iter().flatten() {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Array(list) => list
                    .iter()
                    .filter_map(Value::as_str)
                    .collect::<Vec<_>>()
                    .join(","),
                other => other.to_string(),
            };
            parts.push(format!("{name}={value}"));
        }
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("?{}", parts.join("&")),
    }
}

/// The events of a streamed answer. Dropped before its end, it closes the connection.
struct Events {
    headers: HeaderMap,
    body: Incoming,
    buffer: Vec<u8>,
    done: bool,
}

impl Events {
    fn of(headers: HeaderMap, body: Incoming) -> Self {
        Self {
            headers,
            body,
            buffer: Vec::new(),
            done: false,
        }
    }

    /// The next event but `[DONE]`; `None` at the end, proper or not.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(end) = memchr::memmem::find(&self.buffer, b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = String::from_utf8(event).expect("an event is text");
                let Some(data) = event.strip_prefix("data: ") else {
                    continue;
                };
                assert!(!self.done, "an event after [DONE]");
                if data.trim_end() == "[DONE]" {
                    self.done = true;
                    continue;
                }
                return Some(serde_json::from_str(data).expect("an event is JSON"));
            }
            // A body that is cut is as one that ends: there was no [DONE].
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What the headers say about an answer.
fn lay_headers(outcome: &mut Value, headers: &HeaderMap) {
    for (member, header) in [
        ("provider", "x-lyss-provider"),
        ("upstream_model", "x-lyss-model"),
        ("session_id", "x-lyss-session-id"),
        ("context", "x-lyss-context"),
        ("request_id", "x-request-id"),
    ] {
        if let Some(value) = text(headers, header) {
            outcome[member] = value.into();
        }
    }
    if let Some(attempts) = text(headers, "x-lyss-attempts") {
        outcome["attempts"] = attempts.parse::<u64>().expect("a number").into();
    }
    if text(headers, "idempotent-replayed") == Some("true") {
        outcome["replayed"] = true.into();
    }
}
