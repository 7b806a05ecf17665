//! Keeps the message list within the window. Nothing is summarised yet: the list is what stands for the older part of
//! the conversation, the stored messages after it, and the new ones. Counting and summarising come here.

use bytes::Bytes;

use super::assemble::Turning;
use crate::{error::Result, types::ChatRequest};

/// The request as it goes upstream.
pub(crate) fn compress(turn: &mut Turning, mut request: ChatRequest) -> Result<ChatRequest> {
    if let Some(conversation) = turn.conversation() {
        let stored = conversation.stored.iter().map(|message| &message.json);
        let messages: Vec<_> = conversation
            .prompt
            .iter()
            .cloned()
            .chain(conversation.prefix.summary.as_ref().map(summary_message))
            .chain(stored.cloned())
            .chain(conversation.new.iter().cloned())
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
