//! Sessions in the database, PostgreSQL or SQLite.
//!
//! Both take `$n` for a parameter, so that each statement stands here once. A turn is one transaction: the fence is the
//! `WHERE version = …` of an update, and only the new messages are written.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::QueryBuilder;

use super::{SessionStore, Ttl, conflict, corrupt, cursor::Cursor, now_ms};
use crate::{
    database::{Database, Pool, QueryResult, within},
    error::{Error, ErrorKind, Result},
    types::session::{
        Appended, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage,
        SessionStatus, StoredMessage, Turn, Version,
    },
};

/// How long one call may take: a turn waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rows of one statement: five parameters each, far below what either database takes.
const ROWS_AT_ONCE: usize = 1000;

type Metadata = serde_json::Map<String, serde_json::Value>;

/// Runs the same statements on whichever database it is; `$begin` opens a transaction that will write.
macro_rules! on {
    ($database:expr, |$pool:ident, $begin:ident| $body:expr) => {
        match &$database.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres($pool) => {
                #[allow(unused_variables)]
                let $begin = "BEGIN";
                $body
            }
            #[cfg(feature = "sqlite")]
            Pool::Sqlite($pool) => {
                // Takes the write lock now: one that is asked for later does not wait, but fails.
                #[allow(unused_variables)]
                let $begin = "BEGIN IMMEDIATE";
                $body
            }
        }
    };
}

/// A [`SessionStore`] in the database. Expired sessions are invisible at once; [`sweep`](Self::sweep) removes them.
#[derive(Debug)]
pub struct DatabaseSessionStore {
    database: Database,
    ttl: Ttl,
}

/// Columns of a session: ref, version, message_count, token_count, created_ms, last_activity_ms, expires_ms, id,
/// metadata, system.
type Row = (
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    String,
    Option<String>,
    Option<Vec<u8>>,
);

macro_rules! select {
    ($system:literal, $rest:literal) => {
        concat!(
            "SELECT ref, version, message_count, token_count, created_ms, last_activity_ms, expires_ms, id, metadata, ",
            $system,
            " FROM sessions WHERE ",
            $rest
        )
    };
}

/// seq, turn, tokens, json.
type MessageRow = (i64, i64, i64, Vec<u8>);

/// A session as the table has it.
struct Stored {
    reference: i64,
    version: Version,
    expires_ms: i64,
    session: Session,
    system: Option<Bytes>,
}

/// How an append ended.
enum Outcome {
    At(i64),
    Conflict,
}

impl DatabaseSessionStore {
    /// A store in a migrated database; sessions live for `ttl` after their last use.
    pub fn new(database: Database, ttl: Duration) -> Self {
        Self {
            database,
            ttl: Ttl::new(ttl),
        }
    }

    async fn find(&self, key: &SessionKey) -> Result<Option<Stored>> {
        const SQL: &str = select!("system", "user_id = $1 AND id = $2 AND expires_ms > $3");
        let row: Option<Row> = guarded(async {
            on!(self.database, |pool, _begin| sqlx::query_as(SQL)
                .bind(&key.user_id)
                .bind(&key.id)
                .bind(now_ms())
                .fetch_optional(pool)
                .await)
        })
        .await?;
        row.map(|row| Stored::parse(&key.user_id, row)).transpose()
    }

    /// Writes a new end of life down, if an eighth of it is gone.
    async fn renew(&self, stored: &Stored) -> Result<()> {
        const SQL: &str = "UPDATE sessions SET expires_ms = $1 WHERE ref = $2 AND expires_ms < $1";
        let now = now_ms();
        if !self.ttl.renewal_due(stored.expires_ms - now) {
            return Ok(());
        }
        guarded(async {
            on!(self.database, |pool, _begin| sqlx::query(SQL)
                .bind(now + self.ttl.ms)
                .bind(stored.reference)
                .execute(pool)
                .await
                .map(drop))
        })
        .await
    }

