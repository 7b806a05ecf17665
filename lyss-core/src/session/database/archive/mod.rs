//! The tables as archive of sessions that live elsewhere: what is written is told after the fact, maybe twice, and turns
//! of different instances maybe not in the order in which they were made. A message lies at its place from the start;
//! the header is the newest turn's.

mod rows;

use std::collections::HashSet;

use bytes::Bytes;

use super::{
    DatabaseSessionStore, guarded, now_ms,
    rows::MessageRow,
    transaction::{Transaction, on},
    write::{NewMessage, insert_messages, numbered},
};
use crate::{
    database::{Pool, QueryResult},
    error::{Error, ErrorKind, Result},
    types::session::{LoadedSession, Prefix, Session, SessionKey, StoredMessage},
};

/// A session as the archive has it, complete.
pub(in crate::session) struct Archived {
    /// With all messages, those before the prefix as well.
    pub session: LoadedSession,
    /// The request of its last turn.
    pub last_request: Option<String>,
}

/// A turn as it was stored.
pub(in crate::session) struct StoredTurn<'a> {
    /// When the session was made: tells it from others under its id.
    pub created_ms: i64,
    pub used_ms: i64,
    /// The version that the turn made.
    pub version: u64,
    /// The request that made it, and that of the turn before.
    pub request: &'a str,
    pub after: Option<&'a str>,
    /// Messages and tokens of the session, this turn included.
    pub message_count: u64,
    pub token_count: u64,
    pub history: &'a str,
    pub system: Option<&'a [u8]>,
    pub messages: &'a [(Bytes, u32)],
}

/// What became of something that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Kept {
    /// It is in the archive, now or already.
    Yes,
    /// So it is, and nothing of the session was there before, though it is not its first turn.
    First,
    /// The session is deleted, over or another one by now.
    Obsolete,
    /// Another turn lies in its place: two copies of the session went on.
    Forked,
}

/// reference, version, created, last request.
type SessionRow = (i64, i64, i64, Option<String>);

impl DatabaseSessionStore {
    /// The session, complete.
    ///
    /// # Errors
    /// `session_store_unavailable` also while turns of it are still on their way here.
    pub(in crate::session) async fn fetch(&self, key: &SessionKey) -> Result<Option<Archived>> {
        let Some((stored, context)) = self.find_whole(key).await? else {
            return Ok(None);
        };
        let messages = match self.page(&stored, 0, usize::MAX).await {
            Ok(Some(messages)) => messages,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::SessionCorrupt => {
                return Err(Error::new(
                    ErrorKind::SessionStoreUnavailable,
                    "turns of this session are not in the archive yet",
                )
                .with_source(error));
            }
            Err(error) => return Err(error),
        };
        Ok(Some(Archived {
            session: LoadedSession {
                session: stored.session,
                version: stored.version,
                history: context.history,
                system: context.system,
                prefix: context.prefix,
                messages,
            },
            last_request: context.last_request,
        }))
    }

