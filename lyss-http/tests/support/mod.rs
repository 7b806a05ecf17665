//! A gateway that is scripted per test, a server in front of it on a free port, and a client that sees raw bytes.
//! The gateway stands in for what the edge does not contain; nothing of the edge is replaced.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use lyss_core::{
    Error, ErrorKind, Gateway, Result,
    admission::{ApiKey, IssuedKey, KeyChanges, NewKey},
    budget::{BudgetDefinition, BudgetState},
    context::tokens::Tokenizer,
    gateway::*,
    price::PriceEntry,
    types::{
        CallContext, ChatChunk, ChatRequest, ChatResponse, ChatStream, Credential,
        EmbeddingRequest, EmbeddingResponse, LogRow, Model, RawObject, ReplyInfo, RequestId,
        Session, StoredMessage, Usage,
        log::Purpose,
        session::{MessagePage, SessionPage, SessionStatus},
    },
};
use lyss_http::{
    RouterOptions, Shutdown,
    serve::{ServeOptions, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What the gateway does is chosen by the model of the call.
#[derive(Default)]
pub struct Scripted {
    /// Codes counted by `count_refused`.
    pub refused: Mutex<Vec<&'static str>>,
    /// Chunks that were taken from streams.
    pub produced: Arc<AtomicUsize>,
    /// Whether the last stream or waiting call was dropped before its end.
    pub dropped: Arc<AtomicBool>,
    /// Whether callers need a key.
    pub keys: bool,
    /// The last call's context.
    pub seen: Mutex<Option<CallContext>>,
}

/// Notes that it was dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Flagged<S>(S, Flag);

impl<S: Stream + Unpin> Stream for Flagged<S> {
    type Item = S::Item;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

fn info(context: &CallContext) -> ReplyInfo {
    ReplyInfo {
        request_id: context.request_id,
        provider: "p1".into(),
        upstream_model: "up-1".into(),
        session_id: Some("s1".into()),
        context: None,
        attempts: 2,
        replay_of: None,
        memory_unavailable: false,
        max_tokens_clamped: None,
        upstream_request_id: None,
    }
}

fn chunk(text: &str) -> Result<ChatChunk> {
    Ok(ChatChunk::from_json(
        format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#).as_bytes(),
    ))
}

pub fn failure() -> Error {
    Error::new(
        ErrorKind::UpstreamIncomplete,
        "the provider's answer ended early",
    )
}

fn session(id: &str) -> Session {
    Session {
        id: id.into(),
        user_id: "u1".into(),
        message_count: 2,
        token_count: 9,
        created_ms: 1_700_000_000_000,
        last_activity_ms: 1_700_000_000_123,
        compressed_count: 1,
        status: SessionStatus::Active,
        metadata: None,
    }
}

impl Scripted {
    fn admit(&self, context: &CallContext, admin: bool) -> Result<()> {
        *self.seen.lock().unwrap() = Some(context.clone());
        if !self.keys {
            return Ok(());
        }
        match &context.credential {
            Credential::Anonymous => Err(Error::new(ErrorKind::MissingApiKey, "send a key")),
            Credential::Key(_) if admin => Err(Error::new(ErrorKind::AdminRequired, "admins")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Gateway for Scripted {
    async fn chat(&self, context: CallContext, request: ChatRequest) -> Result<ChatResponse> {
        self.admit(&context, false)?;
        let _flag = match request.model() {
            "panic" => panic!("a secret"),
            "busy" => return Err(Error::new(ErrorKind::RateLimited, "slow down")),
            "sleep" => {
                let flag = Flag(self.dropped.clone());
                tokio::time::sleep(Duration::from_secs(600)).await;
                Some(flag)
            }
            "short" => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                None
            }
            _ => None,
        };
        Ok(ChatResponse {
            info: info(&context),
            // The request's own body comes back, so that a test sees what arrived.
            body: RawObject::parse(request.body().to_bytes())?,
            usage: Usage::default(),
        })
    }

    async fn count_tokens(
        &self,
        context: CallContext,
        request: ChatRequest,
    ) -> Result<PromptTokens> {
        self.admit(&context, false)?;
        Ok(PromptTokens {
            model: request.model().to_owned(),
            upstream_model: "up-1".to_owned(),
            tokenizer: Tokenizer::Estimate,
            input_tokens: 12,
            messages: vec![9],
            tools: 0,
            response_format: 0,
            reply: 3,
        })
    }

    async fn chat_stream(&self, context: CallContext, request: ChatRequest) -> Result<ChatStream> {
        self.admit(&context, false)?;
        let flag = Flag(self.dropped.clone());
        let produced = self.produced.clone();
        let chunks: Pin<Box<dyn Stream<Item = Result<ChatChunk>> + Send>> = match request.model() {
            "late" | "late-error" => {
                tokio::time::sleep(Duration::from_millis(700)).await;
                if request.model() == "late-error" {
                    return Err(failure());
                }
                futures::stream::iter([chunk("hi")]).boxed()
            }
            "never" => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                futures::stream::empty().boxed()
            }
            "refuse" => return Err(Error::new(ErrorKind::ModelNotFound, "no such model")),
            "cut" => futures::stream::iter([chunk("hi"), Err(failure())]).boxed(),
            "panic" => futures::stream::poll_fn(|_| panic!("a secret")).boxed(),
            "gap" => futures::stream::iter([chunk("a")])
                .chain(
                    futures::stream::once(tokio::time::sleep(Duration::from_millis(700)))
                        .map(|()| chunk("b")),
                )
                .boxed(),
            "ticks" => {
                let ticks = futures::stream::unfold(0, |n| async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Some((chunk("tick"), n + 1))
                });
                if request.body().get("max_tokens").is_some() {
                    ticks.take(25).boxed()
                } else {
                    ticks.boxed()
                }
            }
            "flood" => {
                let big = "x".repeat(16 << 10);
                futures::stream::repeat_with(move || chunk(&big))
                    .inspect(move |_| {
                        produced.fetch_add(1, Ordering::SeqCst);
                    })
                    .boxed()
            }
            _ => futures::stream::iter([chunk("one"), chunk("two")]).boxed(),
        };
        Ok(ChatStream {
            info: info(&context),
            chunks: Box::pin(Flagged(chunks, flag)),
        })
    }

    async fn embed(&self, context: CallContext, _: EmbeddingRequest) -> Result<EmbeddingResponse> {
        self.admit(&context, false)?;
        Ok(EmbeddingResponse {
            info: info(&context),
            body: RawObject::parse(Bytes::from_static(br#"{"object":"list","data":[]}"#))?,
            usage: Usage::default(),
        })
    }

    async fn models(&self, context: CallContext) -> Result<Vec<Model>> {
        self.admit(&context, false)?;
        Ok(vec![Model::new("m", "p1")])
    }

    async fn model(&self, context: CallContext, id: &str) -> Result<Model> {
        self.admit(&context, false)?;
        Ok(Model::new(id, "p1"))
    }

    async fn create_session(&self, context: CallContext, new: NewSession) -> Result<Session> {
        self.admit(&context, false)?;
        Ok(session(new.id.as_deref().unwrap_or("fresh")))
    }

    async fn session(&self, context: CallContext, id: &str) -> Result<Session> {
        self.admit(&context, false)?;
        Ok(session(id))
    }

    async fn sessions(&self, context: CallContext, _: PageQuery) -> Result<SessionPage> {
        self.admit(&context, false)?;
        Ok(SessionPage {
            sessions: vec![session("s1")],
            next_cursor: Some("c".into()),
        })
    }

    async fn session_messages(
        &self,
        context: CallContext,
        _: &str,
        after: u64,
        _: usize,
    ) -> Result<MessagePage> {
        self.admit(&context, false)?;
        Ok(MessagePage {
            session: session("s1"),
            messages: vec![StoredMessage {
                seq: after + 1,
                turn: 1,
                json: Bytes::from_static(br#"{"role":"user","content":"\u00e9","n":1.50}"#),
                tokens: 3,
            }],
        })
    }

    async fn delete_session(&self, context: CallContext, _: &str) -> Result<()> {
        self.admit(&context, false)
    }

    async fn request(&self, context: CallContext, _: &str) -> Result<LogRow> {
        self.admit(&context, false)?;
        Ok(LogRow::new(RequestId::new(), Purpose::Chat, "m", false))
    }

    async fn requests(&self, context: CallContext, _: RequestQuery) -> Result<RequestPage> {
        self.admit(&context, false)?;
        Ok(RequestPage {
            data: Vec::new(),
            next_cursor: None,
        })
    }

    async fn usage(&self, context: CallContext, query: UsageQuery) -> Result<Vec<UsageTotal>> {
        self.admit(&context, false)?;
        let group = query
            .by
            .into_iter()
            .map(|by| (by, "x".to_owned()))
            .collect();
        Ok(vec![UsageTotal {
            group,
            ..UsageTotal::default()
        }])
    }

    async fn routing_rules(&self, context: CallContext) -> Result<Vec<RoutingRule>> {
        self.admit(&context, true)?;
        Ok(Vec::new())
    }

    async fn put_routing_rule(
        &self,
        context: CallContext,
        rule: RoutingRule,
    ) -> Result<RoutingRule> {
        self.admit(&context, true)?;
        Ok(RoutingRule {
            id: Some(rule.id.unwrap_or(1)),
            ..rule
        })
    }

    async fn delete_routing_rule(&self, context: CallContext, _: i64) -> Result<()> {
        self.admit(&context, true)
    }

    async fn prices(&self, context: CallContext) -> Result<Vec<PriceEntry>> {
        self.admit(&context, true)?;
        Ok(Vec::new())
    }

    async fn admin_providers(&self, context: CallContext) -> Result<Vec<ProviderInfo>> {
        self.admit(&context, true)?;
        Ok(Vec::new())
    }

    async fn put_price(&self, context: CallContext, price: PriceEntry) -> Result<PriceEntry> {
        self.admit(&context, true)?;
        Ok(PriceEntry {
            id: Some(price.id.unwrap_or(1)),
            ..price
        })
    }

    async fn delete_price(&self, context: CallContext, _: i64) -> Result<()> {
        self.admit(&context, true)
    }

    async fn budgets(&self, context: CallContext) -> Result<Vec<BudgetState>> {
        self.admit(&context, true)?;
        Ok(Vec::new())
    }

    async fn put_budget(
        &self,
        context: CallContext,
        budget: BudgetDefinition,
    ) -> Result<BudgetState> {
        self.admit(&context, true)?;
        Ok(BudgetState {
            definition: Arc::new(budget),
            source: "api".into(),
            spent: None,
            reserved: None,
            left: None,
            renews_at: None,
        })
    }

    async fn delete_budget(&self, context: CallContext, _: i64) -> Result<()> {
        self.admit(&context, true)
    }

    async fn keys(&self, context: CallContext) -> Result<Vec<ApiKey>> {
        self.admit(&context, true)?;
        Ok(Vec::new())
    }

    async fn key(&self, context: CallContext, _: &str) -> Result<ApiKey> {
        self.admit(&context, true)?;
        Err(Error::new(ErrorKind::NotFound, "no such key"))
    }

    async fn create_key(&self, context: CallContext, _: NewKey) -> Result<IssuedKey> {
        self.admit(&context, true)?;
        Err(Error::new(ErrorKind::StoreUnavailable, "no keys here"))
    }

    async fn change_key(&self, context: CallContext, id: &str, _: KeyChanges) -> Result<ApiKey> {
        self.key(context, id).await
    }

    async fn rotate_key(&self, context: CallContext, _: &str, _: Duration) -> Result<IssuedKey> {
        self.create_key(context, NewKey::default()).await
    }

    async fn revoke_key(&self, context: CallContext, _: &str) -> Result<()> {
        self.admit(&context, true)
    }

    async fn put_provider(
        &self,
        context: CallContext,
        id: &str,
        members: Members,
        _: bool,
    ) -> Result<ProviderInfo> {
        self.admit(&context, true)?;
        Ok(ProviderInfo {
            id: id.to_owned(),
            source: ProviderSource::Database,
            enabled: true,
            disabled_reason: None,
            api_keys: Vec::new(),
            headers: Vec::new(),
            created_ms: Some(1),
            updated_ms: Some(1),
            settings: members,
        })
    }

    async fn delete_provider(&self, context: CallContext, _: &str) -> Result<()> {
        self.admit(&context, true)
    }

    async fn health(&self) -> Health {
        std::future::pending().await
    }

    async fn ready(&self) -> Ready {
        Ready {
            ready: true,
            degraded: vec!["redis".into()],
        }
    }

    fn count_refused(&self, error: &Error) {
        self.refused.lock().unwrap().push(error.kind().code());
    }
}

/// A running server.
pub struct Running {
    pub address: SocketAddr,
    pub gateway: Arc<Scripted>,
    pub shutdown: Shutdown,
    pub task: tokio::task::JoinHandle<()>,
}

/// Starts a server with short deadlines.
pub async fn start() -> Running {
    start_with(Scripted::default(), |_, _| {}).await
}

pub async fn start_with(
    gateway: Scripted,
    change: impl FnOnce(&mut RouterOptions, &mut ServeOptions),
) -> Running {
    let gateway = Arc::new(gateway);
    let shutdown = Shutdown::default();
    let mut router = RouterOptions {
        body_timeout: Duration::from_millis(600),
        keep_alive: Duration::from_millis(250),
        shutdown: shutdown.clone(),
        ..RouterOptions::default()
    };
    let mut options = ServeOptions {
        header_timeout: Duration::from_millis(400),
        write_stall: Duration::from_secs(1),
        grace: Duration::from_secs(1),
        ..ServeOptions::default()
    };
    change(&mut router, &mut options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = lyss_http::router(gateway.clone(), router);
    let task = tokio::spawn(serve(listener, app, options, shutdown.clone()));
    Running {
        address,
        gateway,
        shutdown,
        task,
    }
}

impl Running {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes as they are and reads until the server closes, at most three seconds.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut socket = self.connect().await;
        socket.write_all(bytes.as_ref()).await.unwrap();
        read_all(&mut socket).await
    }

    /// One request on its own connection; gives the whole answer.
    pub async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        self.raw(request(method, path, headers, body)).await
    }

    pub async fn chat(&self, body: &str) -> String {
        self.send("POST", "/v1/chat/completions", JSON, body).await
    }
}

pub const JSON: &str = "content-type: application/json\r\n";

pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = match (method, body) {
        ("GET" | "DELETE" | "HEAD", "") => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}{length}\r\n{body}"
    )
}

pub async fn read_all(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(3), read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// The body, its chunked framing taken off.
pub fn body(answer: &str) -> String {
    let (_, mut rest) = answer.split_once("\r\n\r\n").unwrap_or(("", ""));
    if header(answer, "transfer-encoding") != Some("chunked") {
        return rest.to_owned();
    }
    let mut out = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 || after.len() < size {
            break;
        }
        out.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    out
}

pub fn code(answer: &str) -> String {
    let json: serde_json::Value =
        serde_json::from_str(&body(answer)).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    json["error"]["code"].as_str().unwrap().to_owned()
}