    /// Makes the session unless there is one; one that has expired gives way.
    async fn insert(&self, key: &SessionKey, metadata: Option<&str>) -> Result<()> {
        let now = now_ms();
        guarded(async {
            on!(self.database, |pool, begin| {
                let mut transaction = pool.begin_with(begin).await?;
                sqlx::query(DELETE_EXPIRED)
                    .bind(&key.user_id)
                    .bind(&key.id)
                    .bind(now)
                    .execute(&mut *transaction)
                    .await?;
                sqlx::query(INSERT)
                    .bind(&key.user_id)
                    .bind(&key.id)
                    .bind(now)
                    .bind(now + self.ttl.ms)
                    .bind(metadata)
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await
            })
        })
        .await
    }

    async fn read_messages(
        &self,
        reference: i64,
        after: i64,
        limit: i64,
    ) -> Result<Vec<StoredMessage>> {
        const SQL: &str = "SELECT seq, turn, tokens, json FROM session_messages
            WHERE session_ref = $1 AND seq > $2 ORDER BY seq LIMIT $3";
        let rows: Vec<MessageRow> = guarded(async {
            on!(self.database, |pool, _begin| sqlx::query_as(SQL)
                .bind(reference)
                .bind(after)
                .bind(limit)
                .fetch_all(pool)
                .await)
        })
        .await?;
        rows.into_iter().map(message).collect()
    }

