//! The native protocol's shapes: a writer of JSON text that shares large values, and what answers look like.

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue as Json;

use crate::types::{RawValue, Segments, Usage};

/// Values longer than this are shared instead of copied (images travel as `data:` URLs of megabytes).
const SHARE_FROM: usize = 1024;

/// JSON text under construction.
#[derive(Debug, Default)]
pub(super) struct JsonText {
    done: Vec<Bytes>,
    tail: Vec<u8>,
}

impl JsonText {
    /// Appends text as it is.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.tail.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends a value as it came.
    pub(super) fn value(&mut self, value: RawValue<'_>) -> &mut Self {
        if value.text().len() < SHARE_FROM {
            return self.push(value.text());
        }
        if !self.tail.is_empty() {
            self.done.push(std::mem::take(&mut self.tail).into());
        }
        self.done.push(value.bytes());
        self
    }

    /// Appends a string, quoted.
    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        push_string(&mut self.tail, text);
        self
    }

    /// Appends a comma, unless a list or an object has just begun.
    pub(super) fn comma(&mut self) -> &mut Self {
        if !matches!(self.tail.last(), Some(b'[' | b'{')) {
            self.tail.push(b',');
        }
        self
    }

    /// Appends a member's key, after a comma where one is due.
    pub(super) fn key(&mut self, key: &str) -> &mut Self {
        self.comma().string(key).push(":")
    }

    pub(super) fn finish(mut self) -> Segments {
        if !self.tail.is_empty() {
            self.done.push(self.tail.into());
        }
        Segments(self.done)
    }
}

/// Appends a string to JSON text, quoted and escaped.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// An answer or one frame of a stream. What is of an unexpected type is kept raw, so that it fails only where it is
/// needed.
#[derive(Debug, Deserialize)]
pub(super) struct Answer<'a> {
    #[serde(borrow, default)]
    pub(super) output: Option<Output<'a>>,
    #[serde(borrow, default)]
    pub(super) usage: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) request_id: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) code: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a Json>,
}

impl Answer<'_> {
    /// Whether this is an error, whatever the status and the event's name say: a code that is not empty, or an
    /// envelope.
    pub(super) fn is_error(&self) -> bool {
        let code = self.code.and_then(text_or_number);
        let code_tells = code.is_some_and(|code| !matches!(code.as_str(), "" | "0" | "200"));
        code_tells || self.error.is_some_and(|error| error.get().starts_with('{'))
    }

    /// The provider's id of the request.
    pub(super) fn request_id(&self) -> Option<String> {
        self.request_id
            .and_then(text)
            .filter(|id| !id.is_empty() && id.len() <= 128)
    }
}

/// `output`: of generations, embeddings and the list of models.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Output<'a> {
    #[serde(borrow, default)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    /// The answer of `result_format: text`, which some models give regardless.
    #[serde(borrow, default)]
    pub(super) text: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) embeddings: Option<Vec<Embedding<'a>>>,
    #[serde(borrow, default)]
    pub(super) models: Option<Vec<&'a Json>>,
    #[serde(default)]
    pub(super) total: Option<u64>,
}

/// One of `output.choices`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default)]
    pub(super) index: Option<u32>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) message: Option<Message<'a>>,
    #[serde(borrow, default)]
    pub(super) logprobs: Option<&'a Json>,
}

/// A choice's message, whole or the part that one frame brings.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow, default)]
    pub(super) content: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) reasoning_content: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Option<Vec<ToolCall<'a>>>,
}

/// A tool call, whole or in part.
#[derive(Debug, Deserialize)]
pub(super) struct ToolCall<'a> {
    #[serde(default)]
    pub(super) index: Option<u32>,
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(borrow, default)]
    pub(super) function: Option<Function<'a>>,
}

/// A tool call's function.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Function<'a> {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(borrow, default)]
    arguments: Option<&'a Json>,
}

impl Function<'_> {
    /// The arguments: the string, or the text of what some models send as an object.
    pub(super) fn arguments(&self) -> String {
        match self.arguments {
            None => String::new(),
            Some(json) if json.get() == "null" => String::new(),
            Some(json) => text(json).unwrap_or_else(|| json.get().to_owned()),
        }
    }
}

/// One of `output.embeddings`.
#[derive(Debug, Deserialize)]
pub(super) struct Embedding<'a> {
    #[serde(default)]
    pub(super) text_index: Option<usize>,
    #[serde(borrow, default)]
    pub(super) embedding: Option<&'a Json>,
    #[serde(borrow, default)]
    pub(super) sparse_embedding: Option<&'a Json>,
}

/// The string; `None` if it is no string.
pub(super) fn text(json: &Json) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

/// The string, or the text of a number.
pub(super) fn text_or_number(json: &Json) -> Option<String> {
    let number = || {
        json.get()
            .parse::<i64>()
            .is_ok()
            .then(|| json.get().to_owned())
    };
    text(json).or_else(number)
}

