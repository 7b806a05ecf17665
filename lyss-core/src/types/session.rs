//! A stored conversation.

use std::{sync::Arc, time::Duration};

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

/// What of a stored conversation a model was sent, where it was not all of it word for word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextUse {
    /// A summary stands for the older messages.
    Compressed,
    /// Older messages were left out.
    Truncated,
}

impl ContextUse {
    /// The word in the header `x-lyss-context`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compressed => "compressed",
            Self::Truncated => "truncated",
        }
    }
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
    /// How many of the messages, from the first, are no longer sent one by one ([`Prefix`]).
    pub compressed_count: u64,
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

/// The older part of a conversation, which is not sent message by message any more. Its messages stay stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefix {
    /// 0 before the first compression, one more with each. The fence of a compression; an append ignores it.
    pub version: u64,
    /// The last message it covers.
    pub upto: u64,
    /// Tokens of the messages it covers, as counted when they were stored.
    pub covered_tokens: u64,
    /// What stands for them, as text; `None` if they are left out.
    pub summary: Option<Bytes>,
    /// Tokens of the summary.
    pub summary_tokens: u32,
}

impl Prefix {
    /// Tokens of what stands for its messages.
    pub fn tokens(&self) -> u64 {
        match &self.summary {
            Some(_) => u64::from(self.summary_tokens),
            None => 0,
        }
    }
}

/// A session as a turn needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedSession {
    /// The session.
    pub session: Session,
    /// The version to append to.
    pub version: Version,
    /// The digest that the last turn left ([`Turn::history`]); empty before the first.
    pub history: String,
    /// The system prompt: the JSON text of an array of `system`/`developer` messages.
    pub system: Option<Bytes>,
    /// What stands before the messages.
    pub prefix: Prefix,
    /// The messages after the prefix, in order.
    pub messages: Vec<StoredMessage>,
}

/// What one turn adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The request that made it: appending the same turn again changes nothing.
    pub request_id: RequestId,
    /// The system prompt to keep from now on; `None` leaves the stored one.
    pub system: Option<Bytes>,
    /// A digest of the whole conversation up to and with this turn, at most 64 characters, opaque to the store: by it
    /// a client that sends everything again is recognised without reading the history.
    pub history: String,
    /// The new messages and the reply, in order: JSON text and tokens.
    pub messages: Vec<(Bytes, u32)>,
}

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored; the session is now at this version.
    At(Version),
    /// The session was deleted while the turn held it: nothing is stored, and the session stays deleted.
    Deleted,
}

/// A place in the queue for a session's next turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The request that asks.
    pub request_id: RequestId,
    /// The engine that asks; it has a life of its own, and what waits for it dies with it.
    pub instance: Arc<str>,
    /// Whether no other ticket of this instance is before this one. Of several that wait here only the first asks
    /// again and again, so whatever the store has of this instance before it is a leftover.
    pub first: bool,
    /// Whether to wait when it is another's turn.
    pub wait: bool,
    /// How long the turn may be held without a sign of life.
    pub lease: Duration,
    /// Most tickets that wait.
    pub queue_max: u32,
}

/// The answer to a [`Ticket`].
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// The turn may begin: with the session as it is, or `None` if there is none yet.
    Granted(Option<Box<LoadedSession>>),
    /// Others are first; ask again.
    Waiting,
    /// Another turn holds the session and this ticket does not wait, or too many do.
    Busy,
}

/// A page of a session's messages.
#[derive(Debug, Clone, PartialEq)]
pub struct MessagePage {
    /// The session.
    pub session: Session,
    /// The messages, oldest first.
    pub messages: Vec<StoredMessage>,
}

/// One page of a listing, newest activity first.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionPage {
    /// The sessions.
    pub sessions: Vec<Session>,
    /// Where the next page starts; `None` on the last.
    pub next_cursor: Option<String>,
}
