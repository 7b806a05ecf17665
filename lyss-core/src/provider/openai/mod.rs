//! OpenAI's API, and every service that speaks it.
//!
//! Bytes in, bytes out: a request goes upstream as the caller's own bytes but for a few members, an answer and the
//! events of a stream come back as the provider's own. They are read only for what the gateway must know: usage,
//! errors, the end.
//!
//! # Source
//! API reference <https://platform.openai.com/docs/api-reference/chat>, models and prices
//! <https://platform.openai.com/docs/pricing>, errors <https://platform.openai.com/docs/guides/error-codes>, and
//! `openai/openai-openapi` f85dbe22; read 2026-11-22. Differences of other services: [`preset`](super::preset).

mod config;
pub(in crate::provider) mod error;
mod request;
mod response;
mod stream;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream as futures_stream};
use http::{HeaderMap, HeaderValue, Method, Uri, header};

use self::config::Settings;
use super::{
    Capabilities, Completion, CompletionStream, Provider, ProviderCall, ProviderSpec,
    sse::Decoder,
    transport::{BodyStream, HttpTransport, announced, collect, collect_announced},
};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    resilience::stream_buffer::StreamBuffer,
    types::{ChatRequest, EmbeddingRequest, Model, Segments},
};

/// The largest error body that is read.
const MAX_ERROR: usize = 64 * 1024;

/// How many calls of one split embeddings request run at once.
const BATCHES_AT_ONCE: usize = 4;

/// A service that speaks OpenAI's protocol.
pub struct OpenAi {
    settings: Settings,
    transport: Arc<dyn HttpTransport>,
    max_event: usize,
    max_answer: usize,
    stream_buffer: StreamBuffer,
}

impl OpenAi {
    /// A provider of kind `openai`.
    ///
    /// # Errors
    /// `invalid_value` naming `preset`, `base_url`, `api_key` or `headers`.
    pub fn from_spec(spec: ProviderSpec) -> Result<Arc<dyn Provider>> {
        Ok(Arc::new(Self {
            settings: Settings::new(&spec)?,
            transport: spec.transport,
            max_event: spec.max_event,
            max_answer: spec.max_answer,
            stream_buffer: spec.stream_buffer,
        }))
    }

    /// Sends a request; an answer that is no success becomes an error.
    async fn send(
        &self,
        method: Method,
        target: &Uri,
        accept: &'static str,
        body: Segments,
    ) -> Result<http::Response<BodyStream>> {
        let mut request = http::Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target.clone();
        let headers = request.headers_mut();
        *headers = self.settings.headers.clone();
        headers
            .entry(header::ACCEPT)
            .or_insert(HeaderValue::from_static(accept));
        let response = self.transport.send(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        // The status says enough if the body cannot be read.
        let body = collect(body, MAX_ERROR).await.unwrap_or_default();
        Err(error::refused(
            head.status.as_u16(),
            &head.headers,
            &body,
            &self.settings.secrets,
        ))
    }

    async fn post(&self, target: &Uri, body: Segments, member: &str) -> Result<Completion> {
        let response = self
            .send(Method::POST, target, "application/json", body)
            .await?;
        let (head, body) = response.into_parts();
        let body = collect_announced(body, self.max_answer, announced(&head.headers)).await?;
        response::complete(
            body,
            member,
            request_id(&head.headers),
            &self.settings.secrets,
        )
    }
}

#[async_trait]
impl Provider for OpenAi {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            chat: true,
            stream: true,
            embeddings: self.settings.quirks.embeddings,
        }
    }

    fn endpoint(&self) -> &str {
        &self.settings.endpoint
    }

    async fn chat(&self, _: &ProviderCall, mut request: ChatRequest) -> Result<Completion> {
        request::prepare_chat(&mut request, &self.settings.quirks, false)?;
        self.post(&self.settings.chat, request.to_segments(), "choices")
            .await
    }

    async fn chat_stream(
        &self,
        _: &ProviderCall,
        mut request: ChatRequest,
    ) -> Result<CompletionStream> {
        let include_usage = request.include_usage();
        let choices = request.body().get("n").and_then(|n| n.as_u64());
        request::prepare_chat(&mut request, &self.settings.quirks, true)?;
        let response = self
            .send(
                Method::POST,
                &self.settings.chat,
                "text/event-stream",
                request.to_segments(),
            )
            .await?;
        let (head, body) = response.into_parts();
        if !may_be_stream(&head.headers) {
            // Some services report an error with status 200 and a plain JSON body.
            let body = collect(body, self.max_answer).await?;
            response::complete(body, "choices", None, &self.settings.secrets)?;
            return Err(Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the provider did not answer with a stream, although one was asked for",
            )
            .with_work(Work::Unknown));
        }
        let chunks = stream::Chunks::new(
            body,
            Decoder::new(self.max_event).within(&self.stream_buffer),
            include_usage,
            choices.unwrap_or(1),
            self.settings.secrets.clone(),
        );
        Ok(CompletionStream {
            chunks: Box::pin(chunks),
            upstream_request_id: request_id(&head.headers),
        })
    }

    async fn embed(&self, _: &ProviderCall, request: EmbeddingRequest) -> Result<Completion> {
        let quirks = &self.settings.quirks;
        if !quirks.embeddings {
            return Err(super::unsupported("embeddings"));
        }
        let base64 = request.base64();
        let model = request.model().to_owned();
        let batches = request::embedding_batches(request, quirks)?;
        let single = batches.len() == 1;
        let answers: Vec<Completion> = futures_stream::iter(batches)
            .map(|batch| self.post(&self.settings.embeddings, batch, "data"))
            .buffered(BATCHES_AT_ONCE)
            .try_collect()
            .await?;
        response::join_embeddings(answers, single, &model, base64)
    }

    async fn models(&self) -> Result<Vec<Model>> {
        let body = Segments::default();
        let response = self
            .send(Method::GET, &self.settings.models, "application/json", body)
            .await?;
        let body: Bytes = collect(response.into_body(), self.max_answer).await?;
        wire::models(&body, &self.settings.id).ok_or_else(|| {
            Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the provider's list of models cannot be read; check `base_url`",
            )
        })
    }

    async fn health_check(&self) -> Result<()> {
        let body = Segments::default();
        let sent = self
            .send(Method::GET, &self.settings.models, "application/json", body)
            .await;
        match sent {
            // A short body is read to its end, so that the connection stays usable.
            Ok(response) => {
                let _ = collect(response.into_body(), MAX_ERROR).await;
                Ok(())
            }
            // It answers; that it has no such list, or is busy, is another matter.
            Err(error)
                if error
                    .upstream()
                    .is_some_and(|said| matches!(said.status, 400 | 404 | 405 | 408 | 429)) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The provider's own id of the request.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    (!id.is_empty() && id.len() <= 256).then(|| id.to_owned())
}

/// Whether the content type allows for events: a missing one does.
fn may_be_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_none_or(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            !essence.eq_ignore_ascii_case("application/json")
                && !essence.eq_ignore_ascii_case("text/html")
        })
}

#[cfg(test)]
mod tests;
