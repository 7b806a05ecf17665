//! Alibaba Cloud Model Studio (DashScope, 百炼) in its native protocol.
//!
//! # Source
//! Read 2026-11-22:
//! - API: <https://help.aliyun.com/zh/model-studio/qwen-api-via-dashscope>
//! - models and prices: <https://help.aliyun.com/zh/model-studio/models>
//! - error codes: <https://help.aliyun.com/zh/model-studio/error-code>
//! - embeddings: <https://help.aliyun.com/zh/model-studio/text-embedding-synchronous-api>
//!
//! What the protocol cannot express is refused where it would change the answer (`functions`, audio output, media for
//! a text model) and left out where it only tunes (`frequency_penalty`, `logit_bias`, `verbosity`). `tool_choice:
//! "required"` with several tools is sent as `auto`; `top_p: 0` is left out; `temperature: 2` becomes 1.99.
//!
//! Two things a request may need are learned from the provider's refusal and kept in memory: the generation path of a
//! model, and that a model answers only in a stream (which is then added up for callers that want one answer).

mod config;
#[cfg(test)]
mod conformance;
mod embed;
mod error;
mod frames;
mod model;
mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod wire;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use parking_lot::RwLock;
use serde_json::value::RawValue as Json;

pub use config::DEFAULT_BASE_URL;
#[cfg(test)]
pub(crate) use wire::usage as read_usage;

use self::{
    config::Config,
    error::{Failure, Refusal, Remedy, malformed},
    frames::{Frames, Source},
    model::Generation,
    response::Collected,
    stream::{Chunks, Opened},
    wire::Answer,
};
use super::{
    Capabilities, Completion, CompletionStream, Provider, ProviderCall, ProviderSpec,
    sse::Decoder,
    transport::{BodyStream, HttpTransport, collect},
};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    resilience::stream_buffer::StreamBuffer,
    types::{ChatRequest, EmbeddingRequest, Model, RequestId, Segments},
};

/// The largest body of a refusal that is read.
const MAX_REFUSAL: usize = 64 * 1024;

/// Models that something is remembered of. Names come from callers, so that the number is bounded.
const MAX_LEARNED: usize = 1024;

/// Entries of a page of models, and how many pages are read.
const PAGE: usize = 100;
const MAX_PAGES: usize = 50;

/// One DashScope account.
pub struct DashScope {
    id: Arc<str>,
    config: Config,
    transport: Arc<dyn HttpTransport>,
    max_event: usize,
    max_answer: usize,
    stream_buffer: StreamBuffer,
    learned: RwLock<HashMap<String, Learned>>,
}

/// What the provider's refusals have taught about a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Learned {
    generation: Option<Generation>,
    stream: bool,
}

/// An accepted request.
struct Accepted {
    answer: Opened,
    /// From the answer's head.
    request_id: Option<String>,
}

impl DashScope {
    fn decoder(&self) -> Decoder {
        Decoder::new(self.max_event).within(&self.stream_buffer)
    }

    /// Makes the provider of a specification.
    ///
    /// # Errors
    /// `invalid_value` naming `base_url`, `api_key`, `headers` or `options`.
    pub fn from_spec(spec: ProviderSpec) -> Result<Arc<dyn Provider>> {
        Ok(Arc::new(Self {
            config: Config::new(&spec)?,
            id: spec.id,
            transport: spec.transport,
            max_event: spec.max_event,
            max_answer: spec.max_answer,
            stream_buffer: spec.stream_buffer,
            learned: RwLock::default(),
        }))
    }

