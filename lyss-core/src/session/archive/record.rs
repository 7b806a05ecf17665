//! What the archive is told.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    session::redis::StoredAt,
    spool::frame::MAX_RECORD,
    types::session::{Prefix, Session, SessionKey, Turn},
};

/// A change of a session that Redis has stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The process that tells it.
    pub owner: Uuid,
    user: String,
    id: String,
    pub what: What,
}

/// What has changed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum What {
    /// The engine has started.
    Started,
    /// A session was made.
    Created {
        created_ms: i64,
        metadata: Option<String>,
    },
    /// A session was used without a turn, which prolonged its life.
    Used { created_ms: i64, used_ms: i64 },
    /// A turn was appended.
    Turn(Box<ToldTurn>),
    /// A prefix was replaced.
    Compressed { created_ms: i64, prefix: ToldPrefix },
    /// The sessions made until a time were deleted.
    Deleted { at_ms: i64 },
}

/// A turn, and the session as it left it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ToldTurn {
    pub created_ms: i64,
    pub used_ms: i64,
    pub version: u64,
    pub request: String,
    pub after: Option<String>,
    pub message_count: u64,
    pub token_count: u64,
    pub history: String,
    pub system: Option<String>,
    /// How many messages are new.
    pub count: usize,
    /// The new messages and their tokens; `None` if they are too long for a record: they are then read in Redis.
    pub messages: Option<Vec<(String, u32)>>,
}

/// A prefix.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ToldPrefix {
    version: u64,
    upto: u64,
    covered_tokens: u64,
    summary: Option<String>,
    summary_tokens: u32,
}

impl Record {
    pub fn new(owner: Uuid, key: &SessionKey, what: What) -> Self {
        Self {
            owner,
            user: key.user_id.clone(),
            id: key.id.clone(),
            what,
        }
    }

    pub fn key(&self) -> SessionKey {
        SessionKey {
            user_id: self.user.clone(),
            id: self.id.clone(),
        }
    }

    /// At most [`MAX_RECORD`] bytes, if it can be made so; `None` if it cannot be written.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let bytes = serde_json::to_vec(self).ok()?;
        let What::Turn(turn) = &self.what else {
            return Some(bytes);
        };
        if bytes.len() <= MAX_RECORD {
            return Some(bytes);
        }
        let without = ToldTurn {
            messages: None,
            ..ToldTurn::clone(turn)
        };
        let what = What::Turn(Box::new(without));
        serde_json::to_vec(&Self::new(self.owner, &self.key(), what)).ok()
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// The record by which a process begins.
pub(super) fn start(owner: Uuid) -> Vec<u8> {
    let key = SessionKey {
        user_id: String::new(),
        id: String::new(),
    };
    Record::new(owner, &key, What::Started)
        .to_bytes()
        .unwrap_or_default()
}

impl What {
    pub fn created(session: &Session) -> Self {
        let metadata = session.metadata.as_ref();
        Self::Created {
            created_ms: session.created_ms,
            metadata: metadata.and_then(|metadata| serde_json::to_string(metadata).ok()),
        }
    }

    pub fn turn(turn: &Turn, stored: StoredAt) -> Self {
        let text = |(json, tokens): &(Bytes, u32)| Some((text_of(json)?, *tokens));
        Self::Turn(Box::new(ToldTurn {
            created_ms: stored.created_ms,
            used_ms: stored.used_ms,
            version: stored.version,
            request: turn.request_id.to_string(),
            after: stored.after,
            message_count: stored.message_count,
            token_count: stored.token_count,
            history: turn.history.clone(),
            system: turn.system.as_ref().and_then(text_of),
            count: turn.messages.len(),
            messages: turn.messages.iter().map(text).collect(),
        }))
    }

    pub fn compressed(created_ms: i64, prefix: &Prefix) -> Self {
        Self::Compressed {
            created_ms,
            prefix: ToldPrefix {
                version: prefix.version,
                upto: prefix.upto,
                covered_tokens: prefix.covered_tokens,
                summary: prefix.summary.as_ref().and_then(text_of),
                summary_tokens: prefix.summary_tokens,
            },
        }
    }
}

impl From<ToldPrefix> for Prefix {
    fn from(told: ToldPrefix) -> Self {
        Self {
            version: told.version,
            upto: told.upto,
            covered_tokens: told.covered_tokens,
            summary: told.summary.map(Bytes::from),
            summary_tokens: told.summary_tokens,
        }
    }
}

/// JSON is UTF-8; what is not is read in Redis.
fn text_of(json: &Bytes) -> Option<String> {
    std::str::from_utf8(json).ok().map(str::to_owned)
}
