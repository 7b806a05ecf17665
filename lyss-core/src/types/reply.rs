//! What comes back: answers and streams, with what the gateway adds to them.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;

use super::{call::RequestId, delivered::Piece, raw::RawObject, session::ContextUse, usage::Usage};
use crate::{error::Result, resilience::stream_buffer::StreamBuffer};

/// What the gateway says about an answer (the `x-lyss-*` headers).
#[derive(Debug, Clone)]
pub struct ReplyInfo {
    /// The gateway's id of the request.
    pub request_id: RequestId,
    /// The provider that answered.
    pub provider: Arc<str>,
    /// The model name that went upstream.
    pub upstream_model: Arc<str>,
    /// The session the turn was stored in.
    pub session_id: Option<Arc<str>>,
    /// What of the session's conversation was sent; `None`: all of it, or there is none.
    pub context: Option<ContextUse>,
    /// Number of attempts, the successful one included.
    pub attempts: u32,
    /// Whether the memory was asked and did not answer, so that the call went on without.
    pub memory_unavailable: bool,
    /// The output limit that a budget left, where that is less than what was asked for, or than what the model gives.
    pub max_tokens_clamped: Option<u64>,
    /// The provider's own request id.
    pub upstream_request_id: Option<String>,
    /// The request that did the work, where this answer is kept from it (`Idempotency-Key`).
    pub replay_of: Option<RequestId>,
}

/// A complete chat answer.
#[derive(Debug, Clone)]
pub struct ChatResponse {
    /// What the gateway says about it.
    pub info: ReplyInfo,
    /// OpenAI's `chat.completion` object, as the provider sent it.
    pub body: RawObject,
    /// The tokens used, as reported or counted.
    pub usage: Usage,
}

/// A complete embeddings answer.
#[derive(Debug, Clone)]
pub struct EmbeddingResponse {
    /// What the gateway says about it.
    pub info: ReplyInfo,
    /// OpenAI's embeddings list.
    pub body: RawObject,
    /// The tokens used, as reported or counted.
    pub usage: Usage,
}

/// One event of a chat stream.
#[derive(Debug, Clone)]
pub struct ChatChunk {
    /// The event as it goes on the wire: `data: `, one line of JSON, an empty line.
    frame: Bytes,
    /// The usage that the chunk reports.
    pub usage: Option<Usage>,
    /// Whether a choice carries a `finish_reason`.
    pub finish: bool,
    /// Whether the chunk has no choices (the usage chunk of `include_usage`).
    pub without_choices: bool,
    /// What the chunk delivers, for counting when the provider reports no usage.
    pub delivered: Vec<Piece>,
}

const PREFIX: &[u8] = b"data: ";

impl ChatChunk {
    /// A chunk from its JSON text (one line).
    pub fn from_json(json: &[u8]) -> Self {
        let mut frame = Vec::with_capacity(json.len() + 8);
        frame.extend_from_slice(PREFIX);
        frame.extend_from_slice(json);
        frame.extend_from_slice(b"\n\n");
        Self::plain(frame.into())
    }

    /// A chunk from an event that already has the canonical form `data: {…}\n\n`, shared with the received bytes;
    /// `None` if it has another form.
    pub fn from_frame(frame: Bytes) -> Option<Self> {
        let canonical = frame.starts_with(PREFIX)
            && frame.ends_with(b"\n\n")
            && memchr::memchr2(b'\n', b'\r', &frame) == Some(frame.len() - 2);
        canonical.then(|| Self::plain(frame))
    }

    fn plain(frame: Bytes) -> Self {
        Self {
            frame,
            usage: None,
            finish: false,
            without_choices: false,
            delivered: Vec::new(),
        }
    }

    /// Counts the event as held until its bytes are written or dropped.
    ///
    /// # Errors
    /// `overloaded` if there is no room for it.
    pub(crate) fn held_in(mut self, buffer: &StreamBuffer) -> Result<Self> {
        self.frame = buffer.hold(self.frame)?;
        Ok(self)
    }

    /// The event as it goes on the wire.
    pub fn frame(&self) -> Bytes {
        self.frame.clone()
    }

    /// The JSON text of the event.
    pub fn json(&self) -> Bytes {
        self.frame.slice(PREFIX.len()..self.frame.len() - 2)
    }
}

/// A boxed stream of chunks. It ends after the last chunk of a complete answer; an incomplete one ends with an error.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<ChatChunk>> + Send>>;

/// A chat answer that is still coming. Dropping it cancels the upstream call.
pub struct ChatStream {
    /// What the gateway says about it.
    pub info: ReplyInfo,
    /// The chunks.
    pub chunks: ChunkStream,
}

impl Stream for ChatStream {
    type Item = Result<ChatChunk>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_frame_is_shared_only_when_canonical() {
        let frame = Bytes::from_static(b"data: {\"a\":1}\n\n");
        assert_eq!(
            ChatChunk::from_frame(frame.clone()).unwrap().json(),
            "{\"a\":1}"
        );
        assert_eq!(ChatChunk::from_json(b"{\"a\":1}").frame(), frame);
        for other in [
            "data:{}\n\n",
            "data: {}\r\n\r\n",
            "id: 1\ndata: {}\n\n",
            "data: {\ndata: }\n\n",
            "data: {}",
        ] {
            assert!(ChatChunk::from_frame(other.into()).is_none(), "{other:?}");
        }
    }
}
