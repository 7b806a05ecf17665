//! What is remembered of a user beyond a session: found before a call, added to after it.
//!
//! ```text
//! recall  what the pipeline uses: searches under a deadline, checks whose memories came back, hands turns on
//! block   memories as the message that the model reads
//! queue   turns on their way into the memory, through the outbox
//! mem0    the mem0 service, hosted or self-hosted
//! builtin the gateway's own: texts and embeddings in the database
//! ```
//!
//! A memory that is slow, away or wrong never fails a call: the call goes on without it, and says so.

mod block;
mod builtin;
mod mem0;
mod queue;
mod recall;
#[cfg(all(test, feature = "sqlite"))]
mod tests;

pub(crate) use builtin::{BuiltinMemory, Embedder};
pub(crate) use mem0::Mem0;
pub(crate) use queue::{Handover, TOPIC};
pub(crate) use recall::{Memories, MemorySettings};

use std::borrow::Cow;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A store of what is worth remembering of users.
///
/// # Errors
/// An error of a search only means that the call goes on without memories. Of an addition it says what becomes of the
/// turn: one about the turn itself (`invalid_value`, or any other that is the caller's) sets it aside, `internal` and
/// `upstream_invalid_response` do after some tries, and everything else counts as "away": it is tried again for as long
/// as that lasts.
#[async_trait]
pub trait Memory: Send + Sync + 'static {
    /// The memories of a user that matter for a text, best first, at most `limit`. Dropped at the deadline.
    async fn search(&self, user_id: &str, query: &str, limit: usize) -> Result<Vec<Memorized>>;

    /// Takes a turn in. It may come twice, with the same request id.
    async fn add(&self, turn: &SpokenTurn) -> Result<()>;

    /// Forgets what came from one session of a user; nothing there is no error.
    async fn forget(&self, user_id: &str, session_id: &str) -> Result<()>;
}

/// One memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Memorized {
    /// Its text, as the memory has it. It may hold anything: it is shown to the model as data, escaped and bounded.
    pub text: String,
    /// Whose it is, as the memory itself says. One that is not the user's who asked is dropped, and counted as an alarm.
    pub user_id: Option<String>,
    /// How well it fits, from 0 to 1, if that is known.
    pub score: Option<f64>,
}

/// What was said in one successful turn: texts only, bounded; no tool calls, no tool results, no system prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpokenTurn {
    /// The request's id. The same turn always has the same one.
    pub request_id: String,
    /// Whose turn it is.
    pub user_id: String,
    /// The session, if it was in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The new messages of the user and the reply, in order.
    pub messages: Vec<Spoken>,
}

/// One message of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spoken {
    /// `user` or `assistant`.
    pub role: Cow<'static, str>,
    /// The text.
    pub content: String,
}

/// The beginning of a text, of at most so many characters.
fn beginning(text: &str, chars: usize) -> &str {
    text.char_indices()
        .nth(chars)
        .and_then(|(end, _)| text.get(..end))
        .unwrap_or(text)
}