    /// The messages of a session after a position, at most so many. `None` if the session is gone by now.
    async fn page(
        &self,
        stored: &Stored,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<StoredMessage>>> {
        let total = stored.session.message_count;
        // What was appended after the header was read is not part of this read.
        let wanted = total.saturating_sub(after).min(limit as u64);
        if wanted == 0 {
            return Ok(Some(Vec::new()));
        }
        let messages = self
            .read_messages(stored.reference, after.cast_signed(), wanted.cast_signed())
            .await?;
        if messages.len() as u64 == wanted {
            return Ok(Some(messages));
        }
        const SQL: &str = "SELECT COUNT(*) FROM sessions WHERE ref = $1";
        let there: i64 = guarded(async {
            on!(self.database, |pool, _begin| sqlx::query_scalar(SQL)
                .bind(stored.reference)
                .fetch_one(pool)
                .await)
        })
        .await?;
        if there == 0 {
            return Ok(None);
        }
        Err(corrupt("messages are missing"))
    }

    async fn try_append(
        &self,
        key: &SessionKey,
        turn: &Turn,
        expected: Version,
    ) -> QueryResult<Outcome> {
        let Ok(expected) = i64::try_from(expected) else {
            return Ok(Outcome::Conflict);
        };
        let request = turn.request_id.to_string();
        let count = i64::try_from(turn.messages.len()).unwrap_or(i64::MAX);
        let tokens: i64 = turn.messages.iter().map(|(_, n)| i64::from(*n)).sum();
        let now = now_ms();
        let expires = now + self.ttl.ms;
        on!(self.database, |pool, begin| {
            let mut transaction = pool.begin_with(begin).await?;
            let mut created = false;
            let (reference, version, total) = loop {
                let row: Option<(i64, i64, i64)> = sqlx::query_as(UPDATE)
                    .bind(&key.user_id)
                    .bind(&key.id)
                    .bind(expected)
                    .bind(now)
                    .bind(expires)
                    .bind(&request)
                    .bind(count)
                    .bind(tokens)
                    .bind(turn.system.as_deref())
                    .fetch_optional(&mut *transaction)
                    .await?;
                if let Some(row) = row {
                    break row;
                }
                // Not at this version, or this turn already, or not there.
                let row: Option<(i64, i64, Option<String>)> = sqlx::query_as(STATE)
                    .bind(&key.user_id)
                    .bind(&key.id)
                    .bind(now)
                    .fetch_optional(&mut *transaction)
                    .await?;
                match row {
                    Some((reference, version, last)) if last.as_ref() == Some(&request) => {
                        sqlx::query("UPDATE sessions SET expires_ms = $1 WHERE ref = $2")
                            .bind(expires)
                            .bind(reference)
                            .execute(&mut *transaction)
                            .await?;
                        transaction.commit().await?;
                        return Ok(Outcome::At(version));
                    }
                    Some((_, version, _)) if version < 0 => return Ok(Outcome::At(version)),
                    None if expected == 0 && !created => {
                        created = true;
                        sqlx::query(DELETE_EXPIRED)
                            .bind(&key.user_id)
                            .bind(&key.id)
                            .bind(now)
                            .execute(&mut *transaction)
                            .await?;
                        // Waits for another instance that is making the same session.
                        sqlx::query(INSERT)
                            .bind(&key.user_id)
                            .bind(&key.id)
                            .bind(now)
                            .bind(expires)
                            .bind(None::<&str>)
                            .execute(&mut *transaction)
                            .await?;
                    }
                    _ => return Ok(Outcome::Conflict),
                }
            };
            let mut seq = total - count;
            for chunk in turn.messages.chunks(ROWS_AT_ONCE) {
                let mut insert = QueryBuilder::new(
                    "INSERT INTO session_messages (session_ref, seq, turn, tokens, json) ",
                );
                insert.push_values(chunk, |mut row, (json, tokens)| {
                    seq += 1;
                    row.push_bind(reference)
                        .push_bind(seq)
                        .push_bind(version)
                        .push_bind(i64::from(*tokens))
                        .push_bind(&json[..]);
                });
                insert.build().execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(Outcome::At(version))
        })
    }
}

const DELETE_EXPIRED: &str =
    "DELETE FROM sessions WHERE user_id = $1 AND id = $2 AND expires_ms <= $3";

const INSERT: &str =
    "INSERT INTO sessions (user_id, id, version, message_count, token_count, created_ms,
    last_activity_ms, expires_ms, metadata) VALUES ($1, $2, 0, 0, 0, $3, $3, $4, $5)
    ON CONFLICT (user_id, id) DO NOTHING";

const UPDATE: &str = "UPDATE sessions SET version = version + 1, message_count = message_count + $7,
    token_count = token_count + $8, expires_ms = $5, last_request = $6, system = COALESCE($9, system),
    last_activity_ms = CASE WHEN last_activity_ms > $4 THEN last_activity_ms ELSE $4 END
    WHERE user_id = $1 AND id = $2 AND version = $3 AND expires_ms > $4
    AND (last_request IS NULL OR last_request <> $6)
    RETURNING ref, version, message_count";

const STATE: &str = "SELECT ref, version, last_request FROM sessions
    WHERE user_id = $1 AND id = $2 AND expires_ms > $3";

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

impl Stored {
    fn parse(user_id: &str, row: Row) -> Result<Self> {
        let (
            reference,
            version,
            messages,
            tokens,
            created_ms,
            last_activity_ms,
            expires_ms,
            id,
            metadata,
            system,
        ) = row;
        let count = |number: i64| {
            u64::try_from(number).map_err(|_| corrupt("a count of the session is negative"))
        };
        let metadata = metadata
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|error| corrupt(format!("the metadata is not a JSON object: {error}")))?;
        Ok(Self {
            reference,
            version: count(version)?,
            expires_ms,
            session: Session {
                id,
                user_id: user_id.to_owned(),
                message_count: count(messages)?,
                token_count: count(tokens)?,
                created_ms,
                last_activity_ms,
                compressed_count: 0,
                status: SessionStatus::Active,
                metadata,
            },
            system: system.map(Bytes::from),
        })
    }
}

