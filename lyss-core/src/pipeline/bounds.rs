//! What a call can use, told from its bytes before it is sent: what is reserved for it, and what is known of it if
//! nothing else ever is.

use memchr::memmem;

use crate::{config::WorstCaseConfig, types::Segments};

/// Bytes of a request for which it has a token at least. Natural language has one for some four, the JSON around it
/// included; eight leaves room for long words and repetitions that a tokenizer knows.
const BYTES_PER_TOKEN_MOST: u64 = 8;

/// What stands in a request for something that costs tokens by itself, however few its bytes are.
const MEDIA: [&[u8]; 4] = [
    b"\"image_url\"",
    b"\"input_audio\"",
    b"\"file\"",
    b"\"video_url\"",
];

/// Bounds of the tokens of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Tokens of the prompt, at most.
    pub input: u64,
    /// Tokens of each answer, at most.
    pub output: u64,
    /// Answers that are asked for.
    pub choices: u64,
    /// Tokens beyond the output limit.
    pub beyond: u64,
}

impl Bounds {
    /// Output tokens of all answers, each limited to `limit`.
    pub fn all_output(&self, limit: u64) -> u64 {
        let each = limit.saturating_add(self.beyond);
        each.saturating_mul(self.choices)
    }

    /// The limit of each answer with which all of them have so many tokens.
    pub fn limit_for(&self, tokens: u64) -> u64 {
        (tokens / self.choices.max(1)).saturating_sub(self.beyond)
    }
}

/// Tokens that a prompt has at most: a token has a byte at least, but for media.
pub(super) fn input_at_most(body: &Segments, worst: &WorstCaseConfig) -> u64 {
    let media: usize = body.0.iter().map(|segment| media_in(segment)).sum();
    let media = (media as u64).saturating_mul(worst.media_tokens);
    (body.len() as u64).saturating_add(media)
}

/// Tokens that a prompt has at least. One with embedded media says nothing by its length.
pub(super) fn input_at_least(body: &Segments) -> u64 {
    let embedded = |segment: &[u8]| memmem::find(segment, b";base64,").is_some();
    match body.0.iter().any(|segment| embedded(segment)) {
        true => 1,
        false => (body.len() as u64 / BYTES_PER_TOKEN_MOST).max(1),
    }
}

/// Media in a piece of a request; some are counted twice, by their type and by their content.
pub(super) fn media_in(segment: &[u8]) -> usize {
    let count = |needle: &&[u8]| memmem::find_iter(segment, needle).count();
    MEDIA.iter().map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tokens::Counter;

    fn body(text: &str) -> Segments {
        Segments::from(bytes::Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn the_prompt_lies_between_its_bounds() {
        let worst = WorstCaseConfig::default();
        let counter = Counter::for_model("gpt-4o");
        for text in [
            "hello",
            "你好，今天天气怎么样？",
            "\u{1f600}\u{1f680}\u{1f4a9}",
            "a a a a a a a a a a a a a a a a",
            "0123456789 9876543210",
            "fn main() { println!(\"{}\", 1 + 2); }",
            "internationalization internationalization internationalization",
        ] {
            let json = serde_json::json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]});
            let json = json.to_string();
            let Ok(request) = crate::types::ChatRequest::parse(json.clone().into()) else {
                continue;
            };
            let counted = counter.request(&request).input_tokens;
            let body = body(&json);
            assert!(input_at_least(&body) <= counted, "{text}: {counted}");
            assert!(input_at_most(&body, &worst) >= counted, "{text}: {counted}");
        }
    }

    #[test]
    fn media_count_by_themselves() {
        let worst = WorstCaseConfig::default();
        let link = body(r#"{"type":"image_url","image_url":{"url":"https://a.example/b.png"}}"#);
        assert!(input_at_most(&link, &worst) >= worst.media_tokens);
        let embedded = format!(
            r#"{{"url":"data:image/png;base64,{}"}}"#,
            "A".repeat(99_999)
        );
        assert_eq!(input_at_least(&body(&embedded)), 1);
    }

    #[test]
    fn limits_and_their_sum_fit() {
        let bounds = Bounds {
            input: 0,
            output: 100,
            choices: 3,
            beyond: 10,
        };
        assert_eq!(bounds.all_output(100), 330);
        for tokens in [0, 29, 30, 33, 330, 1_000] {
            let limit = bounds.limit_for(tokens);
            assert!(limit == 0 || bounds.all_output(limit) <= tokens);
            assert!(bounds.all_output(limit + 1) > tokens);
        }
    }
}