    /// Creation and version of the session, and until when one of its id counts as deleted.
    pub(in crate::session) async fn newest(
        &self,
        key: &SessionKey,
    ) -> Result<(Option<(i64, u64)>, i64)> {
        const SQL: &str = "SELECT at_ms FROM session_deletions WHERE user_id = $1 AND id = $2";
        let deleted: Option<i64> = guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query_scalar(SQL)
                .bind(&key.user_id)
                .bind(&key.id)
                .fetch_optional(pool)
                .await)
        })
        .await?;
        let found = self.find(key).await?;
        Ok((
            found.map(|stored| (stored.session.created_ms, stored.version)),
            deleted.unwrap_or(i64::MIN),
        ))
    }

    /// Whether anything is in it.
    pub(in crate::session) async fn holds_sessions(&self) -> Result<bool> {
        const SQL: &str = "SELECT 1 FROM sessions WHERE expires_ms > $1 LIMIT 1";
        guarded(async {
            on!(Pool, &self.database.pool, |pool| Ok(sqlx::query(SQL)
                .bind(now_ms())
                .fetch_optional(pool)
                .await?
                .is_some()))
        })
        .await
    }

    /// Archives that a session was made.
    pub(in crate::session) async fn keep_session(
        &self,
        key: &SessionKey,
        (created_ms, used_ms): (i64, i64),
        metadata: Option<&str>,
    ) -> Result<Kept> {
        const SQL: &str = "UPDATE sessions SET metadata = $1 WHERE ref = $2";
        guarded(async {
            let mut transaction = Transaction::begin(&self.database).await?;
            let row = self
                .archived(&mut transaction, key, created_ms, used_ms)
                .await?;
            let Some((reference, ..)) = row else {
                return Ok(Kept::Obsolete);
            };
            on!(Transaction, &mut transaction, |transaction| sqlx::query(
                SQL
            )
            .bind(metadata)
            .bind(reference)
            .execute(&mut **transaction)
            .await
            .map(drop)?);
            transaction.commit().await?;
            Ok(Kept::Yes)
        })
        .await
    }

    /// Archives that a session was used, and lives on.
    pub(in crate::session) async fn keep_use(
        &self,
        key: &SessionKey,
        created_ms: i64,
        used_ms: i64,
    ) -> Result<Kept> {
        const SQL: &str = "UPDATE sessions SET expires_ms = $1
            WHERE user_id = $2 AND id = $3 AND created_ms = $4 AND expires_ms < $1";
        guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query(SQL)
                .bind(used_ms.saturating_add(self.ttl.ms))
                .bind(&key.user_id)
                .bind(&key.id)
                .bind(created_ms)
                .execute(pool)
                .await
                .map(|_| Kept::Yes))
        })
        .await
    }

    /// Archives a turn.
    pub(in crate::session) async fn keep_turn(
        &self,
        key: &SessionKey,
        turn: &StoredTurn<'_>,
    ) -> Result<Kept> {
        guarded(self.try_keep_turn(key, turn)).await
    }

    async fn try_keep_turn(&self, key: &SessionKey, turn: &StoredTurn<'_>) -> QueryResult<Kept> {
        let mut transaction = Transaction::begin(&self.database).await?;
        let row = self
            .archived(&mut transaction, key, turn.created_ms, turn.used_ms)
            .await?;
        let Some((reference, version, _, last_request)) = row else {
            return Ok(Kept::Obsolete);
        };
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let made = number(turn.version);
        let follows = made == version.saturating_add(1);
        if follows && version > 0 && last_request.as_deref() != turn.after {
            return Ok(Kept::Forked);
        }
        let last = number(turn.message_count);
        let before = last.saturating_sub(number(turn.messages.len() as u64));
        if made <= version {
            let there = transaction.messages_of(reference, before, last).await?;
            let same =
                |(row, (json, _)): (&MessageRow, &(Bytes, u32))| row.1 == made && row.3 == **json;
            if !there.is_empty() {
                let same =
                    there.len() == turn.messages.len() && there.iter().zip(turn.messages).all(same);
                return Ok(if same { Kept::Yes } else { Kept::Forked });
            }
        } else {
            transaction
                .head(
                    reference,
                    turn,
                    made,
                    turn.used_ms.saturating_add(self.ttl.ms),
                )
                .await?;
        }
        if let Some(system) = turn.system {
            transaction.prompt(reference, system, made).await?;
        }
        let messages = numbered(turn.messages, before, made);
        insert_messages(&mut transaction, reference, &messages).await?;
        transaction.commit().await?;
        Ok(if version == 0 && made > 1 {
            Kept::First
        } else {
            Kept::Yes
        })
    }

    /// Archives the messages of a session that are not there yet, and its prompt.
    pub(in crate::session) async fn keep_messages(
        &self,
        key: &SessionKey,
        session: &Session,
        version: u64,
        system: Option<&[u8]>,
        messages: &[StoredMessage],
    ) -> Result<Kept> {
        guarded(async {
            let mut transaction = Transaction::begin(&self.database).await?;
            let row = self
                .archived(&mut transaction, key, session.created_ms, now_ms())
                .await?;
            let Some((reference, ..)) = row else {
                return Ok(Kept::Obsolete);
            };
            if let Some(system) = system {
                let turn = version.cast_signed();
                transaction.prompt(reference, system, turn).await?;
            }
            let there = transaction.messages_of(reference, 0, i64::MAX).await?;
            let there: HashSet<i64> = there.iter().map(|row| row.0).collect();
            let missing: Vec<NewMessage<'_>> = messages
                .iter()
                .map(|m| {
                    (
                        m.seq.cast_signed(),
                        m.turn.cast_signed(),
                        m.tokens,
                        &m.json[..],
                    )
                })
                .filter(|(seq, ..)| !there.contains(seq))
                .collect();
            insert_messages(&mut transaction, reference, &missing).await?;
            transaction.commit().await?;
            Ok(Kept::Yes)
        })
        .await
    }

    /// Archives a prefix, unless there is a later one.
    pub(in crate::session) async fn keep_prefix(
        &self,
        key: &SessionKey,
        created_ms: i64,
        prefix: &Prefix,
    ) -> Result<Kept> {
        const SQL: &str =
            "UPDATE sessions SET prefix_version = $1, prefix_upto = $2, prefix_tokens = $3,
            summary = $4, summary_tokens = $5 WHERE ref = $6 AND prefix_version < $1";
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        guarded(async {
            let mut transaction = Transaction::begin(&self.database).await?;
            let row = self
                .archived(&mut transaction, key, created_ms, now_ms())
                .await?;
            let Some((reference, ..)) = row else {
                return Ok(Kept::Obsolete);
            };
            on!(Transaction, &mut transaction, |transaction| sqlx::query(
                SQL
            )
            .bind(number(prefix.version))
            .bind(number(prefix.upto))
            .bind(number(prefix.covered_tokens))
            .bind(prefix.summary.as_deref())
            .bind(i64::from(prefix.summary_tokens))
            .bind(reference)
            .execute(&mut **transaction)
            .await
            .map(drop)?);
            transaction.commit().await?;
            Ok(Kept::Yes)
        })
        .await
    }

    /// Archives that sessions of this id made until `at_ms` are deleted; says whether there was one.
    pub(in crate::session) async fn keep_deletion(
        &self,
        key: &SessionKey,
        at_ms: i64,
    ) -> Result<bool> {
        const MARK: &str =
            "INSERT INTO session_deletions (user_id, id, at_ms, expires_ms) VALUES ($1, $2, $3, $4)
            ON CONFLICT (user_id, id) DO UPDATE SET at_ms = excluded.at_ms, expires_ms = excluded.expires_ms
            WHERE session_deletions.at_ms < excluded.at_ms";
        const DELETE: &str =
            "DELETE FROM sessions WHERE user_id = $1 AND id = $2 AND created_ms <= $3
            RETURNING expires_ms";
        guarded(async {
            let mut transaction = Transaction::begin(&self.database).await?;
            transaction.lock_archive(self, key).await?;
            let expires: Option<i64> = on!(Transaction, &mut transaction, |transaction| {
                sqlx::query(MARK)
                    .bind(&key.user_id)
                    .bind(&key.id)
                    .bind(at_ms)
                    .bind(at_ms.saturating_add(self.ttl.ms))
                    .execute(&mut **transaction)
                    .await?;
                sqlx::query_scalar(DELETE)
                    .bind(&key.user_id)
                    .bind(&key.id)
                    .bind(at_ms)
                    .fetch_optional(&mut **transaction)
                    .await?
            });
            transaction.commit().await?;
            Ok(expires.is_some_and(|expires| expires > now_ms()))
        })
        .await
    }

    /// Removes what is remembered of deletions so old that nothing of those sessions can come any more.
    pub(super) async fn sweep_deletions(&self) -> QueryResult<()> {
        const SQL: &str = "DELETE FROM session_deletions WHERE expires_ms <= $1";
        on!(Pool, &self.database.pool, |pool| sqlx::query(SQL)
            .bind(now_ms())
            .execute(pool)
            .await
            .map(drop))
    }
}
