//! Providers: one folder a protocol. What sits here knows how to speak to a provider, and nothing else: retries,
//! timeouts, limits and metrics are layers around it (`resilience/`).

pub mod dashscope;
pub(crate) mod failure;
pub mod openai;
pub mod preset;
pub mod registry;
pub mod simulated;
pub mod sse;
pub mod transport;
mod vectors;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    error::{Error, ErrorKind, Result},
    resilience::stream_buffer::StreamBuffer,
    types::{
        ChatRequest, EmbeddingRequest, Model, RawObject, RequestId, Usage, reply::ChunkStream,
    },
};

/// What a provider can do. What is not declared is refused with `invalid_value` before it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `chat` works.
    pub chat: bool,
    /// `chat_stream` works.
    pub stream: bool,
    /// `embed` works.
    pub embeddings: bool,
}

/// What a provider is told about a call besides the request.
#[derive(Debug, Clone)]
pub struct ProviderCall {
    /// The gateway's id of the request, for logs.
    pub request_id: RequestId,
    /// The attempt, from 1.
    pub attempt: u32,
}

/// A complete answer of a provider, in OpenAI's shape.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The answer; for an OpenAI-compatible service the bytes it sent.
    pub body: RawObject,
    /// The usage it reported, if it reported one that can be true.
    pub usage: Option<Usage>,
    /// Its own request id.
    pub upstream_request_id: Option<String>,
}

/// A streamed answer of a provider, in OpenAI's shape.
///
/// The stream yields chunks as they arrive and ends after a complete answer; an answer that ends early, an error event
/// and a broken event are an `Err` as last item. A chunk without choices carries the usage and is always sent when the
/// provider reports one. Dropping the stream closes the connection.
pub struct CompletionStream {
    /// The chunks.
    pub chunks: ChunkStream,
    /// The provider's own request id.
    pub upstream_request_id: Option<String>,
}

impl fmt::Debug for CompletionStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionStream")
            .field("upstream_request_id", &self.upstream_request_id)
            .finish_non_exhaustive()
    }
}

/// One configured upstream account, spoken to in its protocol.
///
/// Requests arrive in OpenAI's shape with the upstream's model name already set and the gateway's own fields removed.
/// Implementations add no retry, timeout or metric. Errors carry what the dispatcher needs: [`Error::with_retry`] and
/// [`Error::with_work`]; their text never holds a secret or a URL with one.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Where it is reached, for the decision record; no credentials.
    fn endpoint(&self) -> &str;

    /// Asks for a complete answer.
    async fn chat(&self, call: &ProviderCall, request: ChatRequest) -> Result<Completion> {
        let _ = (call, request);
        Err(unsupported("chat"))
    }

    /// Asks for a streamed answer. Returns when the provider has accepted the request; usage is always asked for.
    async fn chat_stream(
        &self,
        call: &ProviderCall,
        request: ChatRequest,
    ) -> Result<CompletionStream> {
        let _ = (call, request);
        Err(unsupported("streaming"))
    }

    /// Asks for embeddings, in the encoding that the request names, ordered by index.
    async fn embed(&self, call: &ProviderCall, request: EmbeddingRequest) -> Result<Completion> {
        let _ = (call, request);
        Err(unsupported("embeddings"))
    }

    /// The models that the account may use.
    async fn models(&self) -> Result<Vec<Model>>;

    /// Whether the provider answers at all; costs nothing there.
    async fn health_check(&self) -> Result<()>;
}

fn unsupported(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidValue,
        format!("this provider does not serve {what}"),
    )
    .with_param("model")
}

/// What a provider is built from: one entry of `providers` with one of its keys. Free of the configuration's own types,
/// so that an embedding program can make one by hand.
#[derive(Clone)]
pub struct ProviderSpec {
    /// The configured id, such as `aliyun`.
    pub id: Arc<str>,
    /// The key to use.
    pub api_key: Option<SecretString>,
    /// The OpenAI-compatible service whose defaults apply, a row of [`preset`].
    pub preset: Option<String>,
    /// Where the API is; unset: the preset's or the kind's own.
    pub base_url: Option<String>,
    /// Headers added to every call.
    pub headers: BTreeMap<String, SecretString>,
    /// Options of the kind itself.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Where requests go and answers come from.
    pub transport: Arc<dyn transport::HttpTransport>,
    /// The largest event of a stream, in bytes.
    pub max_event: usize,
    /// The largest answer that is not a stream, in bytes.
    pub max_answer: usize,
    /// The budget of all streams of the engine; unlimited by default.
    pub stream_buffer: StreamBuffer,
}

impl ProviderSpec {
    /// The default of `max_event` (decision 11): 1 MiB.
    pub const MAX_EVENT: usize = 1 << 20;
    /// The default of `max_answer`: 64 MiB, room for 2,048 embeddings of 1,536 numbers as text.
    pub const MAX_ANSWER: usize = 64 << 20;

    /// A specification with nothing but defaults.
    pub fn new(id: impl Into<Arc<str>>, transport: Arc<dyn transport::HttpTransport>) -> Self {
        Self {
            id: id.into(),
            api_key: None,
            preset: None,
            base_url: None,
            headers: BTreeMap::new(),
            options: serde_json::Map::new(),
            transport,
            max_event: Self::MAX_EVENT,
            max_answer: Self::MAX_ANSWER,
            stream_buffer: StreamBuffer::default(),
        }
    }
}

impl fmt::Debug for ProviderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderSpec")
            .field("id", &self.id)
            .field("preset", &self.preset)
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}
