//! Keeps the message list within the window. Nothing is summarised yet: the list is the stored conversation and the
//! new messages, in full. Counting and summarising come here.

use super::assemble::Turning;
use crate::{error::Result, types::ChatRequest};

/// The request as it goes upstream.
pub(crate) fn compress(turn: &mut Turning, mut request: ChatRequest) -> Result<ChatRequest> {
    if let Some(messages) = turn.take_messages() {
        request.set_messages(messages);
    }
    Ok(request)
}