    /// Sends a chat request, on the other path or as a stream where the provider asks for that.
    async fn open(&self, request: &ChatRequest, mut stream: bool) -> Result<Accepted> {
        let model = request.model();
        let learned = self.learned.read().get(model).copied().unwrap_or_default();
        let configured = self.config.generation.get(model).copied();
        let named = configured
            .or(learned.generation)
            .or_else(|| Generation::of(model));
        let mut generation = named.unwrap_or(match request::has_media(request) {
            true => Generation::Multimodal,
            false => Generation::Text,
        });
        stream |= learned.stream || model::needs_stream(model, request::enable_thinking(request));
        let mut lesson = Learned::default();
        let mut refused_path = None;
        loop {
            let native = match (
                request::translate(request, generation, stream),
                refused_path.take(),
            ) {
                (Ok(native), _) => native,
                (Err(error), None) => return Err(error),
                // The other path cannot take the request at all, so the first refusal stands.
                (Err(_), Some(refusal)) => return Err(unknown_model(model, refusal)),
            };
            let failure = match self.attempt(native, model, generation, stream).await {
                Ok(accepted) => {
                    if lesson != Learned::default() {
                        self.learn(model, lesson);
                    }
                    return Ok(accepted);
                }
                Err(failure) => failure,
            };
            match failure.remedy {
                Some(Remedy::Stream) if !stream => {
                    stream = true;
                    lesson.stream = true;
                }
                Some(Remedy::OtherPath) if lesson.generation.is_none() && configured.is_none() => {
                    generation = generation.other();
                    lesson.generation = Some(generation);
                    refused_path = Some(failure.error);
                }
                Some(Remedy::OtherPath) => return Err(unknown_model(model, failure.error)),
                _ => return Err(failure.error),
            }
        }
    }

    fn learn(&self, model: &str, lesson: Learned) {
        let mut learned = self.learned.write();
        if learned.len() >= MAX_LEARNED && !learned.contains_key(model) {
            learned.clear();
        }
        let entry = learned.entry(model.to_owned()).or_default();
        entry.generation = lesson.generation.or(entry.generation);
        entry.stream |= lesson.stream;
    }

    async fn attempt(
        &self,
        native: request::NativeRequest,
        model: &str,
        generation: Generation,
        stream: bool,
    ) -> Result<Accepted, Failure> {
        let mut extra = HeaderMap::new();
        if stream {
            extra.insert("x-dashscope-sse", HeaderValue::from_static("enable"));
        }
        if native.resolves_oss {
            extra.insert(
                "x-dashscope-ossresourceresolve",
                HeaderValue::from_static("enable"),
            );
        }
        let response = self
            .send(Method::POST, generation.path(), extra, native.body)
            .await?;
        let (head, body) = response.into_parts();
        let nested_parts = generation == Generation::Multimodal && model.starts_with("kimi");
        let mut frames = Frames::new(nested_parts);
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let is_stream = match content_type {
            Some(kind) => kind.starts_with("text/event-stream"),
            None => stream,
        };
        let answer = if is_stream {
            let source = Source::new(body, self.decoder());
            Opened::read(source, frames, &self.config.secrets).await?
        } else {
            let body = collect(body, self.max_answer).await?;
            if stream && !body.trim_ascii_start().starts_with(b"{") {
                // Events under another name, as it labels its refusals.
                let body = futures::stream::iter([Ok(body)]).boxed();
                let source = Source::new(body, self.decoder());
                Opened::read(source, frames, &self.config.secrets).await?
            } else {
                let first = frames.read_whole(body, &self.config.secrets)?;
                Opened {
                    source: Source::ended(),
                    frames,
                    first,
                }
            }
        };
        Ok(Accepted {
            answer,
            request_id: request_id(&head.headers),
        })
    }

