//! Tokens used by one call.

use serde::{Deserialize, Serialize};

use super::raw::RawValue;

/// More tokens than any call can have used: a report above it is not believed.
const IMPLAUSIBLE: u64 = 10_000_000;

/// Tokens used by one call. The sub-counts are contained in their totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub output_tokens: u64,
    /// Part of `input_tokens` read from the provider's prompt cache.
    pub cached_tokens: u64,
    /// Part of `input_tokens` written to the provider's prompt cache.
    pub cache_write_tokens: u64,
    /// Part of `output_tokens` spent on hidden reasoning.
    pub reasoning_tokens: u64,
}

/// Where the numbers of a [`Usage`] come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageSource {
    /// The provider said so.
    Reported,
    /// The provider said nothing, or nothing that can be true; the gateway counted.
    #[default]
    Counted,
    /// The answer was cut; the gateway counted what was delivered.
    Partial,
}

impl UsageSource {
    /// The word in the `usage_source` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Counted => "counted",
            Self::Partial => "partial",
        }
    }
}

impl Usage {
    /// Reads OpenAI's `usage` object; `None` if it is absent, `null`, or cannot be true (negative, fractional, over
    /// ten million, or sub-counts above their total). An explicit 0 stays 0.
    ///
    /// # Source
    /// OpenAI chat completions and embeddings reference; `prompt_cache_hit_tokens` is DeepSeek's name,
    /// `cache_creation_input_tokens` that of DashScope's compatible mode.
    pub fn from_openai(value: RawValue<'_>) -> Option<Self> {
        #[derive(Deserialize, Default)]
        struct Wire {
            prompt_tokens: Option<u64>,
            completion_tokens: Option<u64>,
            prompt_tokens_details: Option<PromptDetails>,
            completion_tokens_details: Option<CompletionDetails>,
            prompt_cache_hit_tokens: Option<u64>,
        }
        #[derive(Deserialize, Default)]
        struct PromptDetails {
            cached_tokens: Option<u64>,
            cache_write_tokens: Option<u64>,
            cache_creation_input_tokens: Option<u64>,
        }
        #[derive(Deserialize, Default)]
        struct CompletionDetails {
            reasoning_tokens: Option<u64>,
        }
        let wire: Wire = value.decode().ok()?;
        let prompt = wire.prompt_tokens_details.unwrap_or_default();
        Self {
            input_tokens: wire.prompt_tokens?,
            output_tokens: wire.completion_tokens.unwrap_or(0),
            cached_tokens: prompt
                .cached_tokens
                .or(wire.prompt_cache_hit_tokens)
                .unwrap_or(0),
            cache_write_tokens: prompt
                .cache_write_tokens
                .or(prompt.cache_creation_input_tokens)
                .unwrap_or(0),
            reasoning_tokens: wire
                .completion_tokens_details
                .unwrap_or_default()
                .reasoning_tokens
                .unwrap_or(0),
        }
        .plausible()
    }

    /// Itself, unless the numbers cannot be true.
    pub fn plausible(self) -> Option<Self> {
        let believable = self.input_tokens <= IMPLAUSIBLE
            && self.output_tokens <= IMPLAUSIBLE
            && self.cached_tokens.saturating_add(self.cache_write_tokens) <= self.input_tokens
            && self.reasoning_tokens <= self.output_tokens;
        believable.then_some(self)
    }

    /// Input and output together.
    pub fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// The numbers as OpenAI's `usage` object.
    pub fn to_openai(self) -> String {
        let mut out = format!(
            r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}"#,
            self.input_tokens,
            self.output_tokens,
            self.total_tokens()
        );
        if self.cached_tokens > 0 {
            out.push_str(&format!(
                r#","prompt_tokens_details":{{"cached_tokens":{}}}"#,
                self.cached_tokens
            ));
        }
        if self.reasoning_tokens > 0 {
            out.push_str(&format!(
                r#","completion_tokens_details":{{"reasoning_tokens":{}}}"#,
                self.reasoning_tokens
            ));
        }
        out.push('}');
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::raw::RawObject;

    fn read(json: &str) -> Option<Usage> {
        let object = RawObject::parse(format!(r#"{{"usage":{json}}}"#).into()).unwrap();
        Usage::from_openai(object.get("usage").unwrap())
    }

    #[test]
    fn believes_what_can_be_true() {
        let usage = read(
            r#"{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}}"#,
        )
        .unwrap();
        assert_eq!(
            (
                usage.input_tokens,
                usage.cached_tokens,
                usage.reasoning_tokens
            ),
            (7, 3, 2)
        );
        assert_eq!(
            read(r#"{"prompt_tokens":0,"completion_tokens":0}"#),
            Some(Usage::default())
        );
        assert!(
            read(r#"{"prompt_tokens":1,"prompt_tokens_details":null,"completion_tokens":1}"#)
                .is_some()
        );
    }

    #[test]
    fn does_not_believe_the_rest() {
        for json in [
            "null",
            "{}",
            r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":1}"#,
            r#"{"prompt_tokens":9223372036854775808,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
