//! Writes into the archive what it is told.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    pending::Pending,
    record::{Record, ToldTurn, What},
};
use crate::{
    error::{Error, ErrorKind, Result},
    session::{
        DatabaseSessionStore, RedisSessionStore, SessionStore,
        database::{Kept, StoredTurn},
    },
    spool::{Consumer, Failure},
    types::session::SessionKey,
};

/// Hands records to the database.
pub(super) struct Archivist {
    live: Arc<RedisSessionStore>,
    archive: Arc<DatabaseSessionStore>,
    pending: Arc<Pending>,
}

impl Archivist {
    pub fn new(
        live: Arc<RedisSessionStore>,
        archive: Arc<DatabaseSessionStore>,
        pending: Arc<Pending>,
    ) -> Self {
        Self {
            live,
            archive,
            pending,
        }
    }

    async fn keep(&self, key: &SessionKey, what: What) -> Result<Kept> {
        match what {
            What::Started => Ok(Kept::Yes),
            What::Created {
                created_ms,
                metadata,
            } => {
                let times = (created_ms, created_ms);
                let metadata = metadata.as_deref();
                self.archive.keep_session(key, times, metadata).await
            }
            What::Used {
                created_ms,
                used_ms,
            } => self.archive.keep_use(key, created_ms, used_ms).await,
            What::Turn(turn) => self.keep_turn(key, *turn).await,
            What::Compressed { created_ms, prefix } => {
                let prefix = prefix.into();
                self.archive.keep_prefix(key, created_ms, &prefix).await
            }
            What::Deleted { at_ms } => {
                self.archive.keep_deletion(key, at_ms).await?;
                Ok(Kept::Yes)
            }
        }
    }

    async fn keep_turn(&self, key: &SessionKey, mut turn: ToldTurn) -> Result<Kept> {
        let messages = match turn.messages.take() {
            Some(messages) => messages
                .into_iter()
                .map(|(json, tokens)| (Bytes::from(json), tokens))
                .collect(),
            None => match self.read_in_redis(key, &turn).await? {
                Some(messages) => messages,
                None => return Ok(Kept::Obsolete),
            },
        };
        let told = StoredTurn {
            created_ms: turn.created_ms,
            used_ms: turn.used_ms,
            version: turn.version,
            request: &turn.request,
            after: turn.after.as_deref(),
            message_count: turn.message_count,
            token_count: turn.token_count,
            history: &turn.history,
            system: turn.system.as_deref().map(str::as_bytes),
            messages: &messages,
        };
        match self.archive.keep_turn(key, &told).await? {
            Kept::First => self.keep_before(key, &turn).await,
            kept => Ok(kept),
        }
    }

    /// Archives what was stored before there was an archive; what another instance tells later is there then.
    async fn keep_before(&self, key: &SessionKey, turn: &ToldTurn) -> Result<Kept> {
        let before = turn.message_count.saturating_sub(turn.count as u64);
        let count = usize::try_from(before).unwrap_or(usize::MAX);
        let (Some(live), Some(page)) = (
            self.live.load(key).await?,
            self.live.messages(key, 0, count).await?,
        ) else {
            return Ok(Kept::Yes);
        };
        let created_ms = turn.created_ms;
        if live.session.created_ms != created_ms || page.session.created_ms != created_ms {
            return Ok(Kept::Yes);
        }
        let system = live.system.as_deref();
        self.archive
            .keep_messages(key, &live.session, live.version, system, &page.messages)
            .await?;
        if let Some(metadata) = &live.session.metadata {
            let metadata = serde_json::to_string(metadata).unwrap_or_default();
            let times = (created_ms, turn.used_ms);
            self.archive
                .keep_session(key, times, Some(&metadata))
                .await?;
        }
        if live.prefix.version == 0 {
            return Ok(Kept::Yes);
        }
        self.archive
            .keep_prefix(key, created_ms, &live.prefix)
            .await
    }

    /// The messages of a turn that are too long for a record; `None` if they are gone.
    async fn read_in_redis(
        &self,
        key: &SessionKey,
        turn: &ToldTurn,
    ) -> Result<Option<Vec<(Bytes, u32)>>> {
        let before = turn.message_count.saturating_sub(turn.count as u64);
        let page = self.live.messages(key, before, turn.count).await?;
        let same = page.filter(|page| {
            page.session.created_ms == turn.created_ms
                && page.messages.len() == turn.count
                && page
                    .messages
                    .iter()
                    .all(|message| message.turn == turn.version)
        });
        if same.is_none() {
            tracing::error!("a long turn of a session was lost on its way to the archive");
        }
        Ok(same.map(|page| {
            let messages = page.messages.into_iter();
            messages
                .map(|message| (message.json, message.tokens))
                .collect()
        }))
    }
}

#[async_trait]
impl Consumer for Archivist {
    fn lane(&self, record: &[u8]) -> u64 {
        // Not the whole record is read: who it is of stands before what has changed.
        let head = record.windows(8).position(|at| at == b",\"what\":");
        let head = record
            .get(..head.unwrap_or(record.len()))
            .unwrap_or_default();
        BuildHasherDefault::<DefaultHasher>::default().hash_one(head)
    }

    async fn handle(&self, record: &[u8]) -> Result<(), Failure> {
        let record = Record::parse(record).map_err(|error| Failure::Refused(error.to_string()))?;
        let (key, own) = (record.key(), record.owner == self.pending.owner());
        if record.what == What::Started {
            if own {
                self.pending.started();
            }
            return Ok(());
        }
        let kept = match self.keep(&key, record.what).await {
            Err(error) if is_away(&error) => {
                return Err(Failure::Away {
                    reason: error.to_string(),
                    after: None,
                });
            }
            kept => kept,
        };
        if own {
            self.pending.done(&key);
        }
        match kept {
            Ok(Kept::Yes | Kept::First | Kept::Obsolete) => Ok(()),
            Ok(Kept::Forked) => Err(Failure::Refused(
                "another turn lies in its place: two copies of the session went on".into(),
            )),
            Err(error) => Err(Failure::Refused(error.to_string())),
        }
    }
}

fn is_away(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::SessionStoreUnavailable | ErrorKind::StoreUnavailable
    )
}