/// The text of a message's content: a string, or the text parts of a list.
pub(super) fn content_text(content: Option<&Json>) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
        Part(Part),
        Other(IgnoredAny),
    }
    #[derive(Deserialize)]
    struct Part {
        text: Option<String>,
    }
    let content = content.and_then(|json| serde_json::from_str(json.get()).ok());
    match content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
        Some(Content::Part(part)) => part.text.unwrap_or_default(),
        Some(Content::Other(_)) | None => String::new(),
    }
}

/// Reads a native `usage` object; `None` if it says nothing, or nothing that can be true.
pub(crate) fn usage(json: &Json) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Wire {
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
        total_tokens: Option<u64>,
        prompt_tokens_details: Option<Details>,
        input_tokens_details: Option<Details>,
        output_tokens_details: Option<Details>,
    }
    #[derive(Default, Deserialize)]
    struct Details {
        cached_tokens: Option<u64>,
        cache_creation_input_tokens: Option<u64>,
        reasoning_tokens: Option<u64>,
    }
    let wire: Wire = serde_json::from_str(json.get()).ok()?;
    let prompt = wire.prompt_tokens_details.unwrap_or_default();
    let input = wire.input_tokens_details.unwrap_or_default();
    // Embeddings report the total alone: all of it is input.
    let input_tokens = wire.input_tokens.or(match wire.output_tokens {
        None => wire.total_tokens,
        Some(output) => wire.total_tokens?.checked_sub(output),
    })?;
    let output_tokens = wire.output_tokens.or_else(|| {
        wire.total_tokens
            .map(|total| total.saturating_sub(input_tokens))
    });
    Usage {
        input_tokens,
        output_tokens: output_tokens.unwrap_or(0),
        cached_tokens: prompt.cached_tokens.or(input.cached_tokens).unwrap_or(0),
        cache_write_tokens: prompt.cache_creation_input_tokens.unwrap_or(0),
        reasoning_tokens: wire
            .output_tokens_details
            .and_then(|details| details.reasoning_tokens)
            .unwrap_or(0),
    }
    .plausible()
}

/// OpenAI's name of a finish reason; `None` while there is none (absent, `null`, empty, or the string `"null"`).
pub(super) fn finish_reason(reason: Option<&Json>, has_tool_calls: bool) -> Option<&'static str> {
    match reason.and_then(text)?.as_str() {
        "" | "null" => None,
        "tool_calls" => Some("tool_calls"),
        "length" => Some("length"),
        "content_filter" => Some("content_filter"),
        // Some models end a tool call with `stop`, and clients act on the reason.
        _ if has_tool_calls => Some("tool_calls"),
        _ => Some("stop"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn json(text: &str) -> Box<Json> {
        Json::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn content_comes_in_many_shapes() {
        for (content, expected) in [
            (r#""a""#, "a"),
            ("null", ""),
            (r#"[{"text":"a"},{"image":"x"},{"text":"b"}]"#, "ab"),
            ("[]", ""),
            (r#"{"text":"a"}"#, "a"),
            ("7", ""),
        ] {
            assert_eq!(content_text(Some(&json(content))), expected, "{content}");
        }
    }

    #[test]
    fn usage_is_read_or_not_believed() {
        let read = |text: &str| usage(&json(text));
        assert_eq!(
            read(
                r#"{"total_tokens":10,"input_tokens":7,"output_tokens":3,"output_tokens_details":{"reasoning_tokens":2},"prompt_tokens_details":{"cached_tokens":4}}"#
            ),
            Some(Usage {
                input_tokens: 7,
                output_tokens: 3,
                cached_tokens: 4,
                reasoning_tokens: 2,
                ..Usage::default()
            })
        );
        assert_eq!(
            read(r#"{"input_tokens":7,"total_tokens":9}"#)
                .unwrap()
                .output_tokens,
            2
        );
        assert_eq!(read(r#"{"total_tokens":9}"#).unwrap().input_tokens, 9);
        for wrong in [
            "{}",
            "null",
            "[]",
            r#"{"input_tokens":-1,"output_tokens":1}"#,
            r#"{"input_tokens":1.5}"#,
            r#"{"input_tokens":7,"output_tokens":1,"output_tokens_details":{"reasoning_tokens":2}}"#,
            r#"{"output_tokens":1}"#,
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn finish_reasons_are_openais() {
        for (native, tools, expected) in [
            (r#""null""#, false, None),
            ("null", false, None),
            (r#""""#, true, None),
            (r#""stop""#, false, Some("stop")),
            (r#""stop""#, true, Some("tool_calls")),
            (r#""length""#, true, Some("length")),
            (r#""tool_calls""#, true, Some("tool_calls")),
        ] {
            assert_eq!(
                finish_reason(Some(&json(native)), tools),
                expected,
                "{native}"
            );
        }
        assert_eq!(finish_reason(None, true), None);
    }
}
