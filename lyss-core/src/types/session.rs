//! A stored conversation.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::call::RequestId;

/// What a session is found by: its id belongs to its user, so another user's session cannot be named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// The owner.
    pub user_id: String,
    /// The id, unique within the owner.
    pub id: String,
}

/// The sequence of turns of a session: 0 before the first, one more with each. The fence of an append.
pub type Version = u64;

/// The state of a session that the API shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    /// Ready for a turn.
    Active,
    /// Older turns are being summarised.
    Compressing,
}

/// What is known of a session without its messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The id.
    pub id: String,
    /// The owner.
    pub user_id: String,
    /// Messages stored, the system prompt not counted.
    pub message_count: u64,
    /// Tokens of these messages, as counted when they were stored.
    pub token_count: u64,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it was last used, in milliseconds since the Unix epoch.
    pub last_activity_ms: i64,
    /// Its state.
    pub status: SessionStatus,
    /// The caller's own JSON object, at most 16 KiB.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

/// One message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Position in the session, from 1.
    pub seq: u64,
    /// The turn that stored it.
    pub turn: Version,
    /// The message object as it came, byte for byte.
    pub json: Bytes,
    /// Its tokens, as counted when it was stored.
    pub tokens: u32,
}

/// A session as a turn needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedSession {
    /// The session.
    pub session: Session,
    /// The version to append to.
    pub version: Version,
    /// The system prompt: the JSON text of an array of `system`/`developer` messages.
    pub system: Option<Bytes>,
    /// The messages, in order.
    pub messages: Vec<StoredMessage>,
}

/// What one turn adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The request that made it: appending the same turn again changes nothing.
    pub request_id: RequestId,
    /// The system prompt to keep from now on; `None` leaves the stored one.
    pub system: Option<Bytes>,
    /// The new messages and the reply, in order: JSON text and tokens.
    pub messages: Vec<(Bytes, u32)>,
}

/// One page of a listing, newest activity first.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionPage {
    /// The sessions.
    pub sessions: Vec<Session>,
    /// Where the next page starts; `None` on the last.
    pub next_cursor: Option<String>,
}
