//! Turns on their way into the memory: records of the outbox, and what takes them out of it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{SpokenTurn, recall::switched_off};
use crate::{
    engine::Inner,
    error::{Error, ErrorKind, Origin},
    seal::SealedMemories,
    spool::{Consumer, Failure},
    types::{RequestId, SessionKey},
};

/// The outbox's topic.
pub(crate) const TOPIC: &str = "memory";
/// How long an addition may take: a self-hosted mem0 asks a model.
const ADD_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Record<'a> {
    Turn(&'a SpokenTurn),
    Forget {
        user_id: &'a str,
        session_id: &'a str,
    },
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Read {
    Turn(SpokenTurn),
    Forget { user_id: String, session_id: String },
}

pub(super) fn turn(turn: &SpokenTurn) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Record::Turn(turn))
}

pub(super) fn forget(user_id: &str, session_id: &str) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Record::Forget {
        user_id,
        session_id,
    })
}

/// Hands turns to the memory in use.
pub(crate) struct Handover {
    pub inner: Weak<Inner>,
    /// Whether sessions outlive the process, so that one that is missing was deleted.
    pub durable_sessions: bool,
    /// Opens what waited sealed.
    pub seal: SealedMemories,
}

#[async_trait]
impl Consumer for Handover {
    /// What belongs to one session stays in order: a session that is forgotten stays forgotten.
    fn lane(&self, record: &[u8]) -> u64 {
        let mut hash = DefaultHasher::new();
        match serde_json::from_slice(record) {
            Ok(Read::Turn(turn)) => (turn.user_id, turn.session_id).hash(&mut hash),
            Ok(Read::Forget {
                user_id,
                session_id,
            }) => (user_id, Some(session_id)).hash(&mut hash),
            Err(_) => {}
        }
        hash.finish()
    }

    async fn handle(&self, record: &[u8]) -> Result<(), Failure> {
        let mut record = serde_json::from_slice(record)
            .map_err(|error| Failure::Refused(format!("it cannot be read: {error}")))?;
        if let Read::Turn(turn) = &mut record {
            let opened = self.seal.open_turn(turn);
            opened.map_err(|why| Failure::Refused(format!("it cannot be read: {why}")))?;
        }
        let Some(inner) = self.inner.upgrade() else {
            // The engine is going down.
            return std::future::pending().await;
        };
        let Some(memories) = inner.memories() else {
            return Err(failure(switched_off()));
        };
        let memory = memories.memory();
        let (work, outcome) = match &record {
            Read::Turn(turn) => {
                if self.was_deleted(&inner, turn).await? {
                    inner.metrics.memory_added("withdrawn");
                    return Ok(());
                }
                (memory.add(turn), "added")
            }
            Read::Forget {
                user_id,
                session_id,
            } => (memory.forget(user_id, session_id), "forgotten"),
        };
        let done = tokio::time::timeout(ADD_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::UpstreamTimeout,
                    "the memory did not answer in time",
                ))
            });
        let counted = done.as_ref().map_or("failed", |()| outcome);
        inner.metrics.memory_added(counted);
        done.map_err(failure)
    }
}

impl Handover {
    /// Whether a turn's session was deleted meanwhile, here or by another instance: it should be there still and is
    /// not. One whose time may be over tells nothing; then the turn is handed on.
    async fn was_deleted(&self, inner: &Arc<Inner>, turn: &SpokenTurn) -> Result<bool, Failure> {
        let (Some(session_id), Some(request_id)) =
            (&turn.session_id, RequestId::parse(&turn.request_id))
        else {
            return Ok(false);
        };
        if !self.durable_sessions {
            return Ok(false);
        }
        let ttl = inner.settings().config.session.ttl;
        let began = Duration::from_millis(u64::try_from(request_id.unix_ms()).unwrap_or(0));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        if now >= began + ttl {
            return Ok(false);
        }
        let key = SessionKey {
            user_id: turn.user_id.clone(),
            id: session_id.clone(),
        };
        let session = inner.sessions.get(&key).await.map_err(failure)?;
        Ok(session.is_none())
    }
}

/// What an error means for a record; see [`Memory`](super::Memory).
fn failure(error: Error) -> Failure {
    let reason = format!("{}: {}", error.code(), error.message());
    match error.kind() {
        ErrorKind::Internal | ErrorKind::UpstreamInvalidResponse => Failure::Failed(reason),
        // A limit ends, and a model that is missing will be configured.
        ErrorKind::RateLimited | ErrorKind::ModelNotFound => Failure::Away {
            reason,
            after: error.retry_after(),
        },
        kind if kind.origin() == Origin::Caller => Failure::Refused(reason),
        _ => Failure::Away {
            reason,
            after: error.retry_after(),
        },
    }
}
