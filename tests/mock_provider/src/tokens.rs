//! The provider's own count of tokens, simple enough to be done by hand.
//!
//! - Prompt: 3 for every message, plus one for every word (split at white space)
//!   of its text, plus 85 for every image.
//! - Completion: every streamed piece of text or reasoning counts its words, at
//!   least 1; a tool call counts 1 for its name and the words of its arguments, at least 1.
//!   An answer that is not streamed counts the same pieces.
//! - Embeddings: the words of each text, at least 1; a token array its length.

use serde_json::Value;

/// Words of a text.
pub(crate) fn words(text: &str) -> i64 {
    i64::try_from(text.split_whitespace().count()).unwrap_or(i64::MAX)
}

/// Tokens of one generated piece.
pub(crate) fn of_piece(text: &str) -> i64 {
    words(text).max(1)
}

/// Text and number of images of a message's content, in either protocol.
pub(crate) fn content_text(content: &Value) -> (String, i64) {
    let mut text = String::new();
    let mut images = 0;
    match content {
        Value::String(plain) => text.push_str(plain),
        Value::Array(parts) => {
            for part in parts {
                if let Some(piece) = part.get("text").and_then(Value::as_str) {
                    if !text.is_empty() {
                        text.push(' ');
                    }
                    text.push_str(piece);
                }
                if part.get("image_url").is_some() || part.get("image").is_some() {
                    images += 1;
                }
            }
        }
        _ => {}
    }
    (text, images)
}

/// Tokens of a list of messages. `reasoning_content` sent back counts too: it is billed.
pub(crate) fn of_messages(messages: &[Value]) -> i64 {
    messages
        .iter()
        .map(|message| {
            let (text, images) = content_text(message.get("content").unwrap_or(&Value::Null));
            let reasoning = message
                .get("reasoning_content")
                .and_then(Value::as_str)
                .unwrap_or("");
            3 + words(&text) + words(reasoning) + 85 * images
        })
        .sum()
}
