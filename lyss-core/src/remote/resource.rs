//! Resources as the API writes them, where that is not their own form.

use bytes::Bytes;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    admission::{ApiKey, IssuedKey},
    types::{Session, StoredMessage, log::unix_ms, session::SessionStatus},
};

/// A listing.
#[derive(Deserialize)]
pub(super) struct List<T> {
    pub(super) data: Vec<T>,
    #[serde(default)]
    pub(super) next_cursor: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WireSession {
    id: String,
    user_id: String,
    message_count: u64,
    token_count: u64,
    #[serde(default)]
    compressed_count: u64,
    created_at: String,
    last_activity: String,
    status: SessionStatus,
    #[serde(default)]
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl From<WireSession> for Session {
    fn from(wire: WireSession) -> Self {
        let time = |text: &str| unix_ms(text).unwrap_or(0);
        Self {
            created_ms: time(&wire.created_at),
            last_activity_ms: time(&wire.last_activity),
            id: wire.id,
            user_id: wire.user_id,
            message_count: wire.message_count,
            token_count: wire.token_count,
            compressed_count: wire.compressed_count,
            status: wire.status,
            metadata: wire.metadata,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WireMessage {
    seq: u64,
    turn: u64,
    tokens: u32,
    message: Box<RawValue>,
}

impl From<WireMessage> for StoredMessage {
    fn from(wire: WireMessage) -> Self {
        Self {
            seq: wire.seq,
            turn: wire.turn,
            tokens: wire.tokens,
            json: Bytes::from(Box::<str>::from(wire.message).into_boxed_bytes()),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WireIssuedKey {
    key: SecretString,
    #[serde(flatten)]
    shown: ApiKey,
}

impl From<WireIssuedKey> for IssuedKey {
    fn from(wire: WireIssuedKey) -> Self {
        Self {
            secret: wire.key,
            key: wire.shown,
        }
    }
}
