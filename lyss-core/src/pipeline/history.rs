//! Recognises a client that sends the whole conversation again (the usual habit of those that keep it themselves),
//! without reading what is stored: a digest of the conversation is stored with each turn.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::types::{Message, RawObject};

/// What of a message counts: two messages that agree in it say the same, however they are written.
const FIELDS: [&str; 4] = ["content", "tool_calls", "tool_call_id", "name"];

/// A digest of a conversation, extended message by message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History(String);

impl History {
    /// Goes on from a stored digest; empty for a conversation that begins.
    pub fn stored(digest: &str) -> Self {
        Self(digest.to_owned())
    }

    /// The digest, for storing.
    pub fn into_stored(self) -> String {
        self.0
    }

    /// Takes a message in.
    pub fn push(&mut self, message: &Message) {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.0.as_bytes());
        part(message.role().as_bytes());
        for field in FIELDS {
            // Decoded, so that escapes, spaces and the order of members do not count.
            let value = message
                .0
                .get_some(field)
                .and_then(|value| value.decode::<serde_json::Value>().ok())
                .filter(|value| value != "");
            part(
                value
                    .map(|value| value.to_string())
                    .unwrap_or_default()
                    .as_bytes(),
            );
        }
        self.0 = URL_SAFE_NO_PAD.encode(hash.finalize());
    }

    /// Takes in a message that is stored; one that cannot be read counts by its bytes.
    pub fn push_json(&mut self, json: &bytes::Bytes) {
        let object = RawObject::parse(json.clone()).unwrap_or_else(|_| RawObject::empty());
        self.push(&Message(object));
    }
}

/// How many leading messages of a request are the whole stored conversation sent again. Only the entire history
/// followed by something new counts: a message that happens to equal an old one is a message.
pub(super) fn already_stored(stored: &str, count: u64, sent: &[Message]) -> usize {
    let Ok(count) = usize::try_from(count) else {
        return 0;
    };
    let Some(resent) = sent
        .get(..count)
        .filter(|_| count > 0 && sent.len() > count)
    else {
        return 0;
    };
    let mut history = History::stored("");
    for message in resent {
        history.push(message);
    }
    if history.0 == stored { count } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;

    fn message(json: &str) -> Message {
        Message(RawObject::parse(Bytes::copy_from_slice(json.as_bytes())).unwrap())
    }

    #[test]
    fn a_resent_history_is_recognised_however_it_is_written() {
        let mut history = History::stored("");
        for json in [
            r#"{"role":"user","content":"h\u00e9"}"#,
            r#"{"role":"assistant","content":"yes","refusal":null}"#,
        ] {
            history.push_json(&Bytes::copy_from_slice(json.as_bytes()));
        }
        let stored = history.into_stored();
        let resent = [
            message(r#"{"content": "hé", "role": "user"}"#),
            message(r#"{"role":"assistant","content":"yes"}"#),
            message(r#"{"role":"user","content":"more"}"#),
        ];
        assert_eq!(already_stored(&stored, 2, &resent), 2);
        let first = resent.get(..2).unwrap();
        assert_eq!(
            already_stored(&stored, 2, first),
            0,
            "nothing new: not a resend"
        );
        assert_eq!(already_stored(&stored, 2, resent.get(2..).unwrap()), 0);
        let other = [
            resent.first().unwrap().clone(),
            message(r#"{"role":"assistant","content":"no"}"#),
            resent.get(2).unwrap().clone(),
        ];
        assert_eq!(already_stored(&stored, 2, &other), 0);
        assert_eq!(already_stored("", 0, &resent), 0);
    }

    #[test]
    fn a_digest_depends_on_every_message_and_their_order() {
        let digest = |messages: &[&str]| {
            let mut history = History::stored("");
            for text in messages {
                history.push(&message(&format!(
                    r#"{{"role":"user","content":"{text}"}}"#
                )));
            }
            history.into_stored()
        };
        let all = [
            digest(&["a", "b"]),
            digest(&["b", "a"]),
            digest(&["ab"]),
            digest(&["a"]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(one.len() <= 64);
            assert!(all.iter().skip(at + 1).all(|other| other != one));
        }
    }
}
