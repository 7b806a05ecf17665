//! Keeps the message list within the window. Nothing is summarised yet: the list is what stands for the older part of
//! the conversation, the stored messages after it, and the new ones. Counting and summarising come here.

use bytes::Bytes;

use super::assemble::{Turning, leading_system};
use crate::{
    error::Result,
    types::{ChatRequest, Message},
};

/// The request as it goes upstream.
///
/// `memories`: the message with what is remembered of the user. It follows what stays the same between turns.
pub(crate) fn compress(
    turn: &mut Turning,
    mut request: ChatRequest,
    memories: Option<Bytes>,
) -> Result<ChatRequest> {
    if let Some(conversation) = turn.conversation() {
        let stored = conversation.stored.iter().map(|message| &message.json);
        let messages: Vec<_> = conversation
            .prompt
            .iter()
            .cloned()
            .chain(conversation.prefix.summary.as_ref().map(summary_message))
            .chain(memories)
            .chain(stored.cloned())
            .chain(conversation.new.iter().cloned())
            .collect();
        request.set_messages(messages);
    } else if let Some(memories) = memories {
        let messages = request.messages()?;
        let (system, rest) = messages.split_at(leading_system(&messages));
        let json = |message: &Message| message.0.to_bytes();
        let messages: Vec<_> = system
            .iter()
            .map(json)
            .chain([memories])
            .chain(rest.iter().map(json))
            .collect();
        request.set_messages(messages);
    }
    Ok(request)
}

/// The summary as the model reads it: at user trust, since it is made of what users wrote.
fn summary_message(summary: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(summary);
    let content = format!("<conversation_summary>\n{text}\n</conversation_summary>");
    serde_json::json!({"role": "user", "content": content})
        .to_string()
        .into()
}
