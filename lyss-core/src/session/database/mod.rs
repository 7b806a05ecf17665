//! Sessions in the database, PostgreSQL or SQLite.
//!
//! | table | one row is |
//! | --- | --- |
//! | `sessions` | a session: owner, `version` (the fence), counts, times, system prompt, metadata, the prefix |
//! | `session_messages` | a message; it goes with its session |
//! | `session_turns` | a session in which a turn runs or waits |
//!
//! A turn is stored in one transaction: the fence is the `WHERE version = …` of an update, and only the new messages
//! are written. Rows are locked in the order turn, session.

#[cfg(feature = "redis")]
mod archive;
mod dialect;
mod read;
mod rows;
#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests;
mod turns;
mod write;

use std::time::Duration;

use async_trait::async_trait;

#[cfg(feature = "redis")]
pub(super) use self::archive::{Kept, StoredTurn};
use self::dialect::Dialect;
use super::{SessionStore, Ttl, conflict, now_ms, turns::Step};
use crate::{
    database::{
        Database, Pool, QueryResult,
        transaction::{self, on},
        within,
    },
    error::{Error, ErrorKind, Result},
    types::{
        RequestId,
        session::{
            Appended, Begun, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage,
            Ticket, Turn, Version,
        },
    },
};

/// How long one call may take: a turn waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

type Metadata = serde_json::Map<String, serde_json::Value>;

/// A [`SessionStore`] in the database. Expired sessions are invisible at once; [`sweep`](Self::sweep) removes them.
pub struct DatabaseSessionStore {
    database: Database,
    dialect: &'static Dialect,
    ttl: Ttl,
}

impl DatabaseSessionStore {
    /// A store in a migrated database; sessions live for `ttl` after their last use.
    pub fn new(database: Database, ttl: Duration) -> Self {
        Self {
            dialect: Dialect::of(&database),
            database,
            ttl: Ttl::new(ttl),
        }
    }
}

/// Awaits a query; a database that fails is the session store's failure.
async fn guarded<T>(query: impl Future<Output = QueryResult<T>>) -> Result<T> {
    within(PATIENCE, query).await.map_err(|error| {
        if error.kind() != ErrorKind::StoreUnavailable {
            return error;
        }
        Error::new(
            ErrorKind::SessionStoreUnavailable,
            "the database, which keeps the sessions, is not available",
        )
        .with_source(error)
    })
}

#[async_trait]
impl SessionStore for DatabaseSessionStore {
    async fn create(&self, key: &SessionKey, metadata: Option<Metadata>) -> Result<Session> {
        let metadata = metadata
            .map(|metadata| serde_json::to_string(&metadata))
            .transpose()
            .map_err(|error| {
                Error::invalid("metadata", "cannot be written as JSON").with_source(error)
            })?;
        // Between the two steps the session may be deleted; that it is so twice is not to be feared.
        for _ in 0..3 {
            if let Some(stored) = self.find(key).await? {
                self.renew(&stored).await?;
                return Ok(stored.session);
            }
            guarded(self.insert(key, metadata.as_deref())).await?;
        }
        Err(Error::new(
            ErrorKind::SessionConflict,
            "the session is deleted whenever it is made",
        ))
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        Ok(self.find(key).await?.map(|stored| stored.session))
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        self.read(key).await
    }

    async fn begin_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<Begun> {
        Ok(match self.ask(key, ticket).await? {
            Step::Granted => Begun::Granted(self.read(key).await?.map(Box::new)),
            Step::Waiting => Begun::Waiting,
            Step::Busy => Begun::Busy,
        })
    }

    async fn renew_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<bool> {
        guarded(self.renew_in_row(key, ticket)).await
    }

    async fn end_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<()> {
        guarded(self.end_in_row(key, ticket)).await
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        self.append_turn(key, turn, expected).await
    }

    async fn begin_compression(
        &self,
        key: &SessionKey,
        by: RequestId,
        lease: Duration,
    ) -> Result<bool> {
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 2);
        guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query(
                self.dialect.begin_compression
            )
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(now_ms())
            .bind(by.to_string())
            .bind(lease_ms)
            .execute(pool)
            .await
            .map(|done| done.rows_affected() == 1))
        })
        .await
    }

    async fn compress(&self, key: &SessionKey, prefix: &Prefix, by: RequestId) -> Result<bool> {
        if guarded(self.replace_prefix(key, prefix, by)).await? {
            return Ok(true);
        }
        self.end_compression(key, by).await?;
        Ok(false)
    }

    async fn end_compression(&self, key: &SessionKey, by: RequestId) -> Result<()> {
        const SQL: &str = "UPDATE sessions SET compressing_by = NULL, compressing_until_ms = NULL
            WHERE user_id = $1 AND id = $2 AND compressing_by = $3";
        guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query(SQL)
                .bind(&key.user_id)
                .bind(&key.id)
                .bind(by.to_string())
                .execute(pool)
                .await
                .map(drop))
        })
        .await
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        let Some(stored) = self.find(key).await? else {
            return Ok(None);
        };
        let messages = self.page(&stored, after, limit).await?;
        Ok(messages.map(|messages| MessagePage {
            session: stored.session,
            messages,
        }))
    }

    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        self.page_of_sessions(user_id, cursor, limit).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        let expires = guarded(self.remove(key)).await?;
        Ok(expires.is_some_and(|expires| expires > now_ms()))
    }

    async fn sweep(&self) -> Result<u64> {
        guarded(self.sweep_turns()).await?;
        #[cfg(feature = "redis")]
        guarded(self.sweep_deletions()).await?;
        let mut swept = 0;
        loop {
            let (batch, more) = guarded(self.sweep_sessions()).await?;
            swept += batch;
            if !more {
                return Ok(swept);
            }
        }
    }

    async fn ping(&self) -> Result<()> {
        guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query("SELECT 1")
                .execute(pool)
                .await
                .map(drop))
        })
        .await
    }
}
