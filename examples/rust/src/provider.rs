//! A provider: repeats the last message in capitals.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream;
use lyss_core::{
    Error, Result,
    provider::{Capabilities, Completion, CompletionStream, Provider, ProviderCall, ProviderSpec},
    types::{ChatChunk, ChatRequest, Model, RawObject, Usage},
};
use serde_json::{Value, json};

/// Answers in capitals. One with an option `suffix` says that, too.
pub struct Shout {
    id: Arc<str>,
    suffix: String,
}

impl Shout {
    /// A provider of an entry of the configuration; `options` is the entry's own part.
    ///
    /// # Errors
    /// `invalid_value` (param `options`) for a suffix that is no text.
    pub fn from_spec(spec: ProviderSpec) -> Result<Arc<dyn Provider>> {
        let suffix = match spec.options.get("suffix") {
            None => "",
            Some(Value::String(suffix)) => suffix,
            Some(_) => return Err(Error::invalid("options", "`suffix` must be a text")),
        };
        Ok(Arc::new(Self {
            suffix: suffix.to_owned(),
            id: spec.id,
        }))
    }

    fn answer(&self, request: &ChatRequest) -> Result<(String, Usage)> {
        let messages = request.messages()?;
        let said = messages.last().map(|message| message.text());
        let text = said.unwrap_or_default().to_uppercase() + &self.suffix;
        let words = |text: &str| text.split_whitespace().count() as u64;
        let usage = Usage {
            input_tokens: messages.iter().map(|message| words(&message.text())).sum(),
            output_tokens: words(&text),
            ..Usage::default()
        };
        Ok((text, usage))
    }
}

#[async_trait]
impl Provider for Shout {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            chat: true,
            stream: true,
            embeddings: false,
        }
    }

    fn endpoint(&self) -> &str {
        "in this program"
    }

    async fn chat(&self, call: &ProviderCall, request: ChatRequest) -> Result<Completion> {
        let (text, usage) = self.answer(&request)?;
        let answer = json!({
            "id": format!("chatcmpl-{}", call.request_id),
            "object": "chat.completion",
            "created": 0,
            "model": request.model(),
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }],
            "usage": numbers(usage),
        });
        Ok(Completion {
            body: RawObject::parse(answer.to_string().into())?,
            usage: Some(usage),
            upstream_request_id: None,
        })
    }

    async fn chat_stream(
        &self,
        call: &ProviderCall,
        request: ChatRequest,
    ) -> Result<CompletionStream> {
        let (text, usage) = self.answer(&request)?;
        let (id, model) = (
            format!("chatcmpl-{}", call.request_id),
            request.model().to_owned(),
        );
        let event = move |choices: Value, usage: Option<Usage>| {
            let mut event = json!({
                "id": id,
                "object": "chat.completion.chunk",
                "created": 0,
                "model": model,
                "choices": choices,
            });
            if let Some(usage) = usage {
                event["usage"] = numbers(usage);
            }
            let mut chunk = ChatChunk::from_json(event.to_string().as_bytes());
            chunk.usage = usage;
            chunk
        };
        let words = text.split_inclusive(' ').map(|word| {
            event(
                json!([{"index": 0, "delta": {"content": word}, "finish_reason": null}]),
                None,
            )
        });
        let mut chunks: Vec<ChatChunk> = words.collect();
        let mut last = event(
            json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
            None,
        );
        last.finish = true;
        chunks.push(last);
        // Always sent; the engine keeps it from callers that have not asked for it.
        let mut tokens = event(json!([]), Some(usage));
        tokens.without_choices = true;
        chunks.push(tokens);
        Ok(CompletionStream {
            chunks: Box::pin(stream::iter(chunks.into_iter().map(Ok))),
            upstream_request_id: None,
        })
    }

    async fn models(&self) -> Result<Vec<Model>> {
        Ok(vec![Model::new("shout", &*self.id)])
    }

    async fn health_check(&self) -> Result<()> {
        Ok(())
    }
}

fn numbers(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens(),
    })
}
