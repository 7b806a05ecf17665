//! From a request to a response: control, recording, script, protocol.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::bench::{Canned, Paced, Scan};
use crate::conn::SocketControl;
use crate::control::{Control, Controls, Subject};
use crate::ledger::{Ledger, RecordedRequest, Recording, now_ms};
use crate::play::{CutShort, Play};
use crate::reply::{JSON, Reply, ReplyBody};
use crate::script::Script;
use crate::{dashscope, openai, tokens};

/// Largest request body read.
const MAX_BODY: usize = 512 * 1024 * 1024;

/// What a protocol needs to know of a request.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) json: Option<Value>,
    pub(crate) stream: bool,
    /// Last user text, without directives.
    pub(crate) text: String,
    pub(crate) script: Script,
    pub(crate) seq: u64,
    pub(crate) request_id: String,
    /// Unix seconds.
    pub(crate) now_s: i64,
}

/// A response body of any kind.
pub(crate) enum AnyBody {
    Full(Full<Bytes>),
    Play(Box<Play>),
    Paced(Box<Paced>),
}

impl Body for AnyBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Play(play) => Pin::new(play).poll_frame(cx),
            Self::Paced(paced) => Pin::new(paced).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Play(play) => play.is_end_stream(),
            Self::Paced(paced) => paced.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Play(play) => play.size_hint(),
            Self::Paced(paced) => paced.size_hint(),
        }
    }
}

/// The connection is to be dropped without a response.
#[derive(Debug)]
pub(crate) struct Hangup;

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the provider is down")
    }
}

impl std::error::Error for Hangup {}

/// State of one provider, shared by its connections.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) controls: Controls,
    pub(crate) bench: Option<Canned>,
    pub(crate) addr: SocketAddr,
}

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    OpenAi,
    DashScope,
}

impl Provider {
    pub(crate) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        socket: Arc<SocketControl>,
    ) -> Result<Response<AnyBody>, Hangup> {
        if request.uri().path().starts_with("/__") {
            return Ok(self.control(request).await);
        }
        if let Some(canned) = &self.bench {
            return bench(canned, request).await;
        }
        if self.controls.is_down() {
            socket.reset_on_close();
            return Err(Hangup);
        }
        self.answer(request, socket).await
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        socket: Arc<SocketControl>,
    ) -> Result<Response<AnyBody>, Hangup> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|_| Hangup)?
            .to_bytes();
        let path = head.uri.path().to_owned();
        let headers = plain_headers(&head.headers);
        let key = bearer(&head.headers);
        let record = RecordedRequest {
            seq: 0,
            method: head.method.to_string(),
            uri: head.uri.to_string(),
            headers: headers.clone(),
            body: body.clone(),
        };
        let recording = self.ledger.open(record, &path, &key);
        let (protocol, below) = route(&path);
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        let model = json
            .as_ref()
            .and_then(|body| body.get("model")?.as_str())
            .unwrap_or_default()
            .to_owned();
        let text = json.as_ref().map(last_text).unwrap_or_default();
        let mut script = self.controls.script_for(&Subject {
            path: &path,
            model: &model,
            key: &key,
            text: &text,
        });
        let text = script.apply_directives(&text);
        let stream = match protocol {
            Protocol::OpenAi => json
                .as_ref()
                .and_then(|body| body.get("stream")?.as_bool())
                .unwrap_or(false),
            Protocol::DashScope => head
                .headers
                .get("x-dashscope-sse")
                .is_some_and(|value| value == "enable"),
        };
        recording.update(|entry| {
            entry.model = model;
            entry.stream = stream;
        });
        socket.set_slice(script.slice.unwrap_or(0));
        if script.delay_ms > 0 {
            // Dropped here when the client goes: the recording notes it.
            tokio::time::sleep(Duration::from_millis(script.delay_ms)).await;
        }
        let call = Call {
            method: &head.method,
            query: head.uri.query().unwrap_or_default(),
            headers: &headers,
            json,
            stream,
            text,
            script,
            seq: recording.seq(),
            request_id: recording.id(),
            now_s: i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX),
        };
        let reply = if self.controls.accepts_key(&key) {
            make_reply(&call, protocol, below)
        } else {
            refuse_key(&call, protocol)
        };
        Ok(respond(call, protocol, reply, socket, recording))
    }

    async fn control(&self, request: Request<Incoming>) -> Response<AnyBody> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let text = match (&head.method, head.uri.path()) {
            (&Method::GET, "/__ledger") => json!(self.ledger.entries()).to_string(),
            (&Method::GET, "/__requests") => self.requests_json(&query),
            (&Method::GET, "/__health") => json!({"addr": self.addr.to_string()}).to_string(),
            (&Method::POST, "/__control") => {
                let body = Limited::new(body, MAX_BODY)
                    .collect()
                    .await
                    .map(|body| body.to_bytes())
                    .unwrap_or_default();
                match serde_json::from_slice::<Control>(&body) {
                    Ok(control) => {
                        if control.clear {
                            self.ledger.clear();
                        }
                        self.controls.apply(control);
                        "{}".to_owned()
                    }
                    Err(error) => {
                        return simple(
                            StatusCode::BAD_REQUEST,
                            json!({"error": error.to_string()}).to_string(),
                        );
                    }
                }
            }
            _ => {
                return simple(
                    StatusCode::NOT_FOUND,
                    r#"{"error":"no such control path"}"#.to_owned(),
                );
            }
        };
        simple(StatusCode::OK, text)
    }

    /// `?contains=marker` (percent-encoding is not decoded) keeps requests whose body contains it.
    fn requests_json(&self, query: &str) -> String {
        let marker = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("contains="));
        let requests = self.ledger.requests();
        let kept = requests.iter().filter(|request| {
            marker.is_none_or(|marker| {
                memchr::memmem::find(&request.body, marker.as_bytes()).is_some()
            })
        });
        let rows: Vec<Value> = kept
            .map(|request| {
                json!({
                    "seq": request.seq,
                    "method": request.method,
                    "uri": request.uri,
                    "headers": request.headers,
                    "body": String::from_utf8_lossy(&request.body),
                })
            })
            .collect();
        Value::Array(rows).to_string()
    }
}

