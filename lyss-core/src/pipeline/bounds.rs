//! What a call can use, told from its bytes before it is sent: what is reserved for it, and what is known of it if
//! nothing else ever is.

use memchr::memmem;

use crate::{
    config::WorstCaseConfig,
    types::{ChatRequest, RawValue, Segments},
};

/// Bytes of a prompt for which it has a token at least. Natural language has one for some four, the JSON around it
/// included; eight leaves room for long words and repetitions that a tokenizer knows.
const BYTES_PER_TOKEN_MOST: u64 = 8;

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

/// Tokens that a prompt has at most: a token has a byte at least, but for what is no text.
pub(super) fn input_at_most(body: &Segments, media: u64, worst: &WorstCaseConfig) -> u64 {
    let media = media.saturating_mul(worst.media_tokens);
    (body.len() as u64).saturating_add(media)
}

/// Tokens that a prompt has at least, by its messages or inputs as JSON. Escapes and embedded media say nothing by their
/// length.
pub(super) fn input_at_least(prompt: Option<RawValue<'_>>) -> u64 {
    let Some(prompt) = prompt else { return 1 };
    let text = prompt.text().as_bytes();
    let long: [&[u8]; 3] = [br"\u", b";base64,", b"\"input_audio\""];
    match long
        .iter()
        .any(|needle| memmem::find(text, needle).is_some())
    {
        true => 1,
        false => (text.len() as u64 / BYTES_PER_TOKEN_MOST).max(1),
    }
}

/// Parts of a request's messages that are no text, each a picture, a sound, a file; of a video, each of its pictures.
pub(super) fn media_in(request: &ChatRequest) -> u64 {
    let messages = request.body().get("messages");
    let messages = messages.map(|messages| messages.elements());
    messages
        .unwrap_or_default()
        .iter()
        .filter_map(|message| message.object().ok())
        .filter_map(|message| {
            let content = message.get("content")?;
            let parts = content.is_array().then(|| content.elements())?;
            Some(parts.iter().map(media_of_part).sum::<u64>())
        })
        .sum()
}

fn media_of_part(part: &RawValue<'_>) -> u64 {
    let Ok(part) = part.object() else {
        return u64::from(part.is_object());
    };
    let members = part.members().map(|(name, value)| match &*name {
        "type" | "text" | "refusal" | "cache_control" => 0,
        _ if value.is_array() => value.elements().len() as u64,
        _ => 1,
    });
    members.sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
            let request = ChatRequest::parse(json.clone().into()).unwrap();
            let counted = counter.request(&request).input_tokens;
            let least = input_at_least(request.body().get("messages"));
            assert!(least <= counted, "{text}: {counted}");
            assert!(
                input_at_most(&body(&json), 0, &worst) >= counted,
                "{text}: {counted}"
            );
        }
    }

    #[test]
    fn what_is_no_text_counts_by_itself() {
        let media = |parts: &str| {
            let json =
                format!(r#"{{"model":"m","messages":[{{"role":"user","content":{parts}}}]}}"#);
            media_in(&ChatRequest::parse(json.into()).unwrap())
        };
        for (parts, wanted) in [
            (r#""plain, and \"image_url\" in it""#, 0),
            (r#"[{"type":"text","text":"image_url"}]"#, 0),
            (r#"[{"text":"native"}]"#, 0),
            (
                r#"[{"type":"image_url","image_url":{"url":"https://a.example/b.png"}}]"#,
                1,
            ),
            (
                r#"[{"type":"image\u005furl","image\u005furl":{"url":"x"}},{"type":"text","text":"a"}]"#,
                1,
            ),
            (
                r#"[{"type":"input_audio","input_audio":{"data":"AAAA"}}]"#,
                1,
            ),
            (r#"[{"type":"video","video":["a","b","c"]}]"#, 3),
            (r#"[{"image":"https://a.example/b.png"},{"audio":"x"}]"#, 2),
        ] {
            assert_eq!(media(parts), wanted, "{parts}");
        }
        let escaped = r#"{"model":"m","messages":[{"role":"user","content":"\u0434\u0430"}]}"#;
        let request = ChatRequest::parse(escaped.into()).unwrap();
        assert_eq!(input_at_least(request.body().get("messages")), 1);
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
