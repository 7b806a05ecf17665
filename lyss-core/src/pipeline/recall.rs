//! Finds what is remembered of the user before a call, and hands the turn on to the memory after it.

use std::sync::Arc;

use bytes::Bytes;

use super::{assemble::Turning, finish::Record, turn::Reply};
use crate::{
    engine::Inner,
    error::Result,
    memory::{Memories, Spoken, SpokenTurn},
    types::{ChatRequest, Message, Principal, RawObject, RequestId},
};

/// Messages of a turn that are handed on, the newest; and characters of each.
const MESSAGES: usize = 16;
const MESSAGE_CHARS: usize = 8_000;

/// A call with memories; nothing for one that has none.
pub(crate) struct Remembering(Option<Spoke>);

struct Spoke {
    memories: Arc<Memories>,
    user_id: String,
    session_id: Option<String>,
    messages: Vec<Spoken>,
    block: Option<Bytes>,
}

/// Searches the memory, if there is one, the call may have memories, and its user says something. Never fails the call.
///
/// # Errors
/// Those of reading the messages.
pub(crate) async fn recall(
    inner: &Inner,
    principal: &Principal,
    turn: &Turning,
    request: &ChatRequest,
    record: &mut Record,
) -> Result<Remembering> {
    let Some(memories) = inner.memories() else {
        return Ok(Remembering(None));
    };
    if !turn.in_session() && !memories.settings().stateless {
        return Ok(Remembering(None));
    }
    let messages = match turn.new_messages() {
        Some(new) => spoken(new.iter().filter_map(message)),
        None => {
            // A stateless client sends the whole conversation: what follows the last reply is new.
            let messages = request.messages()?;
            let new = messages.iter().rev();
            let mut new: Vec<Message> = new
                .take_while(|message| message.role() != "assistant")
                .cloned()
                .collect();
            new.reverse();
            spoken(new.into_iter())
        }
    };
    let Some(query) = messages.last() else {
        return Ok(Remembering(None));
    };
    let user_id = principal.user()?.to_string();
    let recalled = memories
        .recall(&inner.metrics, &user_id, &query.content)
        .await;
    record.recalled(recalled.note);
    Ok(Remembering(Some(Spoke {
        user_id,
        session_id: turn.session_id().map(str::to_owned),
        messages,
        block: recalled.block,
        memories,
    })))
}

fn message(json: &Bytes) -> Option<Message> {
    RawObject::parse(json.clone()).ok().map(Message)
}

/// What users said in these messages.
fn spoken(messages: impl Iterator<Item = Message>) -> Vec<Spoken> {
    let mut spoken: Vec<Spoken> = messages
        .filter(|message| message.role() == "user")
        .filter_map(|message| said("user", &message))
        .collect();
    spoken.drain(..spoken.len().saturating_sub(MESSAGES));
    spoken
}

fn said(role: &'static str, message: &Message) -> Option<Spoken> {
    let text = message.text();
    let text = text.trim();
    (!text.is_empty()).then(|| Spoken {
        role: role.into(),
        content: text.chars().take(MESSAGE_CHARS).collect(),
    })
}

impl Remembering {
    /// The message with the memories; taken once.
    pub fn take_block(&mut self) -> Option<Bytes> {
        self.0.as_mut().and_then(|spoke| spoke.block.take())
    }

    /// Whether the turn is to be remembered, so that its reply is needed.
    pub fn wants_reply(&self) -> bool {
        self.0.is_some()
    }

    /// Hands the turn on with the reply of a complete answer.
    pub fn remember_answer(&self, request_id: RequestId, answer: &RawObject) {
        if self.wants_reply()
            && let Ok(reply) = Reply::of_answer(answer)
        {
            self.remember(request_id, &reply);
        }
    }

    /// Hands the turn on; it survives the process from here on.
    pub fn remember(&self, request_id: RequestId, reply: &Bytes) {
        let Some(spoke) = &self.0 else {
            return;
        };
        let reply = message(reply).and_then(|message| said("assistant", &message));
        spoke.memories.remember(&SpokenTurn {
            request_id: request_id.to_string(),
            user_id: spoke.user_id.clone(),
            session_id: spoke.session_id.clone(),
            messages: spoke.messages.iter().cloned().chain(reply).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(json: &str) -> Message {
        message(&Bytes::copy_from_slice(json.as_bytes())).unwrap()
    }

    #[test]
    fn only_what_users_say_is_spoken() {
        let messages = [
            r#"{"role":"system","content":"secret orders"}"#,
            r#"{"role":"user","content":"  I live in Oslo "}"#,
            r#"{"role":"assistant","content":null,"tool_calls":[]}"#,
            r#"{"role":"tool","tool_call_id":"c","content":"42"}"#,
            r#"{"role":"user","content":[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"data:"}}]}"#,
            r#"{"role":"user","content":""}"#,
        ];
        let spoken = spoken(messages.iter().map(|json| of(json)));
        let texts: Vec<&str> = spoken.iter().map(|said| said.content.as_str()).collect();
        assert_eq!(texts, ["I live in Oslo", "look"]);
    }

    #[test]
    fn a_turn_is_bounded() {
        let long = format!(r#"{{"role":"user","content":"{}"}}"#, "é".repeat(10_000));
        let spoken = spoken((0..40).map(|_| of(&long)));
        assert_eq!(spoken.len(), MESSAGES);
        let chars = |said: &Spoken| said.content.chars().count();
        assert!(spoken.iter().all(|said| chars(said) == MESSAGE_CHARS));
    }
}