fn route(path: &str) -> (Protocol, &str) {
    if let Some(below) = path.strip_prefix("/api/v1") {
        (Protocol::DashScope, below)
    } else {
        let below = path.strip_prefix("/compatible-mode").unwrap_or(path);
        (Protocol::OpenAi, below.strip_prefix("/v1").unwrap_or(below))
    }
}

fn make_reply(call: &Call<'_>, protocol: Protocol, below: &str) -> Reply {
    let script = &call.script;
    if script.redirect.is_some() {
        return Reply::json(307, String::new());
    }
    let failed = script.status.filter(|status| *status >= 400);
    let mut reply = match (failed, protocol) {
        (Some(status), Protocol::OpenAi) => {
            let failure = openai::Failure::of_status(status, script);
            match script.tokens {
                Some((prompt, completion)) => failure.billed(prompt, completion),
                None => failure.reply(),
            }
        }
        (Some(status), Protocol::DashScope) => dashscope::Failure::of_status(status, script)
            .reply(&dashscope::request_id(call), call.stream),
        (None, Protocol::OpenAi) => openai::reply(call, below),
        (None, Protocol::DashScope) => dashscope::reply(call, below),
    };
    if let Some(status) = script.status {
        reply.status = status;
    }
    if let Some(body) = &script.body {
        reply.body = ReplyBody::Whole(body.clone(), 0);
    }
    reply
}

fn refuse_key(call: &Call<'_>, protocol: Protocol) -> Reply {
    match protocol {
        Protocol::OpenAi => openai::Failure::of_status(401, &Script::default()).reply(),
        Protocol::DashScope => dashscope::Failure::of_status(401, &Script::default())
            .reply(&call.request_id, call.stream),
    }
}

fn respond(
    call: Call<'_>,
    protocol: Protocol,
    reply: Reply,
    socket: Arc<SocketControl>,
    recording: Recording,
) -> Response<AnyBody> {
    recording.update(|entry| {
        entry.status = reply.status;
        entry.prompt_tokens = reply.prompt_tokens;
        entry.planned_tokens = reply.planned_tokens;
    });
    let mut headers = HeaderMap::new();
    put(&mut headers, "content-type", reply.content_type);
    put(&mut headers, "x-request-id", &call.request_id);
    match protocol {
        Protocol::OpenAi => {
            put(&mut headers, "openai-version", "2020-10-01");
            put(&mut headers, "openai-processing-ms", "1");
            put(&mut headers, "x-ratelimit-limit-requests", "10000");
            put(&mut headers, "x-ratelimit-remaining-requests", "9999");
            put(&mut headers, "x-ratelimit-reset-requests", "6ms");
        }
        Protocol::DashScope => {
            put(&mut headers, "x-dashscope-call-gateway", "true");
            put(&mut headers, "req-cost-time", "1");
        }
    }
    let script = call.script;
    if let Some(value) = &script.retry_after {
        put(&mut headers, "retry-after", value);
    }
    if let Some(location) = &script.redirect {
        put(&mut headers, "location", location);
    }
    for (name, value) in &script.headers {
        put(&mut headers, name, value);
    }
    let play = match reply.body {
        ReplyBody::Whole(body, tokens) => Play::whole(body, tokens, script, socket, recording),
        ReplyBody::Stream(events, error) => {
            put(&mut headers, "cache-control", "no-cache");
            Play::stream(events, script, error, socket, recording)
        }
    };
    let mut response = Response::new(AnyBody::Play(Box::new(play)));
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

async fn bench(canned: &Canned, request: Request<Incoming>) -> Result<Response<AnyBody>, Hangup> {
    let mut body = request.into_body();
    let mut scan = Scan::default();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(|_| Hangup)?.data_ref() {
            scan.feed(data);
        }
    }
    let (kind, body) = if scan.stream {
        (
            "text/event-stream; charset=utf-8",
            AnyBody::Paced(Box::new(canned.stream())),
        )
    } else {
        (JSON, AnyBody::Full(Full::new(canned.unary(scan.large))))
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

fn simple(status: StatusCode, body: String) -> Response<AnyBody> {
    let mut response = Response::new(AnyBody::Full(Full::new(body.into())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// Sets a header; a name or value that is none is left out.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}

fn plain_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

fn bearer(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or(value).to_owned()
}

/// The text directives are read from: the last user message, or the first text to embed.
fn last_text(body: &Value) -> String {
    let messages = body
        .get("messages")
        .or_else(|| body.pointer("/input/messages"))
        .and_then(Value::as_array);
    if let Some(messages) = messages {
        let last = messages
            .iter()
            .rev()
            .find(|message| message.get("role").and_then(Value::as_str) == Some("user"));
        return last.map_or_else(String::new, |last| {
            tokens::content_text(last.get("content").unwrap_or(&Value::Null)).0
        });
    }
    let first = match body.get("input") {
        Some(Value::String(text)) => Some(text.as_str()),
        Some(Value::Array(texts)) => texts.first().and_then(Value::as_str),
        Some(input) => input.pointer("/texts/0").and_then(Value::as_str),
        None => None,
    };
    first.unwrap_or_default().to_owned()
}
