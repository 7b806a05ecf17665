//! The built-in provider: no account, no network, the same answer to the same request. It lets the first `curl` work,
//! and plays faults on demand. Every answer says `"system_fingerprint":"simulated"`.
//!
//! Any model name is served; `echo` and `embed` are the ones it lists. A chat answer repeats the last user message;
//! with a forced `tool_choice` it calls the tool, with a `json_schema` it is the schema's smallest instance; it has 16,384 tokens at most. Embeddings
//! are unit vectors derived from a hash. A token is a word, or one character outside ASCII; long
//! words are several.

mod answer;
mod embedding;
mod schema;
mod script;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::HeaderMap;

use self::{answer::Answer, script::Script};
use super::{Capabilities, Completion, CompletionStream, Provider, ProviderCall, ProviderSpec};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    types::{ChatRequest, EmbeddingRequest, Model, RawObject},
};

/// What `system_fingerprint` and `owned_by` say.
const LABEL: &str = "simulated";

/// The simulated provider.
pub struct Simulated {
    id: Arc<str>,
    script: Script,
}

impl Simulated {
    /// A provider of kind `simulated`. Its `options`: `latency_ms`, `tokens_per_second`, `directives` (obey
    /// `[[status:503]]`, `[[cut:3]]`, `[[stall:500]]`, `[[badjson]]`, `[[usage:none]]`, `[[usage:wrong]]` in the last
    /// user message), and `faults` for every call: `{status, cut, stall_ms, bad_json, usage}`.
    ///
    /// # Errors
    /// `invalid_value` with the parameter `options`.
    pub fn from_spec(spec: ProviderSpec) -> Result<Arc<dyn Provider>> {
        Ok(Arc::new(Self {
            id: spec.id,
            script: Script::read(spec.options)?,
        }))
    }

    /// Composes the answer, after the pause and with the refusal that the script says.
    async fn answer(&self, request: &ChatRequest) -> Result<Answer> {
        let (faults, text) = self.script.of(answer::last_text(request)?);
        tokio::time::sleep(Duration::from_millis(self.script.latency_ms)).await;
        if let Some(status) = faults.status {
            let body = r#"{"error":{"message":"simulated failure","type":"simulated","param":null,"code":null}}"#;
            return Err(super::openai::error::refused(
                status,
                &HeaderMap::new(),
                &Bytes::from_static(body.as_bytes()),
                &[],
            ));
        }
        Answer::compose(request, text, faults)
    }

    fn pause_per_token(&self) -> Duration {
        self.script
            .tokens_per_second
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate))
    }
}

#[async_trait]
impl Provider for Simulated {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            chat: true,
            stream: true,
            embeddings: true,
        }
    }

    fn endpoint(&self) -> &str {
        "simulated"
    }

    async fn chat(&self, _: &ProviderCall, request: ChatRequest) -> Result<Completion> {
        let answer = self.answer(&request).await?;
        let faults = &answer.faults;
        let tokens = u32::try_from(answer.usage.output_tokens).unwrap_or(u32::MAX);
        let stall = Duration::from_millis(faults.stall_ms);
        tokio::time::sleep(self.pause_per_token() * tokens + stall).await;
        if faults.cut.is_some() {
            return Err(cut());
        }
        if faults.bad_json {
            return Err(bad_json());
        }
        let usage = answer.reported_usage();
        Ok(Completion {
            usage: usage.and_then(|json| read_usage(&json)),
            body: answer.completion()?,
            upstream_request_id: None,
        })
    }

    async fn chat_stream(
        &self,
        _: &ProviderCall,
        request: ChatRequest,
    ) -> Result<CompletionStream> {
        let answer = self.answer(&request).await?;
        let faults = answer.faults.clone();
        let include_usage = request.include_usage();
        let count = answer.chunk_count();
        // A cut or a broken event ends the stream, the former after k chunks, the latter in the middle.
        let (end, fault): (u64, Option<fn() -> Error>) = match faults.cut {
            Some(after) => (after.min(count), Some(cut)),
            None if faults.bad_json => (count / 2, Some(bad_json)),
            None => (count, None),
        };
        // Written one by one: a long answer to many choices is not held at once.
        let events = (0..end)
            .filter_map(move |position| answer.chunk(position, include_usage))
            .map(Ok)
            .chain(fault.map(|fault| Err(fault())));
        let pause = self.pause_per_token();
        let stall = Duration::from_millis(faults.stall_ms);
        let chunks = stream::iter(events.enumerate()).then(move |(index, event)| async move {
            // The stall comes behind the first chunk, where it is an idle stream and not a late one.
            let wait = if index == 1 { pause + stall } else { pause };
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            event
        });
        Ok(CompletionStream {
            chunks: Box::pin(chunks),
            upstream_request_id: None,
        })
    }

    async fn embed(&self, _: &ProviderCall, request: EmbeddingRequest) -> Result<Completion> {
        tokio::time::sleep(Duration::from_millis(self.script.latency_ms)).await;
        embedding::embed(&request)
    }

    async fn models(&self) -> Result<Vec<Model>> {
        Ok(["echo", "embed"]
            .map(|name| Model {
                owned_by: LABEL.into(),
                // By their full name: bare, they would be asked of the default provider.
                ..Model::new(format!("{}/{name}", self.id), &*self.id)
            })
            .into())
    }

    async fn health_check(&self) -> Result<()> {
        Ok(())
    }
}

fn cut() -> Error {
    Error::new(
        ErrorKind::UpstreamIncomplete,
        "the simulated provider cut its answer, as it was told",
    )
    .with_work(Work::Unknown)
}

fn bad_json() -> Error {
    Error::new(
        ErrorKind::UpstreamInvalidResponse,
        "the simulated provider sent broken JSON, as it was told",
    )
    .with_work(Work::Unknown)
}

fn read_usage(json: &str) -> Option<crate::types::Usage> {
    let object = RawObject::parse(format!(r#"{{"usage":{json}}}"#).into()).ok()?;
    crate::types::Usage::from_openai(object.get("usage")?)
}

#[cfg(test)]
mod tests;