fn message((seq, turn, tokens, json): MessageRow) -> Result<StoredMessage> {
    let read = || {
        Some(StoredMessage {
            seq: seq.try_into().ok()?,
            turn: turn.try_into().ok()?,
            tokens: tokens.try_into().ok()?,
            json: Bytes::from(json),
        })
    };
    read().ok_or_else(|| corrupt("a number of a message is out of range"))
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
            self.insert(key, metadata.as_deref()).await?;
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
        let Some(stored) = self.find(key).await? else {
            return Ok(None);
        };
        let Some(messages) = self.page(&stored, 0, usize::MAX).await? else {
            return Ok(None);
        };
        self.renew(&stored).await?;
        Ok(Some(LoadedSession {
            session: stored.session,
            version: stored.version,
            history: String::new(),
            system: stored.system,
            prefix: Prefix::default(),
            messages,
        }))
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        match guarded(self.try_append(key, turn, expected)).await? {
            Outcome::At(version) => u64::try_from(version)
                .map(Appended::At)
                .map_err(|_| corrupt("the version is negative")),
            Outcome::Conflict => Err(conflict()),
        }
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

    /// A session that cannot be read is left out, and logged.
    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        const SQL: &str = select!(
            "CAST(NULL AS BYTEA)",
            "user_id = $1 AND expires_ms > $2 AND (last_activity_ms < $3 OR (last_activity_ms = $3 AND id < $4))
             ORDER BY last_activity_ms DESC, id DESC LIMIT $5"
        );
        let limit = limit.max(1);
        let (activity_ms, id) = match cursor.map(Cursor::decode).transpose()? {
            Some(cursor) => (cursor.activity_ms, cursor.id),
            None => (i64::MAX, String::new()),
        };
        let rows: Vec<Row> = guarded(async {
            on!(self.database, |pool, _begin| sqlx::query_as(SQL)
                .bind(user_id)
                .bind(now_ms())
                .bind(activity_ms)
                .bind(&id)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
                .fetch_all(pool)
                .await)
        })
        .await?;
        let more = rows.len() > limit;
        let mut sessions = Vec::with_capacity(rows.len());
        let mut last = None;
        for row in rows.into_iter().take(limit) {
            last = Some(Cursor {
                activity_ms: row.5,
                id: row.7.clone(),
            });
            match Stored::parse(user_id, row) {
                Ok(stored) => sessions.push(stored.session),
                Err(error) => tracing::warn!(?error, "a session is left out of a listing"),
            }
        }
        Ok(SessionPage {
            sessions,
            next_cursor: last.filter(|_| more).map(|cursor| cursor.encode()),
        })
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        const SQL: &str =
            "DELETE FROM sessions WHERE user_id = $1 AND id = $2 RETURNING expires_ms";
        let expires: Option<i64> = guarded(async {
            on!(self.database, |pool, _begin| sqlx::query_scalar(SQL)
                .bind(&key.user_id)
                .bind(&key.id)
                .fetch_optional(pool)
                .await)
        })
        .await?;
        Ok(expires.is_some_and(|expires| expires > now_ms()))
    }

    async fn sweep(&self) -> Result<u64> {
        const SQL: &str = "DELETE FROM sessions WHERE ref IN
            (SELECT ref FROM sessions WHERE expires_ms <= $1 ORDER BY expires_ms LIMIT 500)";
        let mut swept = 0;
        loop {
            let batch = guarded(async {
                on!(self.database, |pool, _begin| sqlx::query(SQL)
                    .bind(now_ms())
                    .execute(pool)
                    .await
                    .map(|done| done.rows_affected()))
            })
            .await?;
            swept += batch;
            if batch < 500 {
                return Ok(swept);
            }
        }
    }

    async fn ping(&self) -> Result<()> {
        guarded(async {
            on!(self.database, |pool, _begin| sqlx::query("SELECT 1")
                .execute(pool)
                .await
                .map(drop))
        })
        .await
    }
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use super::*;
    use crate::{
        database::testing,
        session::SharedSessionStore,
        testing::conformance::session_store::{self as promises, fresh_key, turn},
    };

    async fn conforms(database: Database) {
        promises::run_all(async |ttl| {
            Arc::new(DatabaseSessionStore::new(database.clone(), ttl)) as SharedSessionStore
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_promises_on_postgres() {
        conforms(testing::postgres().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_promises_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        conforms(testing::sqlite(directory.path()).await).await;
    }

    async fn execute(database: &Database, sql: &'static str) {
        on!(database, |pool, _begin| {
            sqlx::raw_sql(sql).execute(pool).await.unwrap();
        });
    }

    async fn count(database: &Database, sql: &'static str) -> i64 {
        on!(database, |pool, _begin| sqlx::query_scalar(sql)
            .fetch_one(pool)
            .await
            .unwrap())
    }

    async fn damaged_swept_and_cheap(database: Database) {
        let store = DatabaseSessionStore::new(database.clone(), Duration::from_secs(600));
        promises::damage_is_reported_and_left(
            &store,
            async |_| execute(&database, "UPDATE sessions SET version = -1").await,
            async |key| {
                let sql = "SELECT version, message_count, last_request FROM sessions WHERE id = $1";
                let row: (i64, i64, String) = on!(database, |pool, _begin| sqlx::query_as(sql)
                    .bind(&key.id)
                    .fetch_one(pool)
                    .await
                    .unwrap());
                vec![format!("{row:?}").into_bytes()]
            },
        )
        .await;
        let key = fresh_key("s");
        let corrupt = ErrorKind::SessionCorrupt;
        for sql in [
            "DELETE FROM session_messages WHERE seq = 1",
            "UPDATE session_messages SET tokens = -1",
            "UPDATE sessions SET metadata = '[1]'",
        ] {
            store.append(&key, &turn(&["a", "b"]), 0).await.unwrap();
            execute(&database, sql).await;
            let error = store.load(&key).await.unwrap_err();
            assert_eq!(error.kind(), corrupt, "{sql}");
            store.delete(&key).await.unwrap();
        }

        // An append writes its own messages and touches one session row, however long the history.
        store.append(&key, &turn(&["x"; 2500]), 0).await.unwrap();
        execute(&database, "UPDATE session_messages SET tokens = 77").await;
        store.append(&key, &turn(&["y", "z"]), 1).await.unwrap();
        let rows = "SELECT COUNT(*) FROM session_messages WHERE tokens = 77";
        assert_eq!(count(&database, rows).await, 2500);
        let rows = "SELECT COUNT(*) FROM session_messages WHERE turn = 2 AND seq IN (2501, 2502)";
        assert_eq!(count(&database, rows).await, 2);

        let brief = DatabaseSessionStore::new(database.clone(), Duration::from_millis(1));
        for n in 0..600 {
            let key = fresh_key(&n.to_string());
            brief.append(&key, &turn(&["a"]), 0).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let ended = "SELECT COUNT(*) FROM sessions WHERE id <> 's'";
        assert_eq!(count(&database, ended).await, 600);
        assert_eq!(brief.sweep().await.unwrap(), 600);
        assert_eq!(count(&database, ended).await, 0);
        let rows = "SELECT COUNT(*) FROM session_messages WHERE session_ref NOT IN (SELECT ref FROM sessions)";
        assert_eq!(count(&database, rows).await, 0);
        assert!(store.get(&key).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn damage_sweep_and_cost_on_postgres() {
        damaged_swept_and_cheap(testing::postgres().await).await;
    }

    #[tokio::test]
    async fn damage_sweep_and_cost_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        damaged_swept_and_cheap(testing::sqlite(directory.path()).await).await;
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_an_error_and_no_empty_session() {
        let source =
            crate::database::DatabaseSource::PostgresUrl("postgres://lyss@127.0.0.1:1/lyss".into());
        let database = Database::open(source, 1).unwrap();
        let store = DatabaseSessionStore::new(database, Duration::from_secs(60));
        let error = store.load(&fresh_key("s")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionStoreUnavailable);
    }
}
