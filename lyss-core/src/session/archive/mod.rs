//! Sessions in Redis, with the database as the archive that restores them.
//!
//! Redis is the working copy: a turn asks nothing else. Whatever it has stored is then told to the archive through an
//! outbox ([`record`]), so that neither a slow database nor a killed process costs an answer or a turn. When Redis may
//! have lost something ([`memory`]), what it misses is looked for in the archive and put back.
//!
//! What an archive cannot have yet is what other instances have not told it: a session that is restored in that moment
//! lacks their last turns. When these are told they find their place taken, and are set aside with an error in the log.

mod consumer;
mod memory;
mod pending;
mod record;
mod recovery;
#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use self::{
    consumer::Archivist,
    memory::Memory,
    pending::Pending,
    record::{Record, What},
    recovery::SETTLING,
};
use super::{DatabaseSessionStore, RedisSessionStore, SessionStore, now_ms};
use crate::{
    error::{ErrorKind, Result},
    spool::Outbox,
    types::{
        RequestId,
        session::{
            Appended, Begun, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage,
            Ticket, Turn, Version,
        },
    },
};

/// The outbox's topic.
pub(crate) const TOPIC: &str = "sessions";
/// How long a deletion waits for the archive; then it is left to the outbox.
const DELETION: Duration = Duration::from_secs(2);

type Metadata = serde_json::Map<String, serde_json::Value>;

/// A [`SessionStore`] in Redis with an archive in the database.
pub(crate) struct ArchivedSessionStore {
    live: Arc<RedisSessionStore>,
    archive: Arc<DatabaseSessionStore>,
    outbox: Arc<Outbox>,
    pending: Arc<Pending>,
    memory: Arc<Memory>,
}

impl ArchivedSessionStore {
    /// The store, and the task that keeps the archive; there must be one a topic.
    pub fn new(
        live: RedisSessionStore,
        archive: DatabaseSessionStore,
        outbox: Arc<Outbox>,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let live = Arc::new(live.with_archive());
        let archive = Arc::new(archive);
        let pending = Arc::new(Pending::new(Uuid::new_v4()));
        let memory = Arc::new(Memory::new(
            Arc::clone(&live),
            Arc::clone(&archive),
            Arc::clone(&pending),
        ));
        let archivist = Archivist::new(
            Arc::clone(&live),
            Arc::clone(&archive),
            Arc::clone(&pending),
        );
        let handing_over = outbox.consume(Arc::new(archivist));
        let watching = Arc::clone(&memory).watch();
        let store = Self {
            live,
            archive,
            outbox,
            pending,
            memory,
        };
        store.tell_start();
        let task = async move {
            tokio::join!(handing_over, watching);
        };
        (store, task)
    }

    /// What dead processes left is handed over before this process's first record: when that has come through, the
    /// archive is as far as this machine can make it.
    fn tell_start(&self) {
        let told = record::start(self.pending.owner());
        if self.outbox.push(&told).is_err() {
            self.pending.started();
        }
    }

    /// Tells the archive. What cannot be told is counted and logged by the outbox.
    fn tell(&self, key: &SessionKey, what: What) {
        let record = Record::new(self.pending.owner(), key, what);
        let Some(bytes) = record.to_bytes() else {
            tracing::error!("a session's change cannot be written for the archive");
            return;
        };
        self.pending.add(key);
        if self.outbox.push(&bytes).is_err() {
            self.pending.done(key);
        }
    }

    /// Tells the archive that a session lives on, if an eighth of its life is over: what is told of turns says the same.
    fn used(&self, key: &SessionKey, session: &Session) {
        let used_ms = now_ms();
        let life = self.live.ttl_ms();
        if used_ms.saturating_sub(session.last_activity_ms) > life / 8 {
            let created_ms = session.created_ms;
            self.tell(
                key,
                What::Used {
                    created_ms,
                    used_ms,
                },
            );
        }
    }

    async fn try_append(
        &self,
        key: &SessionKey,
        turn: &Turn,
        expected: Version,
    ) -> Result<Appended> {
        let Some(stored) = self.live.append_turn(key, turn, expected).await? else {
            return Ok(Appended::Deleted);
        };
        let version = stored.version;
        self.tell(key, What::turn(turn, stored));
        Ok(Appended::At(version))
    }
}

#[async_trait]
impl SessionStore for ArchivedSessionStore {
    async fn create(&self, key: &SessionKey, metadata: Option<Metadata>) -> Result<Session> {
        if self.live.get(key).await?.is_none() {
            self.recover(key).await?;
        }
        let session = self.live.create(key, metadata).await?;
        if session.message_count == 0 {
            self.tell(key, What::created(&session));
        }
        self.used(key, &session);
        Ok(session)
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        match self.live.get(key).await? {
            None if self.recover(key).await? => self.live.get(key).await,
            found => Ok(found),
        }
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let found = self.live.load(key).await?;
        self.made_sure(key, found).await
    }

    async fn begin_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<Begun> {
        Ok(match self.live.begin_turn(key, ticket).await? {
            Begun::Granted(found) => {
                let loaded = self.made_sure(key, found.map(|found| *found)).await?;
                Begun::Granted(loaded.map(Box::new))
            }
            begun => begun,
        })
    }

    async fn renew_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<bool> {
        self.live.renew_turn(key, ticket).await
    }

    async fn end_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<()> {
        self.live.end_turn(key, ticket).await
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        match self.try_append(key, turn, expected).await {
            // Redis may have lost the session under the turn.
            Err(error)
                if error.kind() == ErrorKind::SessionConflict
                    && expected > 0
                    && self.live.get(key).await?.is_none()
                    && self.recover(key).await? =>
            {
                self.try_append(key, turn, expected).await
            }
            stored => stored,
        }
    }

    async fn begin_compression(
        &self,
        key: &SessionKey,
        by: RequestId,
        lease: Duration,
    ) -> Result<bool> {
        self.live.begin_compression(key, by, lease).await
    }

    async fn compress(&self, key: &SessionKey, prefix: &Prefix, by: RequestId) -> Result<bool> {
        let Some(created_ms) = self.live.replace_prefix(key, prefix, by).await? else {
            return Ok(false);
        };
        self.tell(key, What::compressed(created_ms, prefix));
        Ok(true)
    }

    async fn end_compression(&self, key: &SessionKey, by: RequestId) -> Result<()> {
        self.live.end_compression(key, by).await
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        match self.live.messages(key, after, limit).await? {
            None if self.recover(key).await? => self.live.messages(key, after, limit).await,
            found => Ok(found),
        }
    }

    /// While Redis may lack sessions the archive lists them, if it can.
    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        if self.memory.may_have_lost().await? && self.pending.settled_of(user_id, SETTLING).await {
            match self.archive.list(user_id, cursor, limit).await {
                Err(error) if error.kind() == ErrorKind::SessionStoreUnavailable => {}
                page => return page,
            }
        }
        self.live.list(user_id, cursor, limit).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        let (found, at_ms) = self.live.remove(key).await?;
        let existed = found || {
            let archived = tokio::time::timeout(DELETION, self.archive.get(key)).await;
            matches!(archived, Ok(Ok(Some(_))))
        };
        self.tell(key, What::Deleted { at_ms });
        // Also at once: whoever misses the session must not find it in the archive.
        let _ = tokio::time::timeout(DELETION, self.archive.keep_deletion(key, at_ms)).await;
        Ok(existed)
    }

    async fn sweep(&self) -> Result<u64> {
        self.archive.sweep().await
    }

    async fn ping(&self) -> Result<()> {
        self.live.ping().await
    }
}