    /// Sends a request and refuses what is not a success.
    async fn send(
        &self,
        method: Method,
        path: &str,
        extra: HeaderMap,
        body: Segments,
    ) -> Result<Response<BodyStream>, Failure> {
        let uri = format!("{}{path}", self.config.base_url);
        let accept = match extra.contains_key("x-dashscope-sse") {
            true => "text/event-stream",
            false => "application/json",
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri
            .parse()
            .map_err(|_| Error::invalid("base_url", "`base_url` cannot be extended by a path"))?;
        let headers = request.headers_mut();
        *headers = self.config.headers.clone();
        headers.extend(extra);
        headers
            .entry(header::ACCEPT)
            .or_insert(HeaderValue::from_static(accept));
        let response = self.transport.send(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        // A refusal whose body is lost or too large is still a refusal.
        let body = collect(body, MAX_REFUSAL).await.unwrap_or_default();
        let refusal = Refusal::read(head.status.as_u16(), Some(&head.headers), &body);
        Err(refusal.into_failure(&self.config.secrets))
    }

    /// Sends a request and reads its answer; the native form of an error inside a success is refused too.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Segments,
    ) -> Result<(Bytes, Option<String>)> {
        let response = self
            .send(method, path, HeaderMap::new(), body)
            .await
            .map_err(|failure| failure.error)?;
        let (head, body) = response.into_parts();
        let body = collect(body, self.max_answer).await?;
        let answer = parse(&body)?;
        if answer.is_error() {
            let refusal = Refusal::read(500, Some(&head.headers), &body);
            return Err(refusal.into_failure(&self.config.secrets).error);
        }
        let request_id = request_id(&head.headers).or_else(|| answer.request_id());
        Ok((body, request_id))
    }

    fn named(&self) -> impl Fn(Error) -> Error + Send + use<> {
        let id = self.id.clone();
        move |error| error.with_provider(&*id)
    }

    async fn complete(&self, call: &ProviderCall, request: &ChatRequest) -> Result<Completion> {
        let Accepted { answer, request_id } = self.open(request, false).await?;
        let mut collected = Collected::default();
        let frames = answer
            .collect(&self.config.secrets, self.max_answer, |delta| {
                collected.add(delta)
            })
            .await?;
        let request_id = request_id.or_else(|| frames.request_id().map(str::to_owned));
        let id = completion_id(
            frames.request_id().or(request_id.as_deref()),
            call.request_id,
        );
        let usage = frames.usage();
        Ok(Completion {
            body: collected.write(&id, now(), request.model(), usage)?,
            usage,
            upstream_request_id: request_id,
        })
    }

    async fn embed_all(&self, request: &EmbeddingRequest) -> Result<Completion> {
        let batches = embed::batches(request)?;
        let several = batches.len() > 1;
        let answers: Vec<_> = futures::stream::iter(batches)
            .map(|batch| async move {
                let (body, request_id) = self.ask(Method::POST, embed::PATH, batch.body).await?;
                let vectors = embed::read(&body, &parse(&body)?, batch.texts, request.base64())?;
                Ok::<_, Error>((vectors, request_id))
            })
            .buffered(embed::CONCURRENCY)
            .try_collect()
            .await
            // Other batches may have been served, and charged.
            .map_err(|error| {
                if several {
                    error.with_work(Work::Unknown)
                } else {
                    error
                }
            })?;
        let (vectors, request_ids): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        let (body, usage) = embed::join(request.model(), vectors)?;
        Ok(Completion {
            body,
            usage,
            upstream_request_id: request_ids.into_iter().flatten().next(),
        })
    }

    async fn page(&self, page: usize) -> Result<(Vec<String>, usize, Option<u64>)> {
        let path = format!("/models?page_no={page}&page_size={PAGE}");
        let (body, _) = self.ask(Method::GET, &path, Segments::default()).await?;
        let output = parse(&body)?.output.unwrap_or_default();
        let Some(models) = output.models else {
            return Err(malformed("has no list of models", &body));
        };
        let names = models
            .iter()
            .filter_map(|model| model_name(model))
            .collect();
        Ok((names, models.len(), output.total))
    }

    async fn list(&self) -> Result<Vec<Model>> {
        let mut names: Vec<String> = Vec::new();
        let mut seen = 0u64;
        for page in 1..=MAX_PAGES {
            let (more, entries, total) = self.page(page).await?;
            names.extend(more);
            seen += entries as u64;
            let last = total.map_or(entries < PAGE, |total| seen >= total);
            if last || entries == 0 {
                break;
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names
            .into_iter()
            .map(|name| Model::new(name, &*self.id))
            .collect())
    }
}

#[async_trait]
impl Provider for DashScope {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            chat: true,
            stream: true,
            embeddings: true,
        }
    }

    fn endpoint(&self) -> &str {
        &self.config.base_url
    }

    async fn chat(&self, call: &ProviderCall, request: ChatRequest) -> Result<Completion> {
        self.complete(call, &request).await.map_err(self.named())
    }

    async fn chat_stream(
        &self,
        call: &ProviderCall,
        request: ChatRequest,
    ) -> Result<CompletionStream> {
        let Accepted { answer, request_id } =
            self.open(&request, true).await.map_err(self.named())?;
        let request_id = request_id.or_else(|| answer.frames.request_id().map(str::to_owned));
        let id = completion_id(
            answer.frames.request_id().or(request_id.as_deref()),
            call.request_id,
        );
        let chunks = Chunks::new(&id, now(), request.model());
        let chunks = answer.into_chunks(chunks, self.config.secrets.clone());
        Ok(CompletionStream {
            chunks: chunks.map_err(self.named()).boxed(),
            upstream_request_id: request_id,
        })
    }

    async fn embed(&self, _call: &ProviderCall, request: EmbeddingRequest) -> Result<Completion> {
        self.embed_all(&request).await.map_err(self.named())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.list().await.map_err(self.named())
    }

    /// Asks for one entry of the list of models. A refused key is an error of its own kind, which does not speak
    /// against the provider's health; any other refusal shows that it answers.
    async fn health_check(&self) -> Result<()> {
        let path = "/models?page_no=1&page_size=1";
        match self
            .send(Method::GET, path, HeaderMap::new(), Segments::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(failure) => match failure.error.kind() {
                ErrorKind::UpstreamError
                | ErrorKind::UpstreamTimeout
                | ErrorKind::UpstreamAuthFailed
                | ErrorKind::UpstreamIncomplete
                | ErrorKind::UpstreamInvalidResponse => Err(self.named()(failure.error)),
                _ => Ok(()),
            },
        }
    }
}

fn parse(body: &Bytes) -> Result<Answer<'_>> {
    serde_json::from_slice(body).map_err(|_| malformed("is not what its protocol says", body))
}

/// The provider answers in the same words for a path that a model is not bound to and for a model that it does not
/// know; after both paths only the latter is left.
fn unknown_model(model: &str, refusal: Error) -> Error {
    Error::new(
        ErrorKind::ModelNotFound,
        format!(
            "the provider does not serve the model `{}`, or it is not activated for this account",
            model.escape_debug()
        ),
    )
    .with_param("model")
    .with_source(refusal)
}

/// `x-request-id`, which has the same value as the body's `request_id`.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    (!id.is_empty() && id.len() <= 128).then(|| id.to_owned())
}

fn completion_id(native: Option<&str>, own: RequestId) -> String {
    match native {
        Some(native) => format!("chatcmpl-{native}"),
        None => format!("chatcmpl-{own}"),
    }
}

/// Unix seconds: the protocol has no time of creation.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The name of an entry of the list of models: the entry itself, or one of the members it has been seen under.
fn model_name(entry: &Json) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Entry {
        model: Option<String>,
        model_name: Option<String>,
        model_id: Option<String>,
        id: Option<String>,
        name: Option<String>,
    }
    wire::text(entry)
        .or_else(|| {
            let entry: Entry = serde_json::from_str(entry.get()).ok()?;
            entry
                .model
                .or(entry.model_name)
                .or(entry.model_id)
                .or(entry.id)
                .or(entry.name)
        })
        .filter(|name| !name.is_empty())
}
